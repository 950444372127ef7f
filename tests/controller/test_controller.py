"""The controller with replicas that answer over real sockets: deploying, failing, updating, adopting, deleting."""

from __future__ import annotations

import asyncio
import time

import pytest

from headrace.engine.resources import Machine
from headrace.exceptions import ConfigError

from .conftest import Instance, until
from .fakes import application, deployment


async def test_a_deployed_application_becomes_running_and_is_routed_to(instance: Instance) -> None:
    instance.controller.deploy([application(deployment(num_replicas=2))])
    status = await instance.until_status("HEALTHY")
    assert status.status_trigger == "CONFIG_UPDATE_COMPLETED"
    assert status.replica_states == {"RUNNING": 2}
    assert instance.app().status == "RUNNING"
    assert len(instance.targets().replicas) == 2 and instance.targets().retryable_methods == ["get"]
    assert instance.routes() == {"/": "app#Model"}
    assert {r.spec.rank for r in instance.engine.started if r.spec} == {0, 1}


async def test_deploying_the_same_again_changes_nothing(instance: Instance) -> None:
    instance.controller.deploy([application()])
    await instance.until_status("HEALTHY")
    instance.controller.deploy([application()])
    assert instance.status().status == "HEALTHY"
    await asyncio.sleep(0.05)
    assert len(instance.engine.started) == 1


async def test_a_failing_constructor_is_told_of_at_once_and_given_up_in_the_end(instance: Instance) -> None:
    instance.controller.deploy([application(deployment(code=b"raise"))])
    await until(lambda: "no such model" in instance.status().message)
    assert instance.status().status == "UPDATING"
    assert "more tries" in instance.status().message
    status = await instance.until_status("DEPLOY_FAILED")
    assert status.status_trigger == "REPLICA_STARTUP_FAILED"
    assert len(instance.engine.started) == 3
    assert instance.app().status == "DEPLOY_FAILED" and "no such model" in instance.app().message
    assert "no such model" in str(instance.targets().unavailable)


async def test_deploying_again_gives_a_failed_application_another_try(instance: Instance) -> None:
    instance.controller.deploy([application(deployment(code=b"raise"))])
    await instance.until_status("DEPLOY_FAILED")
    instance.controller.deploy([application(deployment(code=b"ok", version="v2"))])
    await instance.until_status("HEALTHY")
    assert instance.targets().unavailable is None


async def test_a_dead_replica_is_replaced_within_a_second(instance: Instance) -> None:
    instance.controller.deploy([application(deployment(num_replicas=2))])
    await instance.until_status("HEALTHY")
    dead = instance.engine.serving[0]
    started = time.monotonic()
    await instance.engine.die(dead)
    await until(lambda: len(instance.engine.started) == 3 and len(instance.targets().replicas) == 2)
    assert time.monotonic() - started < 1.0
    assert dead.replica_id not in {r.replica_id for r in instance.targets().replicas}
    assert (await instance.until_status("HEALTHY")).status_trigger == "UNSPECIFIED"


async def test_a_replica_whose_health_check_fails_three_times_is_replaced(instance: Instance) -> None:
    instance.controller.deploy([application(deployment(code=b"unhealthy"))])
    first = await until(lambda: instance.engine.serving and instance.engine.serving[0])
    await until(lambda: first.process.name not in instance.engine.alive)
    await until(lambda: len(instance.engine.started) > 1)
    assert first.drained is not None


async def test_a_replica_whose_health_check_hangs_is_replaced(instance: Instance) -> None:
    instance.controller.deploy([application(deployment(code=b"hang"))])
    await until(lambda: len(instance.engine.started) > 1)


async def test_a_replica_whose_loop_is_blocked_is_busy_and_left_alone(instance: Instance) -> None:
    instance.controller.deploy([application(deployment(code=b"busy"))])
    await until(lambda: "busy" in instance.status().message)
    await asyncio.sleep(1.0)  # six more checks time out
    assert instance.status().status == "HEALTHY"
    assert len(instance.engine.started) == 1


async def test_an_update_starts_new_replicas_before_it_stops_old_ones(instance: Instance) -> None:
    instance.controller.deploy([application(deployment(num_replicas=3))])
    await instance.until_status("HEALTHY")
    old = {r.replica_id for r in instance.engine.serving}
    fewest: list[int] = []
    publish = instance.controller.hub.set

    def watched(key: str, value: object) -> bool:
        if key == "app#Model":
            fewest.append(len(value.replicas))  # type: ignore[attr-defined]
        return publish(key, value)  # type: ignore[arg-type]

    instance.controller.hub.set = watched  # type: ignore[method-assign]
    instance.engine.log.clear()
    instance.controller.deploy([application(deployment(num_replicas=3, version="v2"))])
    assert instance.status().status == "UPDATING"
    await until(lambda: instance.status().status == "HEALTHY" and len(instance.engine.alive) == 3)
    assert min(fewest) >= 3
    assert not old & {r.replica_id for r in instance.engine.serving}
    assert instance.engine.log[0][0] == "start"
    assert instance.engine.log.index(next(e for e in instance.engine.log if e[0] == "drain")) > 1


async def test_a_bad_update_leaves_the_old_replicas_serving_and_says_why(instance: Instance) -> None:
    instance.controller.deploy([application(deployment(num_replicas=2))])
    await instance.until_status("HEALTHY")
    old = {r.replica_id for r in instance.targets().replicas}
    instance.controller.deploy([application(deployment(num_replicas=2, code=b"raise", version="v2"))])
    status = await instance.until_status("DEPLOY_FAILED")
    assert "no such model" in status.message and "keep serving" in status.message
    assert {r.replica_id for r in instance.targets().replicas} == old
    assert instance.targets().unavailable is None


async def test_scaling_up_and_down_keeps_the_replicas_that_stay(instance: Instance) -> None:
    instance.controller.deploy([application(deployment(num_replicas=1))])
    await instance.until_status("HEALTHY")
    first = instance.engine.serving[0]
    instance.controller.deploy([application(deployment(num_replicas=3))])
    assert instance.status().status == "UPSCALING"
    assert (await instance.until_status("HEALTHY")).status_trigger == "UPSCALE_COMPLETED"
    assert len(instance.engine.serving) == 3
    instance.controller.deploy([application(deployment(num_replicas=1))])
    assert instance.status().status == "DOWNSCALING"
    assert (await instance.until_status("HEALTHY")).status_trigger == "DOWNSCALE_COMPLETED"
    await until(lambda: len(instance.engine.alive) == 1)
    assert instance.engine.serving == [first]


async def test_light_options_are_taken_on_without_a_restart(instance: Instance) -> None:
    instance.controller.deploy([application(deployment(user_config={"threshold": 1}))])
    await instance.until_status("HEALTHY")
    (replica,) = instance.engine.serving
    instance.controller.deploy(
        [application(deployment(user_config={"threshold": 2}, max_ongoing_requests=9, max_queued_requests=4))]
    )
    await until(lambda: replica.reconfigured)
    assert replica.reconfigured[0].user_config_changed
    assert replica.reconfigured[0].options["user_config"] == {"threshold": 2}
    await until(lambda: instance.targets().replicas[0].max_ongoing_requests == 9)
    assert instance.targets().max_queued_requests == 4
    assert (await instance.until_status("HEALTHY")).status_trigger == "CONFIG_UPDATE_COMPLETED"
    assert instance.engine.started == [replica]


async def test_a_user_config_that_replicas_refuse_is_told_of_and_they_keep_serving(instance: Instance) -> None:
    instance.controller.deploy([application(deployment(user_config="good"))])
    await instance.until_status("HEALTHY")
    instance.controller.deploy([application(deployment(user_config="refuse"))])
    status = await instance.until_status("DEPLOY_FAILED")
    assert "user_config refused" in status.message
    assert len(instance.targets().replicas) == 1 and len(instance.engine.started) == 1
    instance.controller.deploy([application(deployment(user_config="better"))])
    await instance.until_status("HEALTHY")


async def test_deleting_drains_before_it_ends_the_process(instance: Instance) -> None:
    instance.controller.deploy([application()])
    await instance.until_status("HEALTHY")
    (replica,) = instance.engine.serving
    replica.idle.clear()
    instance.controller.delete(["app"])
    assert instance.app().status == "DELETING"
    assert instance.routes() == {} and "deleted" in str(instance.targets().unavailable)
    await until(lambda: replica.drained is not None)
    assert instance.targets().replicas == []
    assert replica.process.name in instance.engine.alive, "a request is still in flight"
    replica.idle.set()
    await until(lambda: not instance.controller.application_statuses())
    assert not instance.engine.alive and not instance.engine.allocator.held
    assert "no application 'app'" in str(instance.targets().unavailable)


async def test_a_replica_that_never_becomes_idle_is_killed_after_the_graceful_timeout(instance: Instance) -> None:
    instance.controller.deploy([application(deployment(graceful_shutdown_timeout_s=0.1))])
    await instance.until_status("HEALTHY")
    instance.engine.serving[0].idle.clear()
    instance.controller.delete(["app"])
    await until(lambda: not instance.controller.application_statuses(), timeout_s=5)


async def test_deleting_an_unknown_application_names_the_nearest(instance: Instance) -> None:
    instance.controller.deploy([application(name="sentiment", route_prefix=None)])
    with pytest.raises(ConfigError, match="did you mean 'sentiment'"):
        instance.controller.delete(["sentimant"])


async def test_two_applications_cannot_have_one_route(instance: Instance) -> None:
    instance.controller.deploy([application(name="one", route_prefix="/a")])
    with pytest.raises(ConfigError, match="'/a' of application 'two' is the route of application 'one'"):
        instance.controller.deploy([application(name="two", route_prefix="/a")])
    assert [a.name for a in instance.controller.application_statuses()] == ["one"]
    instance.controller.deploy([application(name="one", route_prefix="/b"), application(name="two", route_prefix="/a")])
    assert instance.routes() == {"/b": "one#Model", "/a": "two#Model"}


async def test_replacing_one_application_leaves_the_others_alone(instance: Instance) -> None:
    for name in ("one", "two"):
        instance.controller.deploy([application(deployment(app=name), name=name, route_prefix=f"/{name}")])
        await instance.until_status("HEALTHY", app=name)
    two = {r.replica_id for r in instance.targets(app="two").replicas}
    instance.controller.deploy([application(deployment(app="one", version="v2"), name="one", route_prefix="/one")])
    await instance.until_status("HEALTHY", app="one")
    assert {r.replica_id for r in instance.targets(app="two").replicas} == two


async def test_a_deployment_that_an_update_drops_serves_until_its_successor_does(instance: Instance) -> None:
    instance.controller.deploy([application(deployment("Old"))])
    await instance.until_status("HEALTHY", "Old")
    instance.controller.deploy([application(deployment("New", code=b"slow"))])
    replica = await until(lambda: next((r for r in instance.engine.started if r.code == b"slow"), None))
    assert instance.routes() == {"/": "app#Old"} and instance.targets("Old").replicas
    replica.release.set()
    await instance.until_status("HEALTHY", "New")
    await until(lambda: instance.routes() == {"/": "app#New"} and len(instance.engine.alive) == 1)


@pytest.mark.parametrize("machine", [Machine(num_cpus=1.0, gpus=["0"])])
async def test_what_can_never_be_placed_fails_with_the_reason(instance: Instance) -> None:
    instance.controller.deploy([application(deployment(ray_actor_options={"num_gpus": 2}))])
    status = await instance.until_status("DEPLOY_FAILED")
    assert "2 GPUs" in status.message
    assert "2 GPUs" in str(instance.targets().unavailable)


@pytest.mark.parametrize("machine", [Machine(num_cpus=1.0, gpus=["0"])])
async def test_what_cannot_be_placed_now_says_what_it_waits_for_and_starts_when_there_is_room(
    instance: Instance,
) -> None:
    gpu = {"ray_actor_options": {"num_gpus": 1}}
    for name in ("one", "two"):
        instance.controller.deploy([application(deployment(app=name, **gpu), name=name, route_prefix=f"/{name}")])
    await instance.until_status("HEALTHY", app="one")
    await until(lambda: "Waiting for resources" in instance.status(app="two").message)
    assert instance.status(app="two").status == "UPDATING"
    instance.controller.delete(["one"])
    await instance.until_status("HEALTHY", app="two")


@pytest.mark.parametrize("machine", [Machine(num_cpus=1.0, gpus=["0"])])
async def test_without_room_for_a_second_replica_an_update_stops_the_old_one_first(instance: Instance) -> None:
    gpu = {"ray_actor_options": {"num_gpus": 1}}
    instance.controller.deploy([application(deployment(**gpu))])
    await instance.until_status("HEALTHY")
    instance.controller.deploy([application(deployment(version="v2", **gpu))])
    await until(lambda: instance.engine.serving and instance.engine.serving[0].process.args["version"] == "v2")
    await instance.until_status("HEALTHY")


async def test_a_new_controller_adopts_every_running_replica(instance: Instance) -> None:
    instance.controller.deploy(
        [application(deployment(num_replicas=2), deployment("Slow", code=b"slow"), deployment("Busy", code=b"busy"))]
    )
    await instance.until_status("HEALTHY")
    await until(lambda: "busy" in instance.status("Busy").message)
    slow = await until(lambda: next((r for r in instance.engine.started if r.code == b"slow"), None))
    before = set(instance.engine.alive)
    await instance.stop()
    await instance.start()
    assert set(instance.engine.alive) == before and len(instance.engine.started) == len(before)
    assert len(instance.targets().replicas) == 2 and instance.targets().retryable_methods == ["get"]
    assert len(instance.targets("Busy").replicas) == 1
    await instance.until_status("HEALTHY")
    slow.release.set()
    await instance.until_status("HEALTHY", "Slow")
    assert slow.initialized == 1
    assert set(instance.engine.alive) == before


async def test_a_new_controller_replaces_what_died_meanwhile_and_ends_what_nothing_wants(instance: Instance) -> None:
    instance.controller.deploy([application(deployment(num_replicas=2)), application(name="gone", route_prefix=None)])
    await instance.until_status("HEALTHY")
    await instance.until_status("HEALTHY", app="gone")
    await instance.stop()
    victim = next(r for r in instance.engine.serving if r.replica_id.startswith("app#"))
    await instance.engine.die(victim)
    from headrace.controller.store import Store

    store = Store(instance.folder / "state.db")
    store.remove("gone")
    store.close()
    await instance.start()
    await until(lambda: not any(r.replica_id.startswith("gone#") for r in instance.engine.alive.values()))
    await instance.until_status("HEALTHY")
    assert len(instance.engine.alive) == 2


async def test_a_new_controller_goes_on_with_a_deletion(instance: Instance) -> None:
    instance.controller.deploy([application()])
    await instance.until_status("HEALTHY")
    (replica,) = instance.engine.serving
    replica.idle.clear()
    instance.controller.delete(["app"])
    await until(lambda: replica.drained is not None)
    await instance.stop()
    await instance.start()
    assert instance.app().status == "DELETING"
    replica.idle.set()
    await until(lambda: not instance.controller.application_statuses())


async def test_a_given_up_version_is_not_tried_again_by_a_new_controller(instance: Instance) -> None:
    instance.controller.deploy([application(deployment(code=b"raise"))])
    await instance.until_status("DEPLOY_FAILED")
    await instance.stop()
    await instance.start()
    status = await instance.until_status("DEPLOY_FAILED")
    assert "no such model" in status.message and len(instance.engine.started) == 3


async def test_shutdown_drains_everything_and_then_ends_the_instance(instance: Instance) -> None:
    instance.controller.deploy([application()])
    await instance.until_status("HEALTHY")
    (replica,) = instance.engine.serving
    await instance.controller.shutdown()
    assert replica.drained is not None and not instance.engine.alive
    assert instance.engine.ended.is_set()


async def test_models_that_a_replica_reports_reach_the_routers(instance: Instance) -> None:
    instance.controller.deploy([application()])
    await instance.until_status("HEALTHY")
    (replica,) = instance.engine.serving
    instance.controller.report_models(replica.replica_id, ["fr", "de"])
    assert instance.targets().replicas[0].multiplexed_model_ids == ["fr", "de"]


async def test_an_unknown_deployment_is_unavailable_with_the_nearest_name(instance: Instance) -> None:
    instance.controller.deploy([application()])
    update = await instance.first_update("app#Modle")
    assert b"did you mean 'Model'" in bytes(update.value)

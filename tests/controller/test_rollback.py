"""The history of an application's deploys, and returning to an earlier one."""

from __future__ import annotations

from pathlib import Path

import httpx
import msgspec
import pytest

from headrace.config.spec import DeployRecord, PolicySpec
from headrace.controller.deploys import KEPT, changes, rollback_target, version_of
from headrace.controller.rest import RestApi
from headrace.controller.store import Store
from headrace.exceptions import ConfigError

from .conftest import Instance, until
from .fakes import application, deployment


def outcomes(instance: Instance) -> list[tuple[int, str]]:
    return [(deploy.number, deploy.outcome) for deploy in instance.controller.history("app").deploys]


async def deploy(instance: Instance, version: str, code: bytes = b"ok", **options: object) -> None:
    instance.controller.deploy([application(deployment(version=version, code=code, **options))])
    await until(lambda: outcomes(instance)[0][1] != "DEPLOYING")


async def test_every_deploy_is_remembered_with_what_became_of_it(instance: Instance) -> None:
    await deploy(instance, "v1")
    instance.controller.deploy([application(deployment(version="v2", code=b"slow"))])
    await deploy(instance, "v3", b"raise")
    assert outcomes(instance) == [(3, "FAILED"), (2, "REPLACED"), (1, "SUCCEEDED")]
    assert "no such model" in instance.controller.history("app").deploys[0].message


async def test_deploying_the_same_again_adds_nothing_to_the_history(instance: Instance) -> None:
    await deploy(instance, "v1")
    await deploy(instance, "v1")
    assert outcomes(instance) == [(1, "SUCCEEDED")]


async def test_trying_again_what_failed_is_a_deploy_of_its_own(instance: Instance) -> None:
    await deploy(instance, "v1", b"raise")
    await deploy(instance, "v1", b"raise")
    assert outcomes(instance) == [(2, "FAILED"), (1, "FAILED")]


async def test_after_a_failed_update_a_rollback_restarts_nothing(instance: Instance) -> None:
    await deploy(instance, "v1", num_replicas=2)
    old = {replica.replica_id for replica in instance.targets().replicas}
    await deploy(instance, "v2", b"raise", num_replicas=2)
    assert instance.controller.history("app").rollback_to == 1
    reply = instance.controller.rollback("app")
    assert (reply.to, reply.number) == (1, 3)
    assert (await instance.until_status("HEALTHY")).status_trigger == "CONFIG_UPDATE_COMPLETED"
    assert {replica.replica_id for replica in instance.targets().replicas} == old
    assert instance.controller.history("app").deploys[0].restores == 1


async def test_a_rollback_brings_back_options_and_code(instance: Instance) -> None:
    await deploy(instance, "v1", num_replicas=3, max_queued_requests=7)
    await deploy(instance, "v2", num_replicas=1)
    instance.controller.rollback("app")
    await instance.until_status("HEALTHY")
    await until(lambda: len(instance.engine.alive) == 3)
    assert {replica.process.args["version"] for replica in instance.engine.serving} == {"v1"}
    assert instance.targets().max_queued_requests == 7


async def test_rolling_back_again_goes_further_back_and_not_to_and_fro(instance: Instance) -> None:
    for version in ("v1", "v2", "v3"):
        await deploy(instance, version)
    assert instance.controller.rollback("app").to == 2
    await instance.until_status("HEALTHY")
    assert instance.controller.rollback("app").to == 1
    await instance.until_status("HEALTHY")
    await until(lambda: outcomes(instance)[0] == (5, "SUCCEEDED"))
    with pytest.raises(ConfigError, match=r"no deploy of application 'app' before number 1 .* with 'to': 4, 3, 2"):
        instance.controller.rollback("app")


async def test_a_rollback_to_a_number_that_is_asked_for_twice_happens_once(instance: Instance) -> None:
    await deploy(instance, "v1")
    await deploy(instance, "v2")
    assert instance.controller.rollback("app", 1) == instance.controller.rollback("app", 1)
    assert outcomes(instance)[0][0] == 3


async def test_a_number_that_is_not_in_the_history_is_refused_with_those_that_are(instance: Instance) -> None:
    await deploy(instance, "v1")
    with pytest.raises(ConfigError, match="has no deploy 9 in its history; there are 1"):
        instance.controller.rollback("app", 9)


async def test_an_application_that_nobody_deployed_cannot_be_rolled_back(instance: Instance) -> None:
    await deploy(instance, "v1")
    with pytest.raises(ConfigError, match="did you mean 'app'"):
        instance.controller.rollback("ap")


async def test_a_rollback_whose_route_is_taken_by_now_changes_nothing(instance: Instance) -> None:
    instance.controller.deploy([application(deployment(), route_prefix="/a")])
    await until(lambda: outcomes(instance)[0] == (1, "SUCCEEDED"))
    instance.controller.deploy([application(deployment(), route_prefix="/b")])
    await until(lambda: outcomes(instance)[0] == (2, "SUCCEEDED"))
    instance.controller.deploy([application(deployment(app="other"), name="other", route_prefix="/a")])
    with pytest.raises(ConfigError, match="'/a' of application 'app' is the route of application 'other'"):
        instance.controller.rollback("app")
    assert outcomes(instance)[0] == (2, "SUCCEEDED")


async def test_a_new_controller_knows_the_history_and_what_became_of_a_deploy_meanwhile(instance: Instance) -> None:
    await deploy(instance, "v1")
    instance.controller.deploy([application(deployment(version="v2", code=b"slow"))])
    slow = await until(lambda: next((r for r in instance.engine.started if r.code == b"slow"), None))
    await instance.stop()
    slow.release.set()
    await instance.start()
    await until(lambda: outcomes(instance) == [(2, "SUCCEEDED"), (1, "SUCCEEDED")])
    assert instance.controller.rollback("app").to == 1


async def test_a_config_that_replicas_refuse_is_a_failed_deploy(instance: Instance) -> None:
    await deploy(instance, "v1", user_config="good")
    await deploy(instance, "v1", user_config="refuse")
    assert outcomes(instance)[0][1] == "FAILED"
    instance.controller.rollback("app")
    await instance.until_status("HEALTHY")
    assert len(instance.engine.started) == 1


async def test_deleting_an_application_forgets_its_history(instance: Instance) -> None:
    await deploy(instance, "v1")
    instance.controller.delete(["app"])
    await until(lambda: not instance.controller.application_statuses())
    await deploy(instance, "v2")
    assert outcomes(instance) == [(1, "SUCCEEDED")]


async def test_history_and_rollback_over_rest(instance: Instance) -> None:
    await deploy(instance, "v1")
    await deploy(instance, "v2", num_replicas=2)

    transport = httpx.ASGITransport(app=RestApi(instance.controller, None).app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        path = "/api/headrace/applications/app"
        history = (await client.get(f"{path}/history")).json()
        assert history["rollback_to"] == 1
        assert history["deploys"][0]["changes"] == "Model: num_replicas 1 → 2, code"
        assert (await client.post(f"{path}/rollback", json={"too": 1})).status_code == 400
        assert (await client.post(f"{path}/rollback", json={"to": 7})).status_code == 400
        assert (await client.post("/api/headrace/applications/nope/rollback")).status_code == 404
        assert (await client.post(f"{path}/rollback")).json() == {"rolled_back_to": 1, "deploy": 3}


def test_the_store_keeps_the_last_deploys_and_the_last_good_one(tmp_path: Path) -> None:
    store = Store(tmp_path / "state.db")
    for number in range(1, KEPT + 6):
        store.put([application(deployment(version=f"v{number}"))], float(number), False)
        store.conclude_deploy("app", number, "SUCCEEDED" if number == 2 else "FAILED", "")
    numbers = [deploy.number for deploy in Store(tmp_path / "state.db").deploys("app")]
    assert numbers == [*range(KEPT + 5, 5, -1), 2]
    assert store.deployed_spec("app", 2).deployments[0].version == "v2"


def record(number: int, outcome: str, version: str = "", restores: int | None = None) -> DeployRecord:
    return DeployRecord(
        number=number, deployed_at=0.0, version=version or str(number), outcome=outcome, restores=restores
    )


def test_what_could_not_be_built_is_undone_before_what_serves() -> None:
    deploys = [record(2, "SUCCEEDED"), record(1, "SUCCEEDED")]
    assert rollback_target("app", deploys, None, undo_build=True).number == 2
    assert rollback_target("app", deploys, None, undo_build=False).number == 1


def test_a_rollback_passes_over_equal_and_failed_deploys() -> None:
    deploys = [record(4, "SUCCEEDED", "x"), record(3, "FAILED"), record(2, "SUCCEEDED", "x"), record(1, "SUCCEEDED")]
    assert rollback_target("app", deploys, None, undo_build=False).number == 1


def test_changes_are_told_by_deployment() -> None:
    old = application(deployment("A"), deployment("B"))
    new = application(deployment("A", version="v2", max_ongoing_requests=9), deployment("C"), route_prefix="/new")
    assert changes(None, old) == "first deploy"
    assert changes(old, new) == "route_prefix / → /new; A: max_ongoing_requests 5 → 9, code; C: new; B: removed"


def test_a_new_policy_or_scaler_is_told_of() -> None:
    def policy(version: str) -> PolicySpec:
        return PolicySpec(name="m:f", code=b"", version=version)

    plain, scaled = deployment("A"), deployment("A", autoscaling_config={"max_replicas": 2})
    old = application(msgspec.structs.replace(scaled, policy=policy("1")))
    assert changes(old, application(msgspec.structs.replace(scaled, policy=policy("2")))) == "A: autoscaling policy"
    assert changes(application(scaled), application(scaled, policy=policy("1"))) == "autoscaling policy"
    assert changes(application(plain), application(plain, external_scaler_enabled=True)) == "external scaler on"
    versions = {
        version_of(old),
        version_of(application(msgspec.structs.replace(scaled, policy=policy("2")))),
        version_of(application(plain)),
        version_of(application(plain, external_scaler_enabled=True)),
    }
    assert len(versions) == 4

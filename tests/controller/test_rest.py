"""The REST API: Ray Serve's schema, closed to strangers, and clear about mistakes."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from headrace.config.spec import BuildOutcome
from headrace.controller.rest import MAX_BODY_BYTES, RestApi, RestServer
from headrace.controller.rest_guard import is_loopback, required_token
from headrace.engine.process import ProcessSpec

from .conftest import Instance, until
from .fakes import application, deployment

URL = "/api/serve/applications/"


def client_of(
    instance: Instance, token: str | None = None, base_url: str = "http://127.0.0.1:8265"
) -> httpx.AsyncClient:
    app: Any = RestApi(instance.controller, token).app
    return httpx.AsyncClient(transport=httpx.ASGITransport(app, raise_app_exceptions=False), base_url=base_url)


@pytest.fixture
async def client(instance: Instance) -> AsyncIterator[httpx.AsyncClient]:
    instance.engine.on_build = lambda process: built(process)
    async with client_of(instance) as made:
        yield made


def built(process: ProcessSpec) -> BuildOutcome | None:
    """What the build process does, for import paths that say how it goes."""
    config = process.args["application"]
    name = config.get("name", "default")
    if config["import_path"] == "broken:app":
        return BuildOutcome(error="No module named 'broken'")
    if config["import_path"] == "killed:app":
        return None
    return BuildOutcome(
        ok=application(deployment(app=name), name=name, route_prefix=config.get("route_prefix", "/"), config=config)
    )


def config(*names: str, import_path: str = "good:app") -> dict[str, Any]:
    return {"applications": [{"name": n, "route_prefix": f"/{n}", "import_path": import_path} for n in names]}


async def test_the_places_of_everything_are_told(instance: Instance, client: httpx.AsyncClient) -> None:
    instance.engine.lacking = "a GPU"
    await client.put(URL, json=config("one"))
    await until(lambda: instance.engine.to_be_started)

    async def replica() -> dict[str, Any]:
        details = (await client.get(URL)).json()["applications"]["one"]["deployments"]["Model"]
        return dict(details["replicas"][0])

    waiting = await replica()
    assert (waiting["state"], waiting["node_id"], waiting["node_ip"]) == ("STARTING", None, None)
    instance.engine.make_room()
    await until_app(instance, "RUNNING", "one")
    running = await replica()
    assert (running["state"], running["node_id"], running["node_ip"]) == ("RUNNING", "here", "127.0.0.1")
    [node] = (await client.get("/api/headrace/nodes")).json()["nodes"]
    assert (node["node_id"], node["node_ip"], node["alive"], node["head"]) == ("here", "127.0.0.1", True, True)


async def until_app(instance: Instance, status: str, name: str) -> None:
    await until(lambda: any(a.name == name and a.status == status for a in instance.controller.application_statuses()))


async def test_a_put_config_is_built_and_deployed(instance: Instance, client: httpx.AsyncClient) -> None:
    assert (await client.put(URL, json=config("one", "two"))).status_code == 200
    await until_app(instance, "RUNNING", "one")
    await until_app(instance, "RUNNING", "two")
    details = (await client.get(URL)).json()["applications"]["one"]
    assert details["deployed_app_config"] == config("one")["applications"][0]
    assert (details["status"], details["source"], details["route_prefix"]) == ("RUNNING", "declarative", "/one")
    assert details["deployments"]["Model"]["replicas"][0]["state"] == "RUNNING"
    assert details["deployments"]["Model"]["target_num_replicas"] == 1


async def test_what_is_not_in_the_next_config_goes_and_what_was_run_by_hand_stays(
    instance: Instance, client: httpx.AsyncClient
) -> None:
    instance.controller.deploy([application(name="by-hand", route_prefix="/hand")])
    await client.put(URL, json=config("one", "two"))
    await until_app(instance, "RUNNING", "two")
    await client.put(URL, json=config("one"))
    await until(lambda: {a.name for a in instance.controller.application_statuses()} == {"by-hand", "one"})
    only = (await client.get(URL, params={"api_type": "declarative"})).json()["applications"]
    assert set(only) == {"one"}


async def test_a_wrong_config_is_refused_with_field_and_reason(instance: Instance, client: httpx.AsyncClient) -> None:
    answer = await client.put(URL, json={"applications": [{"import_path": "a:b", "route_prefx": "/a"}]})
    assert answer.status_code == 400
    (problem,) = answer.json()["problems"]
    assert problem["field"] == "applications[0].route_prefx" and "route_prefix" in problem["reason"]
    assert not instance.controller.application_statuses()


async def test_a_route_that_another_application_has_is_refused(instance: Instance, client: httpx.AsyncClient) -> None:
    instance.controller.deploy([application(name="by-hand", route_prefix="/one")])
    answer = await client.put(URL, json=config("one"))
    assert answer.status_code == 400
    assert "'by-hand'" in answer.json()["error"] and answer.json()["problems"][0]["field"] == "route_prefix"


async def test_a_failed_build_is_in_the_status(instance: Instance, client: httpx.AsyncClient) -> None:
    await client.put(URL, json=config("one", import_path="broken:app"))
    await until_app(instance, "DEPLOY_FAILED", "one")
    assert "No module named 'broken'" in (await client.get(f"{URL}one")).json()["message"]


async def test_a_build_whose_process_dies_is_in_the_status(instance: Instance, client: httpx.AsyncClient) -> None:
    await client.put(URL, json=config("one", import_path="killed:app"))
    await until_app(instance, "DEPLOY_FAILED", "one")
    assert "did not finish" in (await client.get(f"{URL}one")).json()["message"]


async def test_a_failed_build_leaves_the_running_application_serving(
    instance: Instance, client: httpx.AsyncClient
) -> None:
    await client.put(URL, json=config("one"))
    await until_app(instance, "RUNNING", "one")
    await client.put(URL, json=config("one", import_path="broken:app"))
    await until_app(instance, "DEPLOY_FAILED", "one")
    assert len(instance.targets(app="one").replicas) == 1
    await client.put(URL, json=config("one"))
    await until_app(instance, "RUNNING", "one")


async def test_two_applications_can_exchange_their_routes(instance: Instance, client: httpx.AsyncClient) -> None:
    await client.put(URL, json=config("one", "two"))
    await until_app(instance, "RUNNING", "two")
    swapped = config("one", "two")
    for app, other in zip(swapped["applications"], ("two", "one"), strict=True):
        app["route_prefix"] = f"/{other}"
    await client.put(URL, json=swapped)
    await until(lambda: instance.routes() == {"/two": "one#Model", "/one": "two#Model"})


async def test_a_build_that_a_crash_interrupted_is_done_by_the_next_controller(
    instance: Instance, client: httpx.AsyncClient
) -> None:
    instance.store.put_builds({"one": config("one")["applications"][0]})
    await instance.stop()
    await instance.start()
    await until_app(instance, "RUNNING", "one")


async def test_delete_removes_all_applications_or_one(instance: Instance, client: httpx.AsyncClient) -> None:
    await client.put(URL, json=config("one", "two"))
    await until_app(instance, "RUNNING", "two")
    assert (await client.delete(f"{URL}one")).status_code == 200
    assert (await client.delete(f"{URL}three")).status_code == 404
    await until(lambda: [a.name for a in instance.controller.application_statuses()] == ["two"])
    assert (await client.delete(URL)).status_code == 200
    await until(lambda: not instance.controller.application_statuses())


async def test_a_deployment_that_is_being_deleted_cannot_be_scaled(
    instance: Instance, client: httpx.AsyncClient
) -> None:
    instance.controller.deploy([application(external_scaler_enabled=True)])
    await until_app(instance, "RUNNING", "app")
    url = "/api/v1/applications/app/deployments/Model/scale"
    instance.engine.started[0].idle.clear()
    instance.controller.delete(["app"])
    answer = await client.post(url, json={"target_num_replicas": 2})
    assert (answer.status_code, answer.json()) == (412, {"error": "deployment 'Model' is being deleted"})
    instance.engine.started[0].idle.set()
    await until(lambda: not instance.controller.application_statuses())
    assert (await client.post(url, json={"target_num_replicas": 2})).status_code == 404


async def test_scaling_needs_the_token_too(instance: Instance) -> None:
    instance.controller.deploy([application(external_scaler_enabled=True)])
    async with client_of(instance, token="secret") as client:
        url, body = "/api/v1/applications/app/deployments/Model/scale", {"target_num_replicas": 2}
        assert (await client.post(url, json=body)).status_code == 401
        answer = await client.post(url, json=body, headers={"authorization": "Bearer secret"})
        assert answer.status_code == 200 and instance.status().target_num_replicas == 2


@pytest.mark.parametrize("path", ["/-/healthz", "/api/version", "/api/headrace/status", URL, URL.rstrip("/")])
async def test_every_address_answers(client: httpx.AsyncClient, path: str) -> None:
    assert (await client.get(path)).status_code == 200


async def test_the_version_is_what_rays_clients_look_for(client: httpx.AsyncClient) -> None:
    answer = (await client.get("/api/version")).json()
    assert answer["version"] == "4" and answer["ray_version"].startswith("2.")


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"{not json", 400), (b"[]", 400), (b'{"applications": 3}', 400), (b"x" * (MAX_BODY_BYTES + 1), 413)],
)
async def test_garbage_is_refused(client: httpx.AsyncClient, body: bytes, status: int) -> None:
    answer = await client.put(URL, content=body)
    assert answer.status_code == status and answer.json()["error"]


async def test_an_internal_error_tells_nothing_of_our_insides(
    instance: Instance, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken() -> None:
        raise ZeroDivisionError("secret path")

    monkeypatch.setattr(instance.controller, "status", broken)
    answer = await client.get(URL)
    assert answer.status_code == 500
    assert "secret path" not in answer.text and "Traceback" not in answer.text


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8265", "127.0.0.1.evil.example", ""])
async def test_a_foreign_host_is_refused(instance: Instance, host: str) -> None:
    async with client_of(instance) as client:
        assert (await client.get(URL, headers={"host": host})).status_code == 403


@pytest.mark.parametrize("host", ["127.0.0.1:8265", "localhost:8265", "[::1]:8265", "LOCALHOST"])
async def test_this_machine_is_let_in(instance: Instance, host: str) -> None:
    async with client_of(instance) as client:
        assert (await client.get(URL, headers={"host": host})).status_code == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "http://localhost:3000", "null"])
async def test_a_page_of_another_site_is_refused(instance: Instance, origin: str) -> None:
    async with client_of(instance) as client:
        headers = {"host": "localhost:8265", "origin": origin}
        assert (await client.put(URL, json=config("one"), headers=headers)).status_code == 403
        same = {"host": "localhost:8265", "origin": "http://localhost:8265"}
        assert (await client.get(URL, headers=same)).status_code == 200


async def test_with_a_token_only_who_has_it_is_let_in(instance: Instance) -> None:
    async with client_of(instance, token="t0ken", base_url="http://gpu-box:8265") as client:
        assert (await client.get(URL)).status_code == 401
        assert (await client.get(URL, headers={"authorization": "Bearer wrong"})).status_code == 401
        assert (await client.get(URL, headers={"authorization": "Bearer t0ken"})).status_code == 200


def test_a_token_is_needed_where_other_machines_can_connect(tmp_path: Path) -> None:
    assert required_token("127.0.0.1", tmp_path, {}) is None
    token = required_token("0.0.0.0", tmp_path, {})
    assert token and required_token("0.0.0.0", tmp_path, {}) == token
    assert (tmp_path / "rest_token").stat().st_mode & 0o777 == 0o600
    assert required_token("127.0.0.1", tmp_path, {"HEADRACE_REST_TOKEN": "mine"}) == "mine"


def test_loopback_is_told_from_the_rest() -> None:
    assert all(map(is_loopback, ["127.0.0.1", "127.9.9.9", "::1", "localhost"]))
    assert not any(map(is_loopback, ["0.0.0.0", "::", "10.0.0.1", "example.org", ""]))


async def test_it_serves_on_a_socket_that_listens_already(instance: Instance) -> None:
    import asyncio

    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    server = RestServer(RestApi(instance.controller, None).app)
    serving = asyncio.create_task(server.serve(listener))
    async with httpx.AsyncClient() as client:
        assert (await client.get(f"http://127.0.0.1:{port}/-/healthz")).text == "success"
    server.stop()
    await serving

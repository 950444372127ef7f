"""The REST API of a real instance: configs in, applications up, and what is not in the next config goes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import headrace as serve
from headrace import client as driver

from .conditions import ids, until

CODE = """
import os
import headrace as serve

@serve.deployment
class Model:
    def __init__(self, name="nobody"):
        self.name, self.greeting = name, "Hello"

    def reconfigure(self, config):
        self.greeting = config["greeting"]

    def __call__(self) -> str:
        return f"{self.greeting}, {self.name}"

@serve.deployment
class Front:
    def __init__(self, model):
        self.model = model

    async def __call__(self) -> str:
        return await self.model.remote()

app = Model.bind()
graph = Front.bind(Model.bind("graph"))

def build(args: dict[str, str]):
    return Model.bind(args["name"])

def broken():
    raise RuntimeError("no configuration found")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("apps")
    (folder / "apps.py").write_text(CODE)
    return folder


@pytest.fixture
def rest(http: httpx.Client, instance: driver.Client) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"{instance.rest_url}/api/serve", timeout=30) as client:
        yield client


@pytest.fixture
def put(rest: httpx.Client, folder: Path) -> Any:
    """Puts applications, each from its import path and what else is given."""

    def put(**applications: dict[str, Any]) -> httpx.Response:
        configs = [
            {"name": name, "route_prefix": f"/{name}", "runtime_env": {"working_dir": str(folder)}, **config}
            for name, config in applications.items()
        ]
        return rest.put("/applications/", json={"applications": configs})

    return put


def details(rest: httpx.Client) -> dict[str, Any]:
    found: dict[str, Any] = rest.get("/applications/").json()
    return found


def wait_for(rest: httpx.Client, **statuses: str) -> dict[str, Any]:
    until(lambda: {name: a["status"] for name, a in details(rest)["applications"].items()} == statuses)
    return details(rest)


def test_a_config_becomes_running_applications(http: httpx.Client, rest: httpx.Client, put: Any) -> None:
    answer = put(
        plain={"import_path": "apps:app"},
        built={"import_path": "apps:build", "args": {"name": "Ada"}},
        graph={"import_path": "apps.graph", "deployments": [{"name": "Model", "num_replicas": 2}]},
    )
    assert answer.status_code == 200, answer.text
    told = wait_for(rest, plain="RUNNING", built="RUNNING", graph="RUNNING")
    assert [http.get(f"/{name}").text for name in ("plain", "built", "graph")] == [
        "Hello, nobody",
        "Hello, Ada",
        "Hello, graph",
    ]
    graph = told["applications"]["graph"]
    assert graph["route_prefix"] == "/graph"
    assert graph["deployments"]["Model"]["status"] == "HEALTHY"
    assert len(graph["deployments"]["Model"]["replicas"]) == 2
    assert graph["deployed_app_config"]["import_path"] == "apps.graph"
    assert http.get("/-/routes").json() == {"/built": "built", "/graph": "graph", "/plain": "plain"}


def test_the_next_config_takes_the_place_of_the_last(http: httpx.Client, rest: httpx.Client, put: Any) -> None:
    serve.run(serve.deployment(name="ByHand")(lambda: "by hand").bind(), name="hand", route_prefix="/hand")
    put(one={"import_path": "apps:app"}, two={"import_path": "apps:app"})
    wait_for(rest, hand="RUNNING", one="RUNNING", two="RUNNING")
    before = ids("Model", "two")
    put(two={"import_path": "apps:app"}, three={"import_path": "apps:app"})
    wait_for(rest, hand="RUNNING", two="RUNNING", three="RUNNING")
    assert ids("Model", "two") == before
    assert http.get("/one").status_code == 404
    assert http.get("/three").status_code == 200
    assert http.get("/hand").text == "by hand"


def test_a_changed_user_config_reaches_running_replicas(http: httpx.Client, rest: httpx.Client, put: Any) -> None:
    def greet(greeting: str) -> None:
        put(app={"import_path": "apps:app", "deployments": [{"name": "Model", "user_config": {"greeting": greeting}}]})

    greet("Hi")
    wait_for(rest, app="RUNNING")
    before = ids("Model", "app")
    assert http.get("/app").text == "Hi, nobody"
    greet("Moin")
    until(lambda: http.get("/app").text == "Moin, nobody")
    assert ids("Model", "app") == before


def test_an_application_that_cannot_be_built_says_why_and_leaves_what_ran(
    http: httpx.Client, rest: httpx.Client, put: Any
) -> None:
    put(app={"import_path": "apps:app"})
    wait_for(rest, app="RUNNING")
    for import_path, reason in [
        ("apps:broken", "RuntimeError: no configuration found"),
        ("apps:ap", "did you mean 'app'"),
        ("app:app", "there is no module 'app'"),
        ("apps:build", "KeyError: 'name'"),
    ]:
        assert put(app={"import_path": import_path}).status_code == 200
        until(lambda reason=reason: reason in details(rest)["applications"]["app"]["message"])  # type: ignore[misc]
        assert details(rest)["applications"]["app"]["status"] == "DEPLOY_FAILED"
        assert http.get("/app").text == "Hello, nobody"
    put(app={"import_path": "apps:app"})
    wait_for(rest, app="RUNNING")


@pytest.mark.parametrize(
    ("config", "field", "reason"),
    [
        ({"applications": [{"import_path": "a:b", "nam": "x"}]}, "applications[0].nam", "did you mean 'name'"),
        ({"applications": [{"name": "x"}]}, "applications[0].import_path", ""),
        (
            {"applications": [{"import_path": "a:b", "deployments": [{"name": "M", "num_replicas": -1}]}]},
            "applications[0].deployments[0].num_replicas",
            "",
        ),
        ({"application": []}, "application", "did you mean 'applications'"),
        (
            {"applications": [{"import_path": "a:b"}, {"import_path": "a:c", "name": "c"}]},
            "applications",
            "route_prefix",
        ),
        (
            {"applications": [{"import_path": "a:b", "route_prefix": "x"}]},
            "applications[0].route_prefix",
            "start with '/'",
        ),
    ],
)
def test_a_wrong_config_is_refused_with_each_field_and_changes_nothing(
    rest: httpx.Client, put: Any, config: dict[str, Any], field: str, reason: str
) -> None:
    put(app={"import_path": "apps:app"})
    wait_for(rest, app="RUNNING")
    answer = rest.put("/applications/", json=config)
    assert answer.status_code == 400
    assert any(problem["field"].startswith(field) for problem in answer.json()["problems"]), answer.text
    assert reason in answer.text
    assert {name: a["status"] for name, a in details(rest)["applications"].items()} == {"app": "RUNNING"}


def test_applications_are_deleted_one_by_one_or_all(http: httpx.Client, rest: httpx.Client, put: Any) -> None:
    put(one={"import_path": "apps:app"}, two={"import_path": "apps:app"}, three={"import_path": "apps:app"})
    wait_for(rest, one="RUNNING", two="RUNNING", three="RUNNING")
    assert rest.delete("/applications/two").status_code == 200
    wait_for(rest, one="RUNNING", three="RUNNING")
    refused = rest.delete("/applications/thre")
    assert refused.status_code == 404 and "did you mean 'three'" in refused.text
    assert rest.delete("/applications/").status_code == 200
    wait_for(rest)
    assert http.get("/one").status_code == 404


def test_an_empty_config_deletes_what_configs_brought(rest: httpx.Client, put: Any) -> None:
    put(one={"import_path": "apps:app"})
    wait_for(rest, one="RUNNING")
    assert rest.put("/applications/", json={"applications": []}).status_code == 200
    wait_for(rest)


@pytest.mark.parametrize(
    "headers", [{"host": "evil.example"}, {"origin": "http://evil.example"}, {"host": "127.0.0.1.evil.example:8265"}]
)
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_web_pages_of_others_are_refused(rest: httpx.Client, method: str, headers: dict[str, str]) -> None:
    answer = rest.request(method, "/applications/", json={"applications": []}, headers=headers)
    assert answer.status_code == 403


def test_garbage_is_refused(rest: httpx.Client) -> None:
    assert rest.put("/applications/", content=b"{").status_code == 400
    assert rest.put("/applications/", content=b"[1]").status_code == 400
    assert rest.post("/applications/", json={}).status_code == 405
    assert rest.get("/nothing").status_code == 404

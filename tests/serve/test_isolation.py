"""Environments of replicas: variables, working directories, and modules of the same name that are not the same."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import httpx
import pytest

import headrace as serve
from headrace import client as driver
from headrace.exceptions import ConfigError, DeploymentFailedError

from .conditions import ids, until


def make_environment(name: str = "Environment", **runtime_env: Any) -> Any:
    @serve.deployment(name=name, ray_actor_options={"runtime_env": runtime_env})
    class Environment:
        def __init__(self, *others: Any) -> None:
            self.at_start = os.environ.get("FLAVOUR")
            self.others = others

        def __call__(self) -> tuple[str | None, str | None, str]:
            return self.at_start, os.environ.get("FLAVOUR"), os.getcwd()

        def imported(self, module: str) -> str:
            import importlib

            return str(importlib.import_module(module).VALUE)

        async def of_others(self) -> list[Any]:
            return [await other.remote() for other in self.others]

    return Environment


def test_environment_variables_are_of_one_deployment_only(http: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    bitter = make_environment("Bitter", env_vars={"FLAVOUR": "bitter"})
    handle = serve.run(
        make_environment(env_vars={"FLAVOUR": "sweet"}).bind(bitter.bind(), make_environment("None").bind())
    )
    assert handle.remote().result()[:2] == ("sweet", "sweet")
    assert [flavour for _, flavour, _ in handle.of_others.remote().result()] == ["bitter", None]
    assert "FLAVOUR" not in os.environ


def test_a_new_environment_is_a_reason_to_restart(http: httpx.Client) -> None:
    serve.run(make_environment(env_vars={"FLAVOUR": "a"}).bind())
    before = ids("Environment")
    handle = serve.run(make_environment(env_vars={"FLAVOUR": "b"}).bind())
    assert handle.remote().result()[1] == "b"
    assert not ids("Environment") & before


def test_replicas_work_where_the_driver_works_unless_told_otherwise(http: httpx.Client, tmp_path: Path) -> None:
    assert serve.run(make_environment().bind()).remote().result()[2] == os.getcwd()
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "local_settings.py").write_text("VALUE = 'found'\n")
    handle = serve.run(make_environment(working_dir=str(folder)).bind())
    assert handle.remote().result()[2] == str(folder)
    assert handle.imported.remote("local_settings").result() == "found"


def test_mistakes_in_the_environment_are_told() -> None:
    with pytest.raises(ConfigError, match=r"env_var: .*did you mean 'env_vars'"):
        make_environment(env_var={})


@pytest.mark.local_engine("a cluster installs, and has machines without the folder")
def test_what_this_machine_cannot_make_of_an_environment_is_told(http: httpx.Client, tmp_path: Path) -> None:
    with pytest.raises(DeploymentFailedError, match=r"runtime_env\.pip needs a Ray cluster.*install"):
        serve.run(make_environment(pip=["numpy"]).bind())
    with pytest.raises(DeploymentFailedError, match="missing: there is no such folder"):
        serve.run(make_environment(working_dir=str(tmp_path / "missing")).options(max_constructor_retry_count=1).bind())


APP = """
import os
import headrace as serve
from same_name import VALUE

@serve.deployment
class Model:
    def __call__(self) -> dict:
        return {"value": VALUE, "flavour": os.environ.get("FLAVOUR"), "sort": os.environ.get("SORT")}

app = Model.bind()
"""


def test_applications_of_one_config_have_environments_of_their_own(
    http: httpx.Client, instance: driver.Client, tmp_path: Path
) -> None:
    applications = []
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "same_name.py").write_text(f"VALUE = {name!r}\n")
        (folder / "app.py").write_text(APP)
        applications.append(
            {
                "name": name,
                "route_prefix": f"/{name}",
                "import_path": "app:app",
                "runtime_env": {"working_dir": str(folder), "env_vars": {"FLAVOUR": f"of {name}", "SORT": "outer"}},
                "deployments": [
                    {"name": "Model", "ray_actor_options": {"runtime_env": {"env_vars": {"SORT": f"inner {name}"}}}}
                ],
            }
        )
    answer = httpx.put(f"{instance.rest_url}/api/serve/applications/", json={"applications": applications})
    assert answer.status_code == 200, answer.text
    until(lambda: [a.status for a in serve.status().applications.values()] == ["RUNNING"] * 2)
    for name in ("one", "two"):
        until(lambda name=name: http.get(f"/{name}").status_code == 200)  # type: ignore[misc]
        assert http.get(f"/{name}").json() == {"value": name, "flavour": f"of {name}", "sort": f"inner {name}"}

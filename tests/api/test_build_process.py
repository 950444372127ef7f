"""The process that builds applications for the controller."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from headrace import build_process
from headrace.config.spec import BuildOutcome

SOURCE = """
import os
from headrace.deployments import deployment

@deployment(num_replicas=2)
class Model:
    def __init__(self, size=0): ...
    def __call__(self): return {answer!r}

app = Model.bind()
def build(args): return Model.bind(args["size"])
def fail(args):
    raise RuntimeError("no weights")
"""


@pytest.fixture(autouse=True)
def _restore_path(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(sys, "path", sys.path.copy())
    yield


def build(*applications: dict[str, Any]) -> list[BuildOutcome]:
    """The outcomes as they arrive at the controller."""
    outcomes = [build_process.build(application) for application in applications]
    return msgspec.msgpack.decode(msgspec.msgpack.encode(outcomes), type=list[BuildOutcome])


def folder_with_app(tmp_path: Path, name: str) -> str:
    folder = tmp_path / name
    folder.mkdir()
    (folder / "same_name.py").write_text(SOURCE.format(answer=name))
    return str(folder)


def application(folder: str, **options: Any) -> dict[str, Any]:
    return {"import_path": "same_name:app", "runtime_env": {"working_dir": folder}, **options}


def test_each_application_is_built_in_its_own_folder(tmp_path: Path) -> None:
    first, second = folder_with_app(tmp_path, "first"), folder_with_app(tmp_path, "second")
    cwd, modules = Path.cwd(), "same_name" in sys.modules
    outcomes = build(
        application(first, name="one", route_prefix="/one"),
        application(second, name="two", route_prefix="/two", deployments=[{"name": "Model", "num_replicas": 5}]),
    )
    one, two = (outcome.ok for outcome in outcomes)
    assert one is not None
    assert two is not None
    assert (one.name, one.route_prefix, two.deployments[0].options["num_replicas"]) == ("one", "/one", 5)
    assert one.deployments[0].version != two.deployments[0].version
    assert one.runtime_env["sys_path"][0] == first
    assert one.config is not None
    assert one.config["import_path"] == "same_name:app"
    assert (Path.cwd(), "same_name" in sys.modules) == (cwd, modules)
    sys.path.insert(0, second)
    target, _, _ = pickle.loads(two.deployments[0].code)
    assert target()() == "second"
    del sys.modules["same_name"]


def test_arguments_reach_the_builder(tmp_path: Path) -> None:
    folder = folder_with_app(tmp_path, "app")
    (outcome,) = build(application(folder, import_path="same_name:build", args={"size": 3}))
    assert outcome.ok is not None
    assert outcome.ok.deployments[0].description["arguments"] == {"size": "3"}


def test_failure_of_one_application_is_told_and_leaves_the_others_alone(tmp_path: Path) -> None:
    folder = folder_with_app(tmp_path, "app")
    failed, unknown, fine = build(
        application(folder, import_path="same_name:fail"),
        application(folder, deployments=[{"name": "Modell"}]),
        application(folder),
    )
    assert failed.error is not None
    assert "same_name:fail raised RuntimeError: no weights" in failed.error
    assert 'raise RuntimeError("no weights")' in failed.error
    assert "import_path.py" not in failed.error, "the user's frames are enough"
    assert unknown.error == "deployments: the application has no deployment 'Modell'; did you mean 'Model'?"
    assert fine.ok is not None


def test_missing_folder_is_told(tmp_path: Path) -> None:
    (outcome,) = build(application(str(tmp_path / "nowhere")))
    assert outcome.error is not None
    assert "working_dir" in outcome.error

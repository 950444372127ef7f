"""Import paths: what they lead to, and what each mistake says."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace.exceptions import ApplicationBuildError, ConfigError
from headrace.import_path import load_application

SOURCE = """
from __future__ import annotations
from pydantic import BaseModel
from headrace.deployments import Application, deployment

@deployment
class Model:
    def __init__(self, size: int = 1, extra: str = "") -> None: ...

app = Model.bind()
number = 3

class Plain: ...

class Args(BaseModel):
    size: int
    extra: str = "e"

class Namespace:
    app = app

def build() -> Application: return Model.bind(7)
def from_dict(args: dict[str, str]) -> Application: return Model.bind(int(args.get("size", 0)))
def from_model(args: Args) -> Application: return Model.bind(args.size, args.extra)
def with_default(args: dict | None = None) -> Application: return Model.bind(9 if args is None else 8)
def returns_deployment(args: dict): return Model
def raises(args: dict): raise KeyError("weights")
def too_many(a, b): return app
async def asynchronous(args: dict): return app
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, with modules `served_app`, `broken_app`, `needy_app` and the package `served_package`."""
    (tmp_path / "served_app.py").write_text(SOURCE)
    (tmp_path / "broken_app.py").write_text("1 / 0")
    (tmp_path / "needy_app.py").write_text("import no_such_library")
    (tmp_path / "served_package").mkdir()
    (tmp_path / "served_package" / "__init__.py").write_text("")
    (tmp_path / "served_package" / "models.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] in {"served_app", "served_package"}]:
        del sys.modules[name]


@pytest.mark.parametrize(
    "path", ["served_app:app", "served_app.app", "served_app:Namespace.app", "served_package.models:app"]
)
def test_path_leads_to_an_application(path: str) -> None:
    assert load_application(path).deployment.name == "Model"


@pytest.mark.parametrize(
    ("path", "args", "bound"),
    [
        ("served_app:build", None, (7,)),
        ("served_app:from_dict", {"size": "5"}, (5,)),
        ("served_app:from_dict", None, (0,)),
        ("served_app:from_model", {"size": "5"}, (5, "e")),
        ("served_app:with_default", None, (9,)),
        ("served_app:with_default", {"x": 1}, (8,)),
    ],
)
def test_builder_is_called_with_the_arguments(
    path: str, args: dict[str, str] | None, bound: tuple[object, ...]
) -> None:
    assert load_application(path, args).deployment.init_args == bound


@pytest.mark.parametrize(
    ("path", "args", "message"),
    [
        ("served_app:app", {"size": 1}, "takes no arguments, but got size"),
        ("served_app:build", {"size": 1}, "takes no arguments, but got size"),
        ("served_app:from_model", {"size": "many"}, "size: must be a whole number"),
        ("served_app:from_model", {}, "size: is required"),
    ],
)
def test_wrong_arguments_name_the_field(path: str, args: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_application(path, args)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("served_app", "write 'module:application'"),
        ("served_app.py:app", "did you mean 'served_app:app'"),
        ("./served_package/models.py:app", "did you mean 'served_package.models:app'"),
        ("served_ap:app", "no module 'served_ap'; did you mean 'served_app'"),
        ("served_package.model:app", "did you mean 'served_package.models'"),
        ("served_app.models:app", "'served_app' is a module and no package"),
        ("nothing_alike_at_all:app", "current folder"),
        ("served_app:ap", "no attribute 'ap'; did you mean 'app'"),
        ("served_app:zzzzzz", "its applications are app"),
        ("served_app:number", "of type int"),
        ("served_app:Model", r"use Model\.bind"),
        ("served_app:Plain", "plain class"),
        ("served_app:returns_deployment", r"must return an application.*Model\.bind"),
        ("served_app:raises", "raised KeyError: 'weights'"),
        ("served_app:too_many", "a builder takes one"),
        ("served_app:asynchronous", "async function"),
        ("broken_app:app", "raised ZeroDivisionError"),
        ("needy_app:app", "No module named 'no_such_library'. Install it"),
    ],
)
def test_mistakes_say_what_would_be_right(path: str, message: str) -> None:
    with pytest.raises(ApplicationBuildError, match=message):
        load_application(path)


def test_users_exception_is_the_cause() -> None:
    with pytest.raises(ApplicationBuildError) as caught:
        load_application("served_app:raises")
    assert isinstance(caught.value.__cause__, KeyError)

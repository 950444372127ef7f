"""From an application to its spec: what stands in it, and which changes make a new version."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from headrace.build import build_application
from headrace.config.deployment_options import RESTARTING_OPTIONS, DeploymentOptions
from headrace.config.spec import ApplicationSpec
from headrace.deployments import Application, deployment
from headrace.exceptions import ApplicationBuildError, ConfigError, SerializationError
from headrace.handle import DeploymentHandle


class Leaf:
    """Answers.

    At length.
    """

    def __init__(self, size: int = 1, api_key: str = "") -> None:
        self.size = size

    def reconfigure(self, user_config: Any) -> None: ...


class Root:
    def __init__(self, *callees: Any, **named: Any) -> None:
        self.callees, self.named = callees, named


leaf, root = deployment(Leaf), deployment(Root)


def build(app: Application[Any], **options: Any) -> ApplicationSpec:
    return build_application(app, name="app", route_prefix="/", **options)


def version_of(app: Application[Any], **options: Any) -> str:
    return build(app, **options).deployments[-1].version


def test_applications_become_handles_wherever_they_stand() -> None:
    shared = leaf.bind(2)
    spec = build(root.bind(shared, {"deep": [shared]}, other=leaf.bind(3)))
    assert [(d.name, d.app, d.ingress) for d in spec.deployments] == [
        ("Leaf", "app", False),
        ("Leaf_1", "app", False),
        ("Root", "app", True),
    ]
    assert spec.ingress == "Root"
    target, args, kwargs = pickle.loads(spec.deployments[-1].code)
    assert target is Root
    assert [args[0].deployment_name, args[1]["deep"][0].deployment_name] == ["Leaf", "Leaf"]
    assert isinstance(kwargs["other"], DeploymentHandle)
    assert (kwargs["other"].deployment_name, kwargs["other"].app_name) == ("Leaf_1", "app")


def test_class_under_a_decorator_arrives_as_itself_and_not_as_the_deployment() -> None:
    target, args, kwargs = pickle.loads(build(Decorated.bind()).deployments[0].code)
    assert target is Decorated.func_or_class
    assert (args, kwargs) == ((), {})


@deployment
class Decorated:
    pass


def test_description_is_readable_and_keeps_secrets() -> None:
    spec = build(root.bind(leaf.bind(5, api_key="sk-1"), text="x" * 500))
    assert spec.deployments[0].description == {
        "callable": f"{__name__}:Leaf",
        "doc": "Answers.",
        "arguments": {"size": "5", "api_key": "…"},
        "calls": [],
    }
    described = spec.deployments[1].description
    assert described["calls"] == ["Leaf"]
    assert described["arguments"]["callees[0]"] == "<handle to Leaf>"
    assert len(described["arguments"]["text"]) <= 80


def test_options_carry_the_unique_name_and_are_plain_data() -> None:
    spec = build(root.bind(leaf.bind(1), leaf.options(num_replicas=3).bind(2)))
    assert [(d.options["name"], d.options["num_replicas"]) for d in spec.deployments[:2]] == [
        ("Leaf", 1),
        ("Leaf_1", 3),
    ]


def test_replicas_are_told_where_modules_are_found(tmp_path: Path) -> None:
    environment = build(leaf.bind(), runtime_env={"env_vars": {"A": "1"}, "working_dir": str(tmp_path)}).runtime_env
    assert environment["env_vars"] == {"A": "1"}
    assert environment["working_dir"] == str(tmp_path)
    assert set(environment["sys_path"]) >= {os.path.abspath(path) for path in sys.path}


def test_overrides_win_over_the_code() -> None:
    app = root.bind(leaf.options(num_replicas=2, max_ongoing_requests=9).bind())
    spec = build(app, overrides=[{"name": "Leaf", "num_replicas": 4}])
    assert (spec.deployments[0].options["num_replicas"], spec.deployments[0].options["max_ongoing_requests"]) == (4, 9)


def test_override_of_an_unknown_deployment_gets_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match="no deployment 'Leef'; did you mean 'Leaf'"):
        build(root.bind(leaf.bind()), overrides=[{"name": "Leef"}])


def test_logging_config_of_the_application_reaches_deployments_without_their_own() -> None:
    own = leaf.options(logging_config={"log_level": "ERROR"}).bind()
    spec = build(root.bind(own), logging_config={"log_level": "DEBUG"})
    assert [d.options["logging_config"]["log_level"] for d in spec.deployments] == ["ERROR", "DEBUG"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: build(leaf), r"use Leaf\.bind"),  # type: ignore[arg-type]
        (lambda: build(Leaf), "plain class"),  # type: ignore[arg-type]
        (lambda: build_application(leaf.bind(), name="", route_prefix="/"), "name must not be empty|must not be empty"),
        (lambda: build_application(leaf.bind(), name="a", route_prefix="x"), "must start with '/'"),
        (lambda: build(root.options(user_config={"a": 1}).bind()), "no method reconfigure"),
        (lambda: build(leaf.bind(), runtime_env={"env_var": {}}), "env_vars"),
    ],
)
def test_mistakes_are_told(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def test_circle_is_told() -> None:
    callees: list[Any] = []
    callees.append(root.bind(callees))
    with pytest.raises(ApplicationBuildError, match="Root -> Root"):
        build(callees[0])


def test_unserializable_code_is_named() -> None:
    import threading

    lock = threading.Lock()

    class Locked:
        def __call__(self) -> bool:
            return lock.locked()

    with pytest.raises(SerializationError, match=r"deployment 'Locked'.*the variable 'lock' that .*__call__ uses"):
        build(deployment(Locked).bind())


def test_every_option_either_restarts_replicas_or_reaches_them_running() -> None:
    reaching = {
        "autoscaling_config",
        "backpressure_config",
        "graceful_shutdown_timeout_s",
        "graceful_shutdown_wait_loop_s",
        "health_check_period_s",
        "health_check_timeout_s",
        "max_constructor_retry_count",
        "max_ongoing_requests",
        "max_queued_requests",
        "max_surge_percent",
        "name",
        "num_replicas",
        "request_router_config",
        "rolling_update_percentage",
        "user_config",
        "version",
    }
    assert set(DeploymentOptions.model_fields) == RESTARTING_OPTIONS | reaching
    assert not RESTARTING_OPTIONS & reaching


@pytest.mark.parametrize(
    "change",
    [
        {"num_replicas": 2},
        {"user_config": {"a": 1}},
        {"max_ongoing_requests": 7},
        {"max_queued_requests": 7},
        {"health_check_period_s": 1},
        {"graceful_shutdown_timeout_s": 1},
    ],
)
def test_options_for_running_replicas_keep_the_version(change: dict[str, Any]) -> None:
    assert version_of(leaf.bind()) == version_of(leaf.options(**change).bind())


@pytest.mark.parametrize(
    "changed",
    [
        lambda: version_of(leaf.bind(2)),
        lambda: version_of(leaf.options(max_concurrent_sync=2).bind()),
        lambda: version_of(leaf.options(ray_actor_options={"num_cpus": 2}).bind()),
        lambda: version_of(leaf.bind(), runtime_env={"env_vars": {"A": "1"}}),
        lambda: version_of(deployment(name="Leaf")(Root).bind()),
    ],
    ids=["argument", "threads", "resources", "environment", "code"],
)
def test_what_only_a_new_process_can_take_on_changes_the_version(changed: Any) -> None:
    assert version_of(leaf.bind()) != changed()


def test_change_of_a_callee_keeps_the_callers_version() -> None:
    assert version_of(root.bind(leaf.bind(1))) == version_of(root.bind(leaf.bind(2)))


def test_values_without_a_stable_state_still_get_a_version() -> None:
    class Odd:
        def __reduce_ex__(self, protocol: Any) -> Any:
            if protocol == 5:
                return Odd, ()
            raise TypeError("only protocol 5")

    assert version_of(root.bind(Odd()))


SCRIPT = """
    from __future__ import annotations
    import enum, functools, re, threading
    from dataclasses import dataclass, field
    from typing import Annotated
    import numpy
    from fastapi import Depends, FastAPI
    from pydantic import BaseModel
    from headrace import batch, deployment, ingress
    from headrace.build import build_application
    import {helper}

    WORDS = {{"alpha", "beta", "gamma", "delta"}}
    PATTERN = re.compile("a+")

    class Colour(enum.Enum):
        RED = "red"
        BLUE = {{"x", "y"}}

    class Document(BaseModel):
        text: str
        tags: set[str] = {{"a", "b"}}

    @dataclass
    class Options:
        limit: int = {limit}
        names: list[str] = field(default_factory=list)

    @functools.cache
    def cached(x): return x + 1

    @deployment
    class Leaf:
        def __init__(self, options, weights, table): ...
        @property
        def size(self): return len(WORDS)
        @staticmethod
        def static(x=(1, 2)): return x
        def __call__(self, document: Document) -> Options:
            if document.text in {{"one", "two", "three"}}:
                return [cached(n) for n in range(3)]
            return {helper}.double(PATTERN, Colour.RED)

    web = FastAPI()

    def who() -> str: return "me"

    @deployment
    @ingress(web)
    class Root(object):
        def __init__(self, *leaves): ...
        @web.post("/{{number}}")
        async def post(self, number: int, document: Document, who: Annotated[str, Depends(who)]) -> Document: ...
        @batch(max_batch_size=4)
        async def batched(self, items: list[int]) -> list[int]:
            return [item + {limit} for item in items]
        async def method(self, document: Document):
            class Inner: pass
            return (lambda: Inner)()

    {blank}
    def application(): return Root.bind(
        Leaf.bind(Options(), numpy.arange(5), {{"k": frozenset("abc")}}), {{"set of": {{"p", "q", "r"}}}}
    )
    for _ in range(2):
        print(*(d.version for d in build_application(application(), name="app", route_prefix="/").deployments))
"""


def versions(folder: Path, limit: int = 1, factor: int = 2, blank: str = "", seed: int = 1) -> list[str]:
    """Versions of the script's two deployments, as two builds in one process of its own tell them."""
    folder.mkdir(exist_ok=True)
    (folder / "served_helper.py").write_text("from served_constants import FACTOR\ndef double(*x): return FACTOR\n")
    (folder / "served_constants.py").write_text(f"FACTOR = {factor}\n")
    script = folder / "script.py"
    script.write_text(textwrap.dedent(SCRIPT).format(helper="served_helper", limit=limit, blank=blank))
    done = subprocess.run(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONHASHSEED": str(seed), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first == second
    return first.split()


def test_two_runs_of_one_script_give_the_same_versions(tmp_path: Path) -> None:
    first = versions(tmp_path)
    assert versions(tmp_path, seed=2) == first
    assert versions(tmp_path, blank="\n\n", seed=3) == first, "lines that only move must not restart replicas"
    assert versions(tmp_path / "elsewhere", seed=4) == first, "the folder is no part of the code"


def test_changed_code_gives_a_new_version_wherever_it_stands(tmp_path: Path) -> None:
    leaf_version, root_version = versions(tmp_path)
    by_argument = versions(tmp_path, limit=2)
    assert by_argument[0] != leaf_version
    assert by_argument[1] != root_version, "the batched method has changed"
    by_import = versions(tmp_path, factor=3)
    assert by_import[0] != leaf_version, "a module that a used module imports has changed"
    assert by_import[1] == root_version, "the caller did not change"

"""When vLLM starts its workers in a placement group of Ray's."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from types import SimpleNamespace
from typing import Any

import pytest

from headrace.context import GangContext
from headrace.llm.engines.vllm.ray_executor import use_placement_group


def arguments(tensor: int = 1, pipeline: int = 1, backend: str | None = None) -> Namespace:
    return Namespace(tensor_parallel_size=tensor, pipeline_parallel_size=pipeline, distributed_executor_backend=backend)


def in_group(monkeypatch: pytest.MonkeyPatch, group: Any) -> None:
    """As in an actor of Ray's, in this placement group."""
    for name in ("VLLM_RAY_BUNDLE_INDICES", "RAY_ADDRESS"):
        monkeypatch.setenv(name, "to be taken back after the test")
        monkeypatch.delenv(name)
    ray = SimpleNamespace(
        is_initialized=lambda: True,
        util=SimpleNamespace(get_current_placement_group=lambda: group),
        get_runtime_context=lambda: SimpleNamespace(gcs_address="10.0.0.1:6379"),
    )
    monkeypatch.setitem(sys.modules, "ray", ray)


@pytest.mark.parametrize(
    ("args", "backend"),
    [
        (arguments(tensor=2, pipeline=2), "ray"),
        (arguments(), None),
        (arguments(tensor=2, backend="mp"), "mp"),
        (arguments(backend="ray"), "ray"),
    ],
)
def test_several_workers_are_actors_of_the_replicas_group(
    monkeypatch: pytest.MonkeyPatch, args: Namespace, backend: str | None
) -> None:
    in_group(monkeypatch, object())
    use_placement_group(args, None)
    assert args.distributed_executor_backend == backend
    assert os.environ.get("RAY_ADDRESS") == ("10.0.0.1:6379" if backend == "ray" else None)


def test_outside_of_a_group_vllm_chooses_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    in_group(monkeypatch, None)
    args = arguments(tensor=2)
    use_placement_group(args, None)
    monkeypatch.delitem(sys.modules, "ray")
    use_placement_group(args, None)
    assert args.distributed_executor_backend is None


def test_in_a_gang_each_replica_has_bundles_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    in_group(monkeypatch, object())
    use_placement_group(arguments(tensor=2), GangContext("g", 1, 3, ["a", "b", "c"]))
    assert os.environ["VLLM_RAY_BUNDLE_INDICES"] == "2,3"

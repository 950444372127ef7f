"""Placement groups on one machine: a replica gets the sum of its bundles. No GPU is needed: the instance is told how
many there are."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

import headrace as serve
from headrace import client as driver
from headrace.exceptions import DeploymentFailedError

from .conditions import deployment, running, until

pytestmark = pytest.mark.local_engine("a cluster's machines say themselves what they have")


@pytest.fixture(scope="module")
def instance() -> Iterator[driver.Client]:
    """An instance that believes in four GPUs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        patch.setenv("HEADRACE_NUM_GPUS", "4")
        serve.start(http_options={"port": 0}, rest_options={"port": 0})
        yield driver.find()
        serve.shutdown()


def seen_gpus() -> str | None:
    return os.environ.get("CUDA_VISIBLE_DEVICES")


def model(**options: Any) -> Any:
    return serve.deployment(name="Model", **options)(seen_gpus).bind()


def test_a_replica_gets_the_sum_of_its_bundles(http: httpx.Client) -> None:
    bundles = [{"CPU": 1, "GPU": 1}, {"GPU": 1}, {"GPU": 1}]
    handle = serve.run(model(placement_group_bundles=bundles, placement_group_strategy="SPREAD"))
    assert handle.remote().result() == "0,1,2"


def test_a_strategy_alone_is_of_the_replica_which_is_in_one_place_anyway(http: httpx.Client) -> None:
    handle = serve.run(model(ray_actor_options={"num_gpus": 4}, placement_group_strategy="STRICT_PACK"))
    assert handle.remote().result() == "0,1,2,3"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (
            {"placement_group_bundles": [{"CPU": 1}, {"CPU": 1}], "placement_group_strategy": "STRICT_SPREAD"},
            "STRICT_SPREAD puts each of its 2 bundles on a machine of its own, and there is one machine",
        ),
        (
            {"placement_group_bundles": [{"CPU": 1, "GPU": 2}, {"GPU": 3}]},
            "its 2 bundles need 5 GPUs, this machine has 4",
        ),
        (
            {"placement_group_bundles": [{"CPU": 1}], "placement_group_bundle_label_selector": [{"zone": "a"}]},
            "it needs a machine with the label zone=a",
        ),
        ({"ray_actor_options": {"label_selector": {"zone": "a"}}}, "it needs a machine with the label zone=a"),
    ],
)
def test_bundles_that_one_machine_can_never_have_are_refused_with_the_reason(
    http: httpx.Client, options: dict[str, Any], reason: str
) -> None:
    with pytest.raises(DeploymentFailedError, match=reason):
        serve.run(model(**options))


def test_bundles_wait_together_and_start_when_there_is_room_for_all(http: httpx.Client) -> None:
    serve.run(model(ray_actor_options={"num_gpus": 2}), name="first", route_prefix=None)
    wanted = model(placement_group_bundles=[{"CPU": 1, "GPU": 1}, {"GPU": 2}])
    [handle] = serve.run_many(
        [serve.RunTarget(wanted, name="second", route_prefix=None)], wait_for_applications_running=False
    )
    until(lambda: "Waiting for resources" in deployment("Model", "second").message)
    assert "its 2 bundles need 3 whole GPUs, 2 of 4 are free" in deployment("Model", "second").message
    serve.delete("first")
    assert handle.remote().result() == "0,1,2"


def test_a_machine_runs_no_more_replicas_than_it_may(http: httpx.Client) -> None:
    target = serve.RunTarget(model(num_replicas=3, max_replicas_per_node=2), name="app", route_prefix=None)
    serve.run_many([target], wait_for_applications_running=False)
    until(lambda: len(running("Model", "app")) == 2)
    until(lambda: "2 replicas of it already (max_replicas_per_node=2)" in deployment("Model", "app").message)

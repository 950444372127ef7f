"""GPUs, memory and custom resources: who gets which, and what is refused. No GPU is needed: the instance is told how
many there are."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

import headrace as serve
from headrace import client as driver
from headrace.exceptions import DeploymentFailedError

from .conditions import deployment, ids, running, until

pytestmark = pytest.mark.local_engine("a cluster's machines say themselves what they have")


@pytest.fixture(scope="module")
def instance() -> Iterator[driver.Client]:
    """An instance that believes in two GPUs."""
    before = {name: os.environ.pop(name, None) for name in ("CUDA_VISIBLE_DEVICES", "HEADRACE_NUM_GPUS")}
    os.environ["HEADRACE_NUM_GPUS"] = "2"
    serve.start(
        http_options={"port": 0},
        rest_options={"port": 0},
        memory=1_000_000_000,
        resources={"licence": 1},
    )
    yield driver.find()
    serve.shutdown()
    del os.environ["HEADRACE_NUM_GPUS"]
    os.environ.update({name: value for name, value in before.items() if value is not None})


def make_model(version: str = "1", num_replicas: int = 1, **ray_actor_options: Any) -> Any:
    @serve.deployment(num_replicas=num_replicas, ray_actor_options=ray_actor_options)
    class Model:
        def __call__(self) -> tuple[str, str | None]:
            return serve.get_replica_context().replica_tag, os.environ.get("CUDA_VISIBLE_DEVICES")

        def version(self) -> str:
            return version

    return Model


def visible(handle: Any, replicas: int) -> Counter[str | None]:
    """What the replicas see of the GPUs, each counted once."""
    seen: dict[str, str | None] = {}
    while len(seen) < replicas:
        replica, gpus = handle.remote().result(timeout_s=10)
        seen[replica] = gpus
    return Counter(seen.values())


def test_each_gpu_is_given_to_one_replica(http: httpx.Client) -> None:
    handle = serve.run(make_model(num_replicas=2, num_gpus=1).bind())
    assert visible(handle, 2) == {"0": 1, "1": 1}


def test_fractions_share_a_gpu(http: httpx.Client) -> None:
    handle = serve.run(make_model(num_replicas=4, num_gpus=0.5).bind())
    assert visible(handle, 4) == {"0": 2, "1": 2}


def test_several_gpus_go_to_one_replica(http: httpx.Client) -> None:
    assert visible(serve.run(make_model(num_gpus=2).bind()), 1) == {"0,1": 1}


def test_who_asks_for_no_gpu_has_the_environment_left_alone(http: httpx.Client) -> None:
    assert visible(serve.run(make_model().bind()), 1) == {None: 1}


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"num_gpus": 3}, "it needs 3 GPUs, this machine has 2"),
        ({"memory": 2_000_000_000}, "it needs 2 GB of memory, this machine has 1 GB"),
        ({"resources": {"license": 1}}, r"resource 'license', this machine has none \(did you mean 'licence'\?\)"),
    ],
)
def test_what_can_never_fit_is_refused_with_the_reason(
    http: httpx.Client, options: dict[str, Any], reason: str
) -> None:
    with pytest.raises(DeploymentFailedError, match=reason):
        serve.run(make_model(**options).bind())
    assert deployment("Model").status == "DEPLOY_FAILED"


def test_what_does_not_fit_now_says_what_it_waits_for_and_starts_when_there_is_room(http: httpx.Client) -> None:
    serve.run(make_model(num_gpus=2).bind(), name="first", route_prefix=None)
    target = serve.RunTarget(make_model(num_gpus=1).bind(), name="second", route_prefix=None)
    (handle,) = serve.run_many([target], wait_for_applications_running=False)
    until(lambda: "Waiting for resources" in deployment("Model", "second").message)
    message = deployment("Model", "second").message
    assert "a whole GPU, 0 of 2 are free" in message and "first#Model" in message
    serve.delete("first")
    assert visible(handle, 1) == {"0": 1}


def test_an_update_exchanges_replicas_in_waves_where_there_is_no_room_for_both(http: httpx.Client) -> None:
    handle = serve.run(make_model("1", num_replicas=2, num_gpus=1).bind())
    before = ids("Model")
    serve.run(make_model("2", num_replicas=2, num_gpus=1).bind())
    assert len(ids("Model")) == 2 and not ids("Model") & before
    assert handle.version.remote().result() == "2"


def test_resources_come_back_when_a_replica_dies(http: httpx.Client) -> None:
    serve.run(make_model(num_gpus=2, resources={"licence": 1}).bind())
    before = ids("Model")
    os.kill(running("Model")[0].pid or 0, 9)
    until(lambda: ids("Model") and not ids("Model") & before)


def test_more_cpus_than_there_are_is_a_warning_and_no_obstacle(http: httpx.Client) -> None:
    assert visible(serve.run(make_model(num_replicas=2, num_cpus=500).bind()), 2) == {None: 2}


def test_a_wrong_number_of_gpus_in_the_environment_is_told() -> None:
    script = "import headrace as serve; serve.start(http_options={'port': 0}, rest_options={'port': 0}); serve.status()"
    environment = {**os.environ, "HEADRACE_NUM_GPUS": "two"}
    ended = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 1
    assert "HEADRACE_NUM_GPUS must be a whole number of GPUs, not 'two'" in ended.stderr

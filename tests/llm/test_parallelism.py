"""From parallel sizes to the resources of a replica."""

from __future__ import annotations

from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.config.deployment_options import DeploymentOptions
from headrace.config.placement import Strategy
from headrace.exceptions import ConfigError
from headrace.llm import LLMConfig
from headrace.llm.config.accelerators import Kind
from headrace.llm.config.placement import PlacementGroupConfig
from headrace.llm.parallelism import ParallelSizes, hardware_kind, place_replica
from headrace.llm.server_options import server_options

sizes = st.builds(ParallelSizes, *(st.integers(1, 8) for _ in range(3)))
bundles = st.dictionaries(st.sampled_from(["CPU", "GPU", "memory", "ssd"]), st.integers(1, 8).map(float), min_size=1)
strategies = st.sampled_from(["PACK", "SPREAD", "STRICT_PACK"])


@given(sizes)
def test_each_worker_gets_a_gpu(size: ParallelSizes) -> None:
    placement = place_replica(size, "gpu")
    assert placement.bundles == ({"GPU": 1},) * size.workers
    assert placement.strategy == "PACK"
    assert placement.in_one_process().num_gpus == size.tensor * size.pipeline * size.data


@given(sizes)
def test_workers_on_cpus_get_no_gpus(size: ParallelSizes) -> None:
    share = place_replica(size, "cpu", accelerator_type="H100").in_one_process()
    assert (share.num_gpus, share.num_cpus, share.resources) == (0, size.workers, {})


@given(sizes, bundles, strategies)
def test_a_bundle_per_worker_is_repeated_for_each(size: ParallelSizes, bundle: dict[str, float], how: str) -> None:
    config = PlacementGroupConfig(bundle_per_worker=bundle, strategy=cast(Strategy, how))
    placement = place_replica(size, "cpu", placement=config)
    assert placement.bundles == (bundle,) * size.workers
    assert placement.strategy == how


@given(st.lists(bundles, min_size=1, max_size=6), bundles)
def test_nothing_is_lost_between_cluster_and_machine(given_bundles: list[dict[str, float]], replica: Any) -> None:
    """Added up, the bundles of a placement group are what one machine has to give, and the replica's own."""
    placement = place_replica(ParallelSizes(), "gpu", placement=PlacementGroupConfig(bundles=given_bundles))
    share = placement.in_one_process()
    on_a_cluster = placement.apart(replica)["placement_group_bundles"]

    def total(name: str, parts: list[dict[str, float]]) -> float:
        return sum(part.get(name, 0) for part in parts)

    assert share.num_gpus == total("GPU", given_bundles)
    assert share.num_cpus == total("CPU", given_bundles)
    assert (share.memory or 0) == total("memory", given_bundles)
    assert share.resources.get("ssd", 0) == total("ssd", given_bundles)
    for name in ("CPU", "GPU", "memory", "ssd"):
        assert total(name, on_a_cluster) == total(name, given_bundles) + replica.get(name, 0)
    assert len(on_a_cluster) == len(given_bundles)


def test_the_first_worker_shares_its_bundle_with_the_replica() -> None:
    placement = place_replica(ParallelSizes(tensor=2), "gpu", "H100")
    assert placement.apart({"CPU": 1, "GPU": 0}) == {
        "placement_group_bundles": [
            {"GPU": 1, "CPU": 1, "accelerator_type:H100": 0.001},
            {"GPU": 1, "accelerator_type:H100": 0.001},
        ],
        "placement_group_strategy": "PACK",
    }


def test_the_type_of_the_gpu_is_no_resource_of_one_machine() -> None:
    assert place_replica(ParallelSizes(), "gpu", "H100").in_one_process().resources == {}


def test_workers_cannot_be_spread_over_one_machine() -> None:
    config = PlacementGroupConfig(bundle_per_worker={"GPU": 1}, strategy="STRICT_SPREAD")
    assert place_replica(ParallelSizes(), "gpu", placement=config).in_one_process().num_gpus == 1
    with pytest.raises(ConfigError, match="STRICT_SPREAD"):
        place_replica(ParallelSizes(tensor=2), "gpu", placement=config).in_one_process()


def test_one_worker_may_take_part_of_a_gpu_but_several_may_not() -> None:
    config = PlacementGroupConfig(bundle_per_worker={"GPU": 0.5})
    assert place_replica(ParallelSizes(), "gpu", placement=config).in_one_process().num_gpus == 0.5
    with pytest.raises(ConfigError, match="would share GPUs with each other"):
        place_replica(ParallelSizes(tensor=2), "gpu", placement=config).in_one_process()


@pytest.mark.parametrize(
    ("engine_kwargs", "workers"),
    [
        ({}, 1),
        ({"tensor_parallel_size": 4}, 4),
        ({"tensor_parallel_size": 2, "pipeline_parallel_size": 3}, 6),
        ({"tensor_parallel_size": 2, "data_parallel_size": 2}, 4),
        ({"data_parallel_size": 8, "data_parallel_size_local": 2}, 2),
        ({"tensor_parallel_size": 2, "data_parallel_size": 8, "data_parallel_rank": 3}, 2),
        ({"tensor_parallel_size": None}, 1),
    ],
)
def test_sizes_are_read_from_the_engines_arguments(engine_kwargs: dict[str, Any], workers: int) -> None:
    assert ParallelSizes.of(engine_kwargs).workers == workers


@pytest.mark.parametrize(
    ("gpu_use", "gpus", "told", "kind"),
    [
        ("where there are some", 2, {}, "gpu"),
        ("where there are some", 0, {}, "cpu"),
        ("where there are some", 2, {"device": "cpu"}, "cpu"),
        ("where there are some", 0, {"device": "cuda:1"}, "gpu"),
        ("where there are some", 0, {"accelerator_kind": "gpu"}, "gpu"),
        ("where there are some", 2, {"accelerator_kind": "cpu"}, "cpu"),
        ("where asked for", 2, {}, "cpu"),
        ("where asked for", 2, {"accelerator_kind": "gpu"}, "gpu"),
        ("never", 2, {"accelerator_kind": "gpu"}, "cpu"),
    ],
)
def test_the_kind_of_hardware_follows_from_what_is_said_and_there(
    gpu_use: Any, gpus: int, told: dict[str, Any], kind: Kind
) -> None:
    assert hardware_kind(gpu_use, gpus, **told) == kind


@pytest.mark.parametrize(("bundle", "kind"), [({"GPU": 1}, "gpu"), ({"CPU": 4}, "cpu"), ({"TPU": 4}, "tpu")])
def test_bundles_tell_the_kind_of_hardware(bundle: dict[str, float], kind: Kind) -> None:
    placement = PlacementGroupConfig(bundle_per_worker=bundle)
    assert hardware_kind("where there are some", 8, accelerator_kind="gpu", placement=placement) == kind


# What becomes of it in a deployment; the GPUs that there are, are those that the variable says.


@pytest.fixture
def four_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_NUM_GPUS", "4")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def options_of(**config: Any) -> dict[str, Any]:
    return server_options(LLMConfig(model="m", **config))


def resources_of(**config: Any) -> dict[str, Any]:
    found: dict[str, Any] = options_of(**config)["ray_actor_options"]
    return found


@pytest.fixture
def every_engine_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headrace.llm.engines.find_spec", lambda name: name)


@pytest.mark.usefixtures("four_gpus", "every_engine_is_installed")
def test_a_replica_asks_for_the_gpus_of_its_workers() -> None:
    assert resources_of()["num_gpus"] == 1
    assert resources_of(llm_engine="transformers", tensor_parallel_size=4)["num_gpus"] == 4
    assert resources_of(llm_engine="transformers", device="cpu")["num_gpus"] == 0
    assert resources_of(data_parallel_size=2, tensor_parallel_size=2)["num_gpus"] == 4
    config = {"bundle_per_worker": {"GPU": 1, "CPU": 4}}
    in_one = resources_of(
        placement_group_config=config,
        tensor_parallel_size=2,
        distributed_executor_backend="mp",
        accelerator_type="H100",
    )
    assert in_one == {"num_cpus": 8, "num_gpus": 2, "accelerator_type": "H100", "resources": {}}


@pytest.mark.usefixtures("four_gpus", "every_engine_is_installed")
@pytest.mark.parametrize(
    ("config", "bundles", "strategy"),
    [
        (
            {"tensor_parallel_size": 2, "pipeline_parallel_size": 2},
            [{"GPU": 1, "CPU": 1}, {"GPU": 1}, {"GPU": 1}, {"GPU": 1}],
            "PACK",
        ),
        (
            {
                "pipeline_parallel_size": 2,
                "placement_group_config": {"bundle_per_worker": {"GPU": 1, "CPU": 2}, "strategy": "STRICT_SPREAD"},
                "deployment_config": {"ray_actor_options": {"num_cpus": 3, "memory": 5}},
            },
            [{"GPU": 1, "CPU": 5, "memory": 5}, {"GPU": 1, "CPU": 2}],
            "STRICT_SPREAD",
        ),
        (
            {"tensor_parallel_size": 2, "accelerator_type": "H100"},
            [{"GPU": 1, "CPU": 1, "accelerator_type:H100": 0.001}, {"GPU": 1, "accelerator_type:H100": 0.001}],
            "PACK",
        ),
        ({"distributed_executor_backend": "ray"}, [{"GPU": 1, "CPU": 1}], "PACK"),
    ],
)
def test_vllms_workers_get_bundles_that_may_be_on_several_machines(
    config: dict[str, Any], bundles: list[dict[str, float]], strategy: str
) -> None:
    options = options_of(**config)
    assert options["placement_group_bundles"] == bundles
    assert options["placement_group_strategy"] == strategy
    assert "num_gpus" not in options["ray_actor_options"]
    DeploymentOptions.from_user(**options)


@pytest.mark.usefixtures("four_gpus", "every_engine_is_installed")
def test_a_gang_of_models_has_the_strategy_of_the_gang() -> None:
    gang = {"gang_scheduling_config": {"gang_size": 2}, "num_replicas": 2}
    options = options_of(tensor_parallel_size=2, deployment_config=gang)
    assert len(options["placement_group_bundles"]) == 2 and "placement_group_strategy" not in options
    DeploymentOptions.from_user(**options)


@pytest.mark.usefixtures("four_gpus", "every_engine_is_installed")
def test_what_the_deployment_says_of_its_replicas_goes_first() -> None:
    given = {"ray_actor_options": {"num_gpus": 0.25, "num_cpus": 3}}
    assert resources_of(deployment_config=given) == {"num_gpus": 0.25, "num_cpus": 3, "resources": {}}
    in_one = options_of(deployment_config={"ray_actor_options": {"num_gpus": 4}}, tensor_parallel_size=4)
    assert in_one["ray_actor_options"]["num_gpus"] == 4 and "placement_group_bundles" not in in_one


@pytest.mark.usefixtures("four_gpus")
def test_the_simulated_engine_needs_no_gpus_whatever_the_config_says() -> None:
    assert resources_of(llm_engine="simulated", accelerator_type="H100", tensor_parallel_size=4)["num_gpus"] == 0
    bundles = {"bundle_per_worker": {"GPU": 1}, "strategy": "STRICT_SPREAD"}
    assert (
        resources_of(llm_engine="simulated", placement_group_config=bundles, pipeline_parallel_size=2)["num_gpus"] == 0
    )

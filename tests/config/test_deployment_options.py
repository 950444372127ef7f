"""The options of a deployment: defaults, mistakes, merging, and the way through JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.config import (
    AutoscalingConfig,
    BackpressureConfig,
    DeploymentOptions,
    LoggingConfig,
    RayActorOptions,
    RequestRouterConfig,
    RuntimeEnv,
)

from .wrong import message

from_user = DeploymentOptions.from_user
seconds = st.floats(min_value=0.001, max_value=1e6)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
valid_options = st.fixed_dictionaries(
    {},
    optional={
        "name": st.text(min_size=1).filter(lambda name: "#" not in name),
        "num_replicas": st.integers(1, 1000) | st.none(),
        "max_ongoing_requests": st.integers(1, 1000),
        "max_concurrent_sync": st.integers(1, 64),
        "max_queued_requests": st.integers(1, 1000) | st.just(-1),
        "user_config": json_values,
        "backpressure_config": st.builds(
            BackpressureConfig, status_code=st.sampled_from([503, 429]), retry_after_s=st.none() | seconds
        ),
        "ray_actor_options": st.fixed_dictionaries(
            {},
            optional={
                "num_cpus": st.floats(0, 64),
                "num_gpus": st.floats(0, 1) | st.integers(0, 8),
                "memory": st.integers(0, 2**40),
                "resources": st.dictionaries(st.sampled_from(["TPU", "disk"]), st.floats(0, 10)),
                "runtime_env": st.fixed_dictionaries(
                    {"env_vars": st.dictionaries(st.from_regex(r"\A[A-Z_]+\Z"), st.text(alphabet="abc="), max_size=3)}
                ),
            },
        ),
        "logging_config": st.builds(LoggingConfig, log_level=st.sampled_from(["DEBUG", "ERROR"])) | st.none(),
        "request_router_config": st.builds(RequestRouterConfig, request_router_class=st.sampled_from([None, "a:B"])),
        "graceful_shutdown_timeout_s": seconds,
        "health_check_period_s": seconds,
        "rolling_update_percentage": st.floats(0.01, 1),
        "max_surge_percent": st.integers(0, 100),
    },
)


@settings(deadline=None)
@given(valid_options)
def test_options_survive_json(options: dict[str, Any]) -> None:
    made = from_user(**options)
    assert DeploymentOptions(**json.loads(json.dumps(made.model_dump(mode="json")))) == made


@settings(deadline=None)
@given(valid_options, valid_options)
def test_updating_is_the_same_as_giving_everything_at_once(first: dict[str, Any], second: dict[str, Any]) -> None:
    assert from_user(**first).updated(**second) == from_user(**{**first, **second})


def test_defaults_are_ray_serves() -> None:
    options = DeploymentOptions()
    assert (options.num_replicas, options.max_ongoing_requests, options.max_queued_requests) == (1, 5, -1)
    assert (options.graceful_shutdown_wait_loop_s, options.graceful_shutdown_timeout_s) == (2, 20)
    assert (options.health_check_period_s, options.health_check_timeout_s) == (10, 30)
    assert (options.max_constructor_retry_count, options.rolling_update_percentage) == (20, 0.2)
    assert (options.ray_actor_options.num_cpus, options.ray_actor_options.num_gpus) == (1, 0)
    assert options.backpressure_config.status_code == 503


@pytest.mark.parametrize(
    ("given_options", "said"),
    [
        ({"num_replica": 2}, "num_replica: no such option; did you mean 'num_replicas'?"),
        ({"num_gpus": 1}, "num_gpus: no such option here; it belongs in 'ray_actor_options'"),
        ({"max_concurrent_queries": 1}, "it is now called 'max_ongoing_requests'"),
        ({"num_replicas": 0}, "num_replicas: must be at least 1, not 0"),
        ({"num_replicas": "two"}, "num_replicas: must be a whole number or 'auto', not 'two'"),
        ({"num_replicas": True}, "num_replicas: must be a whole number, not True"),
        ({"num_replicas": 1.5}, "num_replicas: must be a whole number, not 1.5"),
        ({"max_queued_requests": 0}, "max_queued_requests: must be at least 1, or -1 for no limit, not 0"),
        ({"health_check_period_s": 0}, "health_check_period_s: must be greater than 0, not 0"),
        ({"health_check_timeout_s": float("inf")}, "health_check_timeout_s: must be a finite number, not inf"),
        ({"rolling_update_percentage": 20}, "rolling_update_percentage: must be at most 1"),
        ({"name": "a#b"}, "must not contain '#'"),
        ({"version": "2"}, "version: is not taken"),
        ({"user_config": {"a": {1}}}, "user_config: must be JSON-serializable"),
        ({"backpressure_config": {"status_code": 500}}, "backpressure_config.status_code: must be 503 or 429, not 500"),
        ({"backpressure_config": {"retry_after": 5}}, "did you mean 'retry_after_s'?"),
        ({"logging_config": {"log_level": "DEBG"}}, "did you mean 'DEBUG'?"),
        ({"placement_group_strategy": "STRICTPACK"}, "did you mean 'STRICT_PACK'?"),
        ({"placement_group_strategy": "SPREAD"}, "'SPREAD' needs placement_group_bundles"),
        ({"placement_group_bundles": []}, "must have at least one bundle"),
        ({"placement_group_bundles": [{"CPU": 0.5}]}, "which has 0.5 CPU, but ray_actor_options asks for 1"),
        ({"max_replicas_per_node": 101}, "max_replicas_per_node: must be at most 100, not 101"),
        ({"gang_scheduling_config": {"gang_size": 2}, "num_replicas": 3}, "must be a multiple of gang_size (2)"),
        ({"deployment_actors": [{"name": "x"}]}, "deployment_actors[0].actor_class: is required"),
        ({"request_router_config": {"request_router_kwargs": {"a": 1}}}, "needs a request_router_class"),
        ({"request_router_config": {"request_router_class": "ray.x:Y"}}, "which cannot run here"),
        ({"num_replicas": 2, "autoscaling_config": {}}, "num_replicas=2 and autoscaling_config exclude each other"),
        ({"autoscaling_config": {"min_replicas": 3}}, "max_replicas (1) must be at least min_replicas (3)"),
        (
            {"autoscaling_config": {"target_num_ongoing_requests_per_replica": 3}},
            "it is now called 'target_ongoing_requests'",
        ),
    ],
)
def test_a_mistake_is_told_with_field_value_and_what_is_right(given_options: dict[str, Any], said: str) -> None:
    assert said in message(from_user, **given_options)


def test_all_mistakes_are_told_at_once_with_the_deployments_name() -> None:
    assert message(from_user, name="Model", num_replicas=0, max_ongoing_request=3) == (
        "deployment 'Model': 2 mistakes\n"
        "  - num_replicas: must be at least 1, not 0\n"
        "  - max_ongoing_request: no such option; did you mean 'max_ongoing_requests'?"
    )


def test_a_model_made_directly_raises_the_same_error() -> None:
    assert message(BackpressureConfig, status_code=404) == (
        "wrong backpressure_config: status_code: must be 503 or 429, not 404"
    )


def test_none_is_the_default() -> None:
    assert from_user(num_replicas=None, backpressure_config=None, health_check_period_s=None) == DeploymentOptions()


def test_updating_with_none_goes_back_to_the_default() -> None:
    options = from_user(num_replicas=3, user_config={"a": 1}).updated(num_replicas=None, user_config=None)
    assert options == DeploymentOptions()


def test_auto_is_autoscaling_from_1_to_100_under_what_is_given() -> None:
    options = DeploymentOptions(num_replicas="auto", autoscaling_config={"max_replicas": 7})
    assert options.num_replicas is None
    assert options.autoscaling_config == AutoscalingConfig(min_replicas=1, max_replicas=7, target_ongoing_requests=2)
    assert options.initial_num_replicas == 1
    assert DeploymentOptions(**options.model_dump(mode="json")) == options


def test_autoscaling_fields_of_old_and_new_releases_are_known() -> None:
    config = AutoscalingConfig(
        min_replicas=1,
        max_replicas=10,
        initial_replicas=2,
        target_ongoing_requests=5,
        upscale_delay_s=30,
        downscale_delay_s=300,
        downscaling_factor=0.7,
        smoothing_factor=0.5,
        metrics_interval_s=10,
        aggregation_function="MAX",
    )
    assert (config.effective_upscaling_factor, config.effective_downscaling_factor) == (0.5, 0.7)
    assert AutoscalingConfig(**config.model_dump(mode="json")) == config


class Policy:
    """Stands for a routing policy of a user's."""


def test_a_policy_class_becomes_its_import_path() -> None:
    config = RequestRouterConfig(request_router_class=Policy, request_router_kwargs={"a": (1, 2)})
    assert config.routing_policy == {
        "request_router_class": f"{__name__}:Policy",
        "request_router_kwargs": {"a": [1, 2]},
    }


def test_ray_serves_default_router_is_ours() -> None:
    config = RequestRouterConfig(
        request_router_class="ray.serve._private.request_router:PowerOfTwoChoicesRequestRouter"
    )
    assert config == RequestRouterConfig()
    assert config.routing_policy == {}


@pytest.mark.parametrize("separator", [":", "."])
def test_ray_serves_prefix_router_is_ours(separator: str) -> None:
    config = RequestRouterConfig(
        request_router_class=f"ray.serve.llm.request_router{separator}PrefixCacheAffinityRouter",
        request_router_kwargs={"imbalanced_threshold": 5},
    )
    assert config.routing_policy == {
        "request_router_class": "headrace.llm.routing:PrefixAffinity",
        "request_router_kwargs": {"imbalanced_threshold": 5},
    }


def test_a_policy_that_other_processes_cannot_import_is_refused() -> None:
    class Local:
        pass

    assert "move it to the top level of a module" in message(RequestRouterConfig, request_router_class=Local)


@pytest.mark.parametrize(
    ("ray_actor_options", "said"),
    [
        ({"num_gpu": 1}, "did you mean 'num_gpus'?"),
        ({"num_gpus": 1.5}, "must be a fraction of one GPU or a whole number of GPUs, not 1.5"),
        ({"num_cpus": -1}, "ray_actor_options.num_cpus: must be at least 0, not -1"),
        ({"resources": {"GPU": 1}}, "'GPU' is not a custom resource; use the option 'num_gpus'"),
        ({"runtime_env": {"container": {}, "pips": []}}, "runtime_env.pips: no such option; did you mean 'pip'?"),
        ({"runtime_env": {"container": {"image": "x"}}}, "runtime_env.container: is called 'image_uri' now"),
        ({"runtime_env": {"env_vars": {"PORT": 8000}}}, 'must be a string, not 8000; put it in quotes: "8000"'),
        ({"runtime_env": {"env_vars": {"A=B": "x"}}}, "'A=B' cannot be an environment variable"),
    ],
)
def test_mistakes_in_ray_actor_options_are_told(ray_actor_options: dict[str, Any], said: str) -> None:
    assert said in message(from_user, ray_actor_options=ray_actor_options)


def test_a_runtime_env_inherits_from_the_applications() -> None:
    outer = {"env_vars": {"A": "1", "B": "1"}, "working_dir": "/x", "pip": ["a"]}
    application = RayActorOptions(runtime_env=outer)  # type: ignore[arg-type]
    deployment = RayActorOptions(runtime_env={"env_vars": {"B": "2"}, "pip": [], "uv": ["b"]})  # type: ignore[arg-type]
    inner = deployment.runtime_env.over(application.runtime_env)
    assert inner.model_dump(exclude_defaults=True) == {
        "env_vars": {"A": "1", "B": "2"},
        "working_dir": "/x",
        "pip": ["a"],
        "uv": ["b"],
    }


@pytest.mark.parametrize(
    ("working_dir", "folder"), [("/x", "/x"), ("local:///x", "/x"), ("s3://bucket/x.zip", None), (None, None)]
)
def test_an_archive_that_machines_download_is_no_folder(working_dir: str | None, folder: str | None) -> None:
    assert RuntimeEnv(working_dir=working_dir).folder == folder


@pytest.mark.parametrize(
    ("given_options", "field"),
    [
        ({"deployment_actors": [{"name": "a", "actor_class": "m:C"}]}, "deployment_actors"),
    ],
)
def test_what_would_silently_do_nothing_is_refused(given_options: dict[str, Any], field: str) -> None:
    said = message(from_user, **given_options)
    assert said.startswith(f"deployment options: {field}: ")
    assert "is not available yet" in said
    assert "remove" in said


def test_replicas_of_a_gang_whose_number_follows_the_load_are_whole_gangs() -> None:
    options = from_user(num_replicas="auto", gang_scheduling_config={"gang_size": 3})
    assert options.autoscaling_config is not None
    assert (options.autoscaling_config.min_replicas, options.autoscaling_config.max_replicas) == (3, 99)
    uneven = {"min_replicas": 3, "max_replicas": 10}
    said = message(from_user, autoscaling_config=uneven, gang_scheduling_config={"gang_size": 3})
    assert "autoscaling_config.max_replicas (10) must be a multiple of gang_size (3)" in said


def test_packing_a_replica_without_bundles_is_no_contradiction() -> None:
    assert from_user(placement_group_strategy="STRICT_PACK").placement_group_strategy == "STRICT_PACK"


@pytest.mark.parametrize(
    "given_options",
    [
        {"placement_group_bundles": [{"CPU": 1, "GPU": 1}, {"GPU": 1}], "placement_group_strategy": "SPREAD"},
        {"placement_group_bundles": [{"CPU": 1}], "placement_group_bundle_label_selector": [{"zone": "a"}]},
        {"max_replicas_per_node": 1},
        {"gang_scheduling_config": {"gang_size": 2}, "num_replicas": 4},
        {"ray_actor_options": {"accelerator_type": "H100", "label_selector": {"zone": "a"}}},
        {"ray_actor_options": {"fallback_strategy": [{"label_selector": {"zone": "b"}}]}},
        {"placement_group_strategy": "STRICT_PACK", "ray_actor_options": {"num_gpus": 4}},
    ],
)
def test_placement_is_an_option_whatever_the_engine(given_options: dict[str, Any]) -> None:
    options = from_user(**given_options)
    assert given_options.keys() <= options.model_fields_set

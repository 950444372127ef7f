"""What configs become: deployments and their options."""

from __future__ import annotations

from typing import Any

import pytest

from headrace.exceptions import ConfigError
from headrace.llm import LLMConfig, LLMIngress, LLMServer, LLMServingArgs, build_llm_deployment, build_openai_app


def simulated(model: str = "m", **fields: Any) -> LLMConfig:
    return LLMConfig(model=model, llm_engine="simulated", **fields)


def test_a_deployment_is_named_after_its_model() -> None:
    assert LLMServer.bind(simulated("org/model-1.5")).deployment.name == "LLMServer:org--model-1_5"
    assert build_llm_deployment(simulated(), name_prefix="prod-").deployment.name == "prod-m"
    named = simulated(deployment_config={"name": "chat"})
    assert LLMServer.bind(named).deployment.name == "LLMServer:chat"


def test_options_are_the_configs_over_defaults_for_llms() -> None:
    options = LLMServer.bind(simulated(deployment_config={"max_queued_requests": 7})).deployment.deployment_options
    assert options.max_ongoing_requests >= 10_000
    assert options.max_queued_requests == 7
    assert options.health_check_period_s == 10


def test_options_given_to_the_builder_go_first() -> None:
    config = simulated(deployment_config={"num_replicas": 2})
    app = build_llm_deployment(config, override_serve_options={"num_replicas": 3, "name": "mine"})
    assert (app.deployment.num_replicas, app.deployment.name) == (3, "mine")


@pytest.mark.parametrize(
    ("settings", "scaling", "target"),
    [
        ({}, {"max_replicas": 4}, 32),
        ({"max_num_seqs": 64}, {"max_replicas": 4}, 64),
        ({"max_num_seqs": 64}, {"max_replicas": 4, "target_ongoing_requests": 5}, 5),
    ],
)
def test_scaling_aims_at_full_batches_unless_told_otherwise(
    settings: dict[str, Any], scaling: dict[str, Any], target: float
) -> None:
    config = simulated(**settings, deployment_config={"autoscaling_config": scaling})
    found = LLMServer.bind(config).deployment.autoscaling_config
    assert found is not None
    assert (found.target_ongoing_requests, found.max_replicas) == (target, 4)


def test_scaling_may_aim_at_what_engines_tell() -> None:
    scaling = {"max_replicas": 4, "target_metrics": {"kv_cache_use": 0.8, "ttft_p95_s": 0.5}}
    found = LLMServer.bind(simulated(deployment_config={"autoscaling_config": scaling})).deployment.autoscaling_config
    assert found is not None
    assert found.target_ongoing_requests is None
    targets = {name: (target.target, target.kind) for name, target in found.target_metrics.items()}
    assert targets == {"kv_cache_use": (0.8, "shared"), "ttft_p95_s": (0.5, "level")}


def test_auto_scales_by_full_batches_too() -> None:
    found = LLMServer.bind(simulated(deployment_config={"num_replicas": "auto"})).deployment.autoscaling_config
    assert found is not None
    assert (found.target_ongoing_requests, found.max_replicas) == (32, 100)


def test_the_environment_is_the_configs_over_the_deployments() -> None:
    config = simulated(
        runtime_env={"env_vars": {"A": "1", "B": "1"}},
        deployment_config={"ray_actor_options": {"runtime_env": {"env_vars": {"B": "2", "C": "2"}}}},
    )
    options = LLMServer.bind(config).deployment.ray_actor_options
    assert options["runtime_env"]["env_vars"] == {"A": "1", "B": "1", "C": "2"}


def test_the_front_has_as_many_replicas_as_the_models_ask_for() -> None:
    configs = [simulated("a", experimental_configs={"num_ingress_replicas": n}) for n in (2,)] + [simulated("b")]
    assert build_openai_app({"llm_configs": configs}).deployment.num_replicas == 2
    args = LLMServingArgs(llm_configs=configs, ingress_deployment_config={"num_replicas": 3, "name": "Front"})
    front = build_openai_app(args).deployment
    assert (front.num_replicas, front.name) == (3, "Front")


class Branded(LLMIngress):
    pass


@pytest.mark.parametrize("cls", [Branded, f"{__name__}:Branded", f"{__name__}.Branded"])
def test_the_class_of_the_front_may_be_another_one(cls: Any) -> None:
    app = build_openai_app({"llm_configs": [simulated()], "ingress_cls_config": {"ingress_cls": cls}})
    assert app.deployment.name == "Branded"


def test_a_class_that_cannot_be_imported_is_named() -> None:
    with pytest.raises(ConfigError, match="'nowhere:Server' cannot be imported"):
        build_llm_deployment(simulated(server_cls="nowhere:Server"))

"""`LLMConfig` in both of its forms, and what it says of mistakes."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

from headrace.exceptions import ConfigError
from headrace.llm import CloudMirrorConfig, LLMConfig, LLMServingArgs, LoraConfig, ModelLoadingConfig


def test_flat_arguments_are_the_engines() -> None:
    config = LLMConfig(model="org/model", tensor_parallel_size=2, max_model_len=8192, gpu_memory_utilization=0.8)
    assert (config.model_id, config.model_source) == ("org/model", "org/model")
    assert config.engine_kwargs == {"tensor_parallel_size": 2, "max_model_len": 8192, "gpu_memory_utilization": 0.8}
    assert config.max_request_context_length == 8192


def test_both_forms_mean_the_same() -> None:
    flat = LLMConfig(model="org/model", model_id="m", max_model_len=10)
    nested = LLMConfig(
        model_loading_config={"model_id": "m", "model_source": "org/model"}, engine_kwargs={"max_model_len": 10}
    )
    assert flat == nested


def test_a_model_without_a_source_is_loaded_by_its_id() -> None:
    config = LLMConfig(model_loading_config={"model_id": "org/model"})
    assert config.model_source == "org/model"


def test_parts_may_be_objects() -> None:
    config = LLMConfig(
        model_loading_config=ModelLoadingConfig(
            model_id="m", model_source=CloudMirrorConfig(bucket_uri="s3://bucket/model")
        ),
        lora_config=LoraConfig(dynamic_lora_loading_path="s3://bucket/adapters/"),
    )
    assert config.model_source == "s3://bucket/model"
    assert config.lora_config is not None
    assert config.lora_config.dynamic_lora_loading_path == "s3://bucket/adapters"


@pytest.mark.parametrize("name", ["vLLM", "vllm", "VLLM"])
def test_the_engine_is_found_in_any_case(name: str) -> None:
    assert LLMConfig(model="m", llm_engine=name).llm_engine == "vllm"


def test_the_engine_is_vllm_unless_told() -> None:
    assert LLMConfig(model="m").llm_engine == "vllm"


def test_an_a10_is_the_card_that_clouds_call_a10g() -> None:
    assert LLMConfig(model="m", accelerator_type="A10").accelerator_type == "A10G"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "model: is required"),
        ({"model_loding_config": {"model_id": "m"}}, "did you mean 'model_loading_config'"),
        ({"model_loading_config": {"model_idd": "m"}}, "model_loading_config.model_idd: no such option; did you mean"),
        ({"model": "m", "enginekwargs": {}}, "enginekwargs: no such option; did you mean 'engine_kwargs'?"),
        ({"model": "m", "num_replicas": 2}, "num_replicas: is an option of the deployment"),
        ({"model": "m", "max_replicas": 2}, "max_replicas: belongs in deployment_config={'autoscaling_config'"),
        ({"model": "m", "llm_engine": "vlm"}, "llm_engine: must be .* did you mean 'vllm'?"),
        ({"model": "m", "accelerator_type": "H10"}, "accelerator_type: 'H10' is no accelerator type; did you mean"),
        ({"model": "m", "deployment_config": {"num_replica": 2}}, "deployment_config: .*did you mean 'num_replicas'"),
        ({"model": "m", "deployment_config": {"placement_group_bundles": []}}, "use placement_group_config"),
        ({"model": "m", "lora_config": {"max_adapters": 1}}, "lora_config.max_adapters: no such option"),
        ({"model": "m", "engine_kwargs": {"model": "n"}}, "engine_kwargs.model: does not belong here"),
        ({"model": "m", "tensor_parallel_size": 0}, "tensor_parallel_size: must be a whole number of at least 1"),
        ({"model": "m", "placement_group_config": {}}, "placement_group_config.bundle_per_worker: is required"),
        (
            {"model": "m", "accelerator_type": "H100", "accelerator_config": {"kind": "cpu"}},
            "accelerator_config.kind: is 'cpu', but accelerator_type 'H100' is a GPU",
        ),
        ({"model": "m", "model_loading_config": {"model_id": "n"}}, "is given beside model_loading_config"),
        ({"model": "m", "max_model_len": 1, "engine_kwargs": {"max_model_len": 2}}, "is given here and in engine_kwar"),
        ({"model": "m", "disable_log_stats": True}, "engine_kwargs.disable_log_stats: excludes log_engine_metrics"),
        (
            {"model": "m", "experimental_configs": {"num_ingres_replicas": 1}},
            "experimental_configs.num_ingres_replicas: no such option; did you mean 'num_ingress_replicas'",
        ),
        ({"model": "m", "experimental_configs": {"num_router_replicas": 1}}, "now called 'num_ingress_replicas'"),
    ],
)
def test_a_mistake_is_named_with_what_would_be_right(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        LLMConfig(**given)


def test_a_config_is_read_from_yaml(tmp_path: Path) -> None:
    path = tmp_path / "model.yaml"
    path.write_text(
        "model_loading_config:\n  model_id: m\nllm_engine: simulated\ndeployment_config:\n  num_replicas: 2\n"
    )
    config = LLMConfig.from_file(path)
    assert (config.model_id, config.llm_engine, config.deployment_config) == ("m", "simulated", {"num_replicas": 2})


def test_a_mistake_in_a_file_is_told_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "model.yaml"
    path.write_text("model: m\nllm_engine: nothing\n")
    with pytest.raises(ConfigError, match=r"model\.yaml: .*llm_engine: must be"):
        LLMConfig.from_file(path)
    with pytest.raises(ConfigError, match="cannot read"):
        LLMConfig.from_file(tmp_path / "missing.yaml")


def test_a_config_survives_pickling() -> None:
    config = LLMConfig(model="m", max_model_len=3, lora_config={})
    assert pickle.loads(pickle.dumps(config)) == config


def test_serving_arguments_take_configs_dicts_and_files(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("model: c\n")
    args = LLMServingArgs(llm_configs=[LLMConfig(model="a"), {"model": "b"}, str(path)])
    assert [config.model_id for config in args.llm_configs] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"llm_configs": []}, "llm_configs: must have at least one model"),
        ({"llm_configs": [{"model": "a"}, {"model": "a"}]}, "two models have the id 'a'"),
        ({"llm_configs": [{"model": "a"}, {"model": "b", "llm_engine": "x"}]}, r"llm_configs\[1\]\.llm_engine: must"),
        ({"llm_config": [{"model": "a"}]}, "llm_config: no such option; did you mean 'llm_configs'?"),
        ({"llm_configs": ["/nowhere.yaml"]}, "cannot read '/nowhere.yaml'"),
    ],
)
def test_a_mistake_in_serving_arguments_is_named(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        LLMServingArgs(**given)

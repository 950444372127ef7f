"""vLLM on this machine's CPUs, serving random models. One instance is shared by the tests of what clients get."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.llm.tiny_llama import make_lora_adapter, make_tiny_llama

import headrace as serve
from headrace import client as driver

ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    # GiB; it would take nearly half of the machine's memory.
    "VLLM_CPU_KVCACHE_SPACE": "1",
    # Each engine would bind its threads to the same cores as the others', and they wait for each other busily.
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    # Some of vLLM's functions are compiled when they are first used, eager or not.
    "TORCHDYNAMO_DISABLE": "1",
}
ENGINE_KWARGS: dict[str, Any] = {"enforce_eager": True, "max_model_len": 512, "max_num_seqs": 16}
"""Small, and without minutes of compiling."""


@pytest.fixture(scope="session", autouse=True)
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No downloads, and instances apart from those of the machine's user."""
    changed = {**ENVIRONMENT, "HEADRACE_SESSIONS": str(tmp_path_factory.mktemp("s"))}
    before = {name: os.environ.get(name) for name in changed}
    os.environ.update(changed)
    yield
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama."""
    return make_tiny_llama(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def adapters(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Path:
    """A folder with the adapters `one` and `two`."""
    folder = tmp_path_factory.mktemp("adapters")
    make_lora_adapter(folder / "one", model, seed=1)
    make_lora_adapter(folder / "two", model, seed=2)
    return folder


@pytest.fixture(scope="session")
def api(environment: None, model: Path, adapters: Path) -> Iterator[str]:
    """The address of an application with the model `chat`, which has tools and adapters."""
    from headrace.llm import LLMConfig, build_openai_app

    chat = LLMConfig(
        model_loading_config={"model_id": "chat", "model_source": str(model)},
        engine_kwargs={
            **ENGINE_KWARGS,
            "enable_auto_tool_choice": True,
            "tool_call_parser": "hermes",
            "scheduling_policy": "priority",
            # A random model likes blanks between the values of a JSON object.
            "structured_outputs_config": {"backend": "xgrammar", "disable_any_whitespace": True},
            "enable_prompt_tokens_details": True,
        },
        lora_config={"dynamic_lora_loading_path": str(adapters), "max_num_adapters_per_replica": 2},
    )
    serve.start(http_options={"port": 0}, rest_options={"port": 0})
    try:
        serve.run(build_openai_app({"llm_configs": [chat]}))
        yield driver.find().http_url or ""
    finally:
        serve.shutdown()

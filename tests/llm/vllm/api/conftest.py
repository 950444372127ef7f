"""One application on vLLM, shared by the tests of what clients get from it: none of them may end or change it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.llm.vllm.conftest import ENGINE_KWARGS

import headrace as serve
from headrace import client as driver


@pytest.fixture(scope="package")
def api(environment: None, tmp_path_factory: pytest.TempPathFactory, model: Path, adapters: Path) -> Iterator[str]:
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
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADRACE_SESSIONS", str(tmp_path_factory.mktemp("s")))
        serve.start(http_options={"port": 0}, rest_options={"port": 0})
        try:
            serve.run(build_openai_app({"llm_configs": [chat]}))
            yield driver.find().http_url or ""
        finally:
            serve.shutdown()

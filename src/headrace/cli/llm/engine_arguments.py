"""Arguments of an inference engine on the command line, as `vllm serve` takes them: `--max-num-seqs 64`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

from headrace.exceptions import ConfigError


def engine_kwargs(arguments: Sequence[str]) -> dict[str, Any]:
    """`["--max-num-seqs", "64", "--enable-lora", "--no-enforce-eager"]` as
    `{"max_num_seqs": 64, "enable_lora": True, "enforce_eager": False}`.

    Values are read as YAML, so that numbers, booleans and JSON objects are what they look like; a name without a value
    is True, with `no-` before it False.

    Raises:
        ConfigError: something is no option, or is given twice.
    """
    found: dict[str, Any] = {}
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if not argument.startswith("--") or argument == "--":
            raise ConfigError(f"'{argument}' is no option of this command; those of the engine look like --NAME VALUE")
        name, given, text = argument[2:].partition("=")
        name = name.replace("-", "_")
        value: Any
        if given:
            value = _value(name, text)
        elif rest and not rest[0].startswith("--"):
            value = _value(name, rest.pop(0))
        else:
            value = not name.startswith("no_")
            name = name.removeprefix("no_")
        if name in found:
            raise ConfigError(f"--{name.replace('_', '-')} is given twice")
        found[name] = value
    return found


def _value(name: str, text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--{name.replace('_', '-')}: '{text}' cannot be read: {error}") from None

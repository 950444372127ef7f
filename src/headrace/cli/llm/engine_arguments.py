"""Arguments of an inference engine on the command line, as `vllm serve` takes them: `--max-num-seqs 64`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from headrace.exceptions import ConfigError


def engine_kwargs(arguments: Sequence[str]) -> dict[str, Any]:
    """`["--max-num-seqs", "64", "--enable-lora", "--no-enforce-eager", "--hf-overrides.rope_theta", "1e6"]` as
    `{"max_num_seqs": 64, "enable_lora": True, "enforce_eager": False, "hf_overrides": {"rope_theta": 1000000.0}}`.

    Values are read as YAML, so that numbers, booleans and JSON objects are what they look like; several after one name
    are a list; a name without a value is True, with `no-` before it False; what follows a dot in a name is a key of an
    object.

    Raises:
        ConfigError: something is no option, or is given twice.
    """
    found: dict[str, Any] = {}
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if not argument.startswith("--") or argument == "--":
            raise ConfigError(f"'{argument}' is no option of this command; those of the engine look like --NAME VALUE")
        written, given, text = argument[2:].partition("=")
        head, *keys = written.split(".")
        name = head.replace("-", "_")
        values = [text] if given else []
        while rest and not given and not rest[0].startswith("--"):
            values.append(rest.pop(0))
        value: Any
        if values:
            read = [_value(written, text) for text in values]
            value = read if len(read) > 1 else read[0]
        else:
            value = not name.startswith("no_")
            name = name.removeprefix("no_")
        _put(found, [name, *keys], value, written)
    return found


def _put(found: dict[str, Any], path: list[str], value: Any, written: str) -> None:
    *way, last = path
    place: Any = found
    for key in way:
        place = place.setdefault(key, {})
        if not isinstance(place, dict):
            raise ConfigError(f"--{written}: --{path[0].replace('_', '-')} is given as a whole too")
    if last in place:
        raise ConfigError(f"--{written} is given twice")
    place[last] = value


def _value(written: str, text: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--{written}: '{text}' cannot be read: {error}") from None

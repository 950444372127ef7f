"""Command lines of `vllm serve`, as `headrace llm serve` takes them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from headrace.exceptions import ConfigError

_SHORT = {
    "-tp": "--tensor-parallel-size",
    "-pp": "--pipeline-parallel-size",
    "-dp": "--data-parallel-size",
    "-dcp": "--decode-context-parallel-size",
    "-pcp": "--prefill-context-parallel-size",
    "-ep": "--enable-expert-parallel",
    "-q": "--quantization",
    "-sc": "--speculative-config",
    "-cc": "--compilation-config",
    "-ac": "--attention-config",
    "-O": "--optimization-level",
}

_REPEATED = ("--api-key",)
"""vLLM takes several values after one name; here the name is given again for each."""

_ONE_MACHINE = "an engine runs on one machine here"
_PROXY = "the HTTP server is Headrace's"
REFUSED = {
    "allow-credentials": f"{_PROXY}; add CORS in an ASGI application in front",
    "allowed-headers": f"{_PROXY}; add CORS in an ASGI application in front",
    "allowed-methods": f"{_PROXY}; add CORS in an ASGI application in front",
    "allowed-origins": f"{_PROXY}; add CORS in an ASGI application in front",
    "data-parallel-address": _ONE_MACHINE,
    "data-parallel-external-lb": "use --replicas, between which Headrace balances",
    "data-parallel-hybrid-lb": "use --replicas, between which Headrace balances",
    "enable-ssl-refresh": f"{_PROXY}; end TLS in a reverse proxy",
    "grpc": "there is no gRPC here",
    "headless": _ONE_MACHINE,
    "master-addr": _ONE_MACHINE,
    "middleware": f"{_PROXY}; use `ingress_cls_config` of build_openai_app",
    "nnodes": _ONE_MACHINE,
    "node-rank": _ONE_MACHINE,
    "root-path": "use --route-prefix, unless a proxy in front strips the prefix: then none is needed",
    "ssl-ca-certs": f"{_PROXY}; end TLS in a reverse proxy",
    "ssl-cert-reqs": f"{_PROXY}; end TLS in a reverse proxy",
    "ssl-certfile": f"{_PROXY}; end TLS in a reverse proxy",
    "ssl-ciphers": f"{_PROXY}; end TLS in a reverse proxy",
    "ssl-keyfile": f"{_PROXY}; end TLS in a reverse proxy",
    "uds": f"{_PROXY}, and listens on a port",
}
"""Options of `vllm serve` that would mean something, but not here; with what to do instead."""

NEEDLESS = {
    "api-server-count": "proxies are processes of their own",
    "disable-access-log-for-endpoints": "requests are not logged one by one",
    "disable-fastapi-docs": "there are none",
    "disable-uvicorn-access-log": "requests are not logged one by one",
    "enable-request-id-headers": "answers always carry x-request-id",
    "h11-max-header-count": "another HTTP parser reads requests",
    "h11-max-incomplete-event-size": "another HTTP parser reads requests",
    "uvicorn-log-level": "it is about vLLM's own HTTP server, which is not started",
}
"""Options of `vllm serve` without which it is the same here; with why. All but the flags have one value."""

_FLAGS = {"disable-fastapi-docs", "disable-uvicorn-access-log", "enable-request-id-headers"}


def in_our_words(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """A command line that may be one of `vllm serve`, with our names for its options.

    Short names become long ones, `--max_model_len` becomes `--max-model-len`, `--model` the argument that comes first,
    and the options of a `--config` file stand after all others.

    Args:
        arguments: what follows `headrace llm serve`.

    Returns:
        The arguments for our parser, and notes on what was left out.

    Raises:
        ConfigError: an option has no counterpart here; says what to do instead.
    """
    options, model = _options(arguments)
    options += _from_files(options)
    notes: list[str] = []
    translated: list[str] = []
    for name, values in options:
        bare = name.removeprefix("--")
        if bare in REFUSED:
            raise ConfigError(f"{name}: not available here: {REFUSED[bare]}")
        if name == "--config":
            continue
        if name == "--model":
            model = model or values[:1]
        elif bare in NEEDLESS:
            notes.append(f"{name} is not needed: {NEEDLESS[bare]}.")
            if bare in _FLAGS:
                model = model or values[:1]
        elif name in _REPEATED:
            for value in values:
                translated += [name, value]
        elif name == "--served-model-name" and len(values) > 1:
            raise ConfigError(f"--served-model-name: a model has one name here, not {', '.join(values)}")
        else:
            translated += [name, *values]
    return [*model, *translated], notes


def _options(arguments: Sequence[str]) -> tuple[list[tuple[str, list[str]]], list[str]]:
    """Options with the values that follow them, and the argument that stands before them all."""
    options: list[tuple[str, list[str]]] = []
    first: list[str] = []
    for argument in arguments:
        if _is_name(argument):
            name, equals, value = argument.partition("=")
            if name.startswith("-O") and len(name) > 2:
                name, equals, value = "-O", "=", name[2:]
            name = _SHORT.get(name, name)
            if name.startswith("--"):
                head, dot, tail = name.partition(".")
                name = head.replace("_", "-") + dot + tail
            options.append((name, [value] if equals else []))
        elif options:
            options[-1][1].append(argument)
        else:
            first.append(argument)
    return options, first


def _is_name(argument: str) -> bool:
    """Whether it is the name of an option; negative numbers are not."""
    return argument.startswith("-") and argument != "-" and not argument[1].isdigit() and argument[1] != "."


def _from_files(options: Sequence[tuple[str, list[str]]]) -> list[tuple[str, list[str]]]:
    given = {name for name, _ in options}
    return [
        (name, values)
        for option, files in options
        if option == "--config"
        for path in files[:1]
        for name, values in _read_file(path)
        if name not in given
    ]


def _read_file(path: str) -> Iterator[tuple[str, list[str]]]:
    import yaml

    try:
        found = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"--config: cannot read {path}: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"--config: {path} is no YAML: {error}") from None
    if not isinstance(found, dict):
        raise ConfigError(f"--config: {path} must be a mapping of options to values")
    for key, value in found.items():
        name = "--" + str(key).replace("_", "-")
        if isinstance(value, bool):
            yield (name if value else f"--no-{name[2:]}"), []
        elif isinstance(value, list):
            yield name, [_text(item) for item in value]
        elif value is not None:
            yield name, [_text(value)]


def _text(value: Any) -> str:
    return json.dumps(value) if isinstance(value, dict | list) else str(value)

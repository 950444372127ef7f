"""`headrace llm serve`"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headrace.exceptions import ConfigError

if TYPE_CHECKING:
    from headrace.cli.rest import RestClient
    from headrace.llm import LLMConfig

APP_NAME = "llm"

KEY_VARIABLES = ("HEADRACE_API_KEYS", "HEADRACE_API_KEY", "VLLM_API_KEY")
"""Where keys come from if none is given: the first that is set, with keys separated by commas or spaces."""


def serve(
    context: typer.Context,
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A Hugging Face id, a folder, a GGUF file, or a name of your choice for the simulated engine.",
            show_default=False,
        ),
    ],
    engine: Annotated[
        str,
        typer.Option(
            "--engine",
            "-e",
            metavar="ENGINE",
            help="[cyan]vllm[/cyan], [cyan]transformers[/cyan], [cyan]llamacpp[/cyan] or [cyan]simulated[/cyan] "
            "(no model: for load tests and for developing clients).",
            show_default="the best that is installed",
        ),
    ] = "auto",
    name: Annotated[
        str | None,
        typer.Option("--served-model-name", "--name", help="By which clients ask for it.", show_default="MODEL"),
    ] = None,
    replicas: Annotated[
        str,
        typer.Option(
            "--replicas", "-r", metavar="N|MIN..MAX", help="How many, or a range to scale in with the requests."
        ),
    ] = "1",
    host: Annotated[
        str | None, typer.Option("--host", help="Address to serve on; 0.0.0.0 for all.", show_default="127.0.0.1")
    ] = None,
    port: Annotated[
        int | None, typer.Option("--port", "-p", help="Port to serve on; 0 for any.", show_default="8000")
    ] = None,
    route_prefix: Annotated[str, typer.Option("--route-prefix", metavar="PATH", help="Under which it answers.")] = "/",
    api_key: Annotated[
        list[str] | None,
        typer.Option(
            "--api-key",
            metavar="KEY",
            help="Only clients that show this key are served; may be given several times. Others can see a command's "
            "options: better give the hash that [cyan]headrace llm key[/cyan] shows, or use the environment: "
            f"{', '.join(KEY_VARIABLES)}.",
            show_default="everybody is served",
        ),
    ] = None,
    blocking: Annotated[
        bool,
        typer.Option("--blocking/--non-blocking", help="Serve until Ctrl-C, or go on in the background."),
    ] = True,
) -> None:
    """Serve a model with an OpenAI-compatible API.

    Every other option goes to the inference engine as it is, by the engine's own name for it: whatever
    [cyan]vllm serve[/cyan] takes for its engine works here, short names ([cyan]-tp 2[/cyan]) and
    [cyan]--config FILE[/cyan] too.

    [bold]Examples[/bold]

    [cyan]$ headrace llm serve Qwen/Qwen2.5-0.5B-Instruct[/cyan]
    [cyan]$ headrace llm serve ./my-model --engine transformers --port 9000[/cyan]
    [cyan]$ headrace llm serve meta-llama/Llama-3.1-70B-Instruct --tensor-parallel-size 4 --max-model-len 8192[/cyan]
    [cyan]$ headrace llm serve model.gguf --replicas 1..4[/cyan]
    [cyan]$ headrace llm serve pretend --engine simulated --time-per-output-token-s 0.02[/cyan]
    """
    from headrace.cli.instance import Instance
    from headrace.cli.llm.engine_arguments import engine_kwargs
    from headrace.cli.llm.loading_view import showing_loading
    from headrace.cli.llm.serve_command import ServeCommand
    from headrace.cli.messages import err

    if model.startswith("-"):
        raise ConfigError("MODEL comes first: headrace llm serve MODEL [OPTIONS]")
    for note in context.meta.get(ServeCommand.NOTES, ()):
        err.print(note, style="yellow", soft_wrap=True)
    http = {option: value for option, value in (("host", host), ("port", port)) if value is not None}
    keys = api_key or _keys_of_the_environment()
    config = _config(model, engine, name, engine_kwargs(context.args), _deployment_config(replicas))
    application = _application(config, keys)
    with Instance({"http_options": http}, detached=not blocking) as instance:
        from headrace import api

        instance.bring([APP_NAME])
        with showing_loading(instance.rest.details, APP_NAME, err):
            api.run(application, name=APP_NAME, route_prefix=route_prefix)
        _tell(config, instance.rest, route_prefix, bool(keys))
        if blocking:
            err.print("\nServing. Press Ctrl-C to stop.")
            instance.wait()
        else:
            err.print("\nServing in the background. Stop it with: headrace shutdown")


_FIELDS = ("accelerator_type", "log_engine_metrics", "sleep_endpoints", "warmup")
"""Of `LLMConfig`, which are options here too."""


def _keys_of_the_environment() -> list[str]:
    found = next((os.environ[name] for name in KEY_VARIABLES if os.environ.get(name, "").strip()), "")
    return found.replace(",", " ").split()


def _config(
    model: str, engine: str, name: str | None, kwargs: dict[str, Any], deployment_config: dict[str, Any]
) -> LLMConfig:
    from headrace.llm import LLMConfig
    from headrace.llm.engines.choice import best_engine

    loading = {"model_id": name or model, "model_source": model}
    tokenizer = kwargs.pop("tokenizer", None)
    if tokenizer is not None:
        loading["tokenizer_source"] = str(tokenizer)
    fields: dict[str, Any] = {
        "model_loading_config": loading,
        "llm_engine": best_engine(model) if engine == "auto" else engine,
        "engine_kwargs": kwargs,
        "deployment_config": deployment_config,
    }
    fields |= {name: kwargs.pop(name) for name in _FIELDS if name in kwargs}
    if kwargs.get("disable_log_stats"):
        fields["log_engine_metrics"] = False
    modules = kwargs.pop("lora_modules", None)
    if modules is not None:
        from headrace.cli.llm.lora_modules import lora_config

        fields["lora_config"] = lora_config(kwargs, modules)
    return LLMConfig(**fields)


def _deployment_config(replicas: str) -> dict[str, Any]:
    low, several, high = replicas.partition("..")
    try:
        if not several:
            return {"num_replicas": _count(low, 1)}
        least, most = _count(low, 0), _count(high, 1)
    except ValueError:
        least, most = 1, 0
    if most < least:
        raise ConfigError(f"--replicas: must be a number or a range such as 1..4, not '{replicas}'")
    return {"autoscaling_config": {"min_replicas": least, "max_replicas": most}}


def _count(text: str, least: int) -> int:
    number = int(text)
    if number < least:
        raise ValueError
    return number


def _application(config: LLMConfig, api_keys: Sequence[str]) -> Any:
    from headrace.llm import build_openai_app

    return build_openai_app({"llm_configs": [config], "api_keys": api_keys})


def _tell(config: LLMConfig, rest: RestClient, route_prefix: str, keyed: bool) -> None:
    """What is served now, and a line to copy."""
    import json

    import headrace
    from headrace.cli.messages import out
    from headrace.cli.status_view import http_address
    from headrace.llm import LLMServer
    from headrace.llm.server_options import server_name

    handle: Any = headrace.get_deployment_handle(server_name(LLMServer.__name__, config), APP_NAME)
    info = handle.info.remote().result(timeout_s=30)
    address = (http_address(rest.details()) or "") + route_prefix.rstrip("/")
    facts = [f"up to {info.max_model_len:,} tokens"]
    if info.weights_bytes:
        facts.append(f"{info.weights_bytes / 2**30:.2f} GiB of weights")
    out.print(f"\n[bold]{info.model_id}[/bold] on {info.engine}: {', '.join(facts)}")
    paths = "  ".join(sorted(info.paths))
    out.print(f"[dim]{paths}[/dim]", soft_wrap=True)
    path, asked = _first_request(info.paths)
    body = json.dumps({"model": info.model_id, **asked})
    key = ' -H "Authorization: Bearer $HEADRACE_API_KEY"' if keyed else ""
    out.print(f"\n[cyan]curl {address}{path}{key} --json '{body}'[/cyan]", soft_wrap=True)
    out.print(f"[cyan]headrace llm chat --url {address}[/cyan]", soft_wrap=True)


_FIRST_REQUESTS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 64}),
    ("/v1/completions", {"prompt": "Once upon a time", "max_tokens": 64}),
    ("/v1/embeddings", {"input": "Hello"}),
    ("/v1/score", {"text_1": "Hello", "text_2": "Good day"}),
)


def _first_request(paths: frozenset[str]) -> tuple[str, dict[str, Any]]:
    """The request to show, for a model that answers these paths."""
    return next((one for one in _FIRST_REQUESTS if one[0] in paths), ("/v1/models", {}))

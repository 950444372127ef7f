"""`headrace start`"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headrace.cli.options import (
    EngineOption,
    OtlpEndpoint,
    ProxyLocationOption,
    RayAddress,
    TraceSamplingRatio,
    tracing_config,
)
from headrace.exceptions import ConfigError

if TYPE_CHECKING:
    from headrace.client import Client


def start(
    host: Annotated[
        str, typer.Option("--http-host", "--host", help="Address to serve on; 0.0.0.0 for all.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--http-port", "--port", "-p", help="Port to serve on; 0 for any.")] = 8000,
    num_proxies: Annotated[int, typer.Option("--num-proxies", help="Proxy processes on that port.")] = 1,
    no_http: Annotated[bool, typer.Option("--no-http", help="No HTTP, only handles.")] = False,
    root_path: Annotated[
        str, typer.Option("--root-path", metavar="PATH", help="Prefix that a proxy in front strips off.")
    ] = "",
    request_timeout_s: Annotated[
        float | None,
        typer.Option("--request-timeout-s", help="How long a request may take, seconds.", show_default="no limit"),
    ] = None,
    max_body_bytes: Annotated[
        int | None, typer.Option("--max-body-bytes", help="Longest request body.", show_default="no limit")
    ] = None,
    ssl_keyfile: Annotated[
        str | None, typer.Option("--ssl-keyfile", metavar="FILE", help="Private key, for HTTPS.", show_default=False)
    ] = None,
    ssl_certfile: Annotated[
        str | None, typer.Option("--ssl-certfile", metavar="FILE", help="Certificate, for HTTPS.", show_default=False)
    ] = None,
    rest_host: Annotated[
        str, typer.Option("--rest-host", "--dashboard-host", help="Address of the REST API.", rich_help_panel="REST")
    ] = "127.0.0.1",
    rest_port: Annotated[
        int,
        typer.Option(
            "--rest-port", "--dashboard-port", help="Port of the REST API; 0 for any.", rich_help_panel="REST"
        ),
    ] = 8265,
    num_cpus: Annotated[
        float | None,
        typer.Option("--num-cpus", help="CPUs to give to replicas.", show_default="all", rich_help_panel="Resources"),
    ] = None,
    num_gpus: Annotated[
        int | None,
        typer.Option("--num-gpus", help="GPUs to give to replicas.", show_default="all", rich_help_panel="Resources"),
    ] = None,
    memory: Annotated[
        int | None,
        typer.Option(
            "--memory", help="Bytes of memory to give to replicas.", show_default="all", rich_help_panel="Resources"
        ),
    ] = None,
    resources: Annotated[
        str | None,
        typer.Option(
            "--resources",
            metavar="JSON",
            help="Custom resources, such as '{\"disk\": 2}'.",
            show_default=False,
            rich_help_panel="Resources",
        ),
    ] = None,
    engine: EngineOption = None,
    address: RayAddress = None,
    proxy_location: ProxyLocationOption = None,
    otlp_endpoint: OtlpEndpoint = None,
    trace_sampling_ratio: TraceSamplingRatio = None,
    log_level: Annotated[str, typer.Option("--log-level", help="DEBUG, INFO, WARNING or ERROR.")] = "INFO",
    block: Annotated[bool, typer.Option("--block", help="Stay until Ctrl-C, and stop the instance then.")] = False,
) -> None:
    """Start an instance in the background.

    It serves what [cyan]headrace deploy[/cyan] gives it until [cyan]headrace shutdown[/cyan]. Programs that call
    [cyan]serve.run[/cyan] use it too, in place of one of their own.

    [bold]Examples[/bold]

    [cyan]$ headrace start[/cyan]
    [cyan]$ headrace start --http-host 0.0.0.0 --http-port 80 --num-proxies 4[/cyan]
    [cyan]$ headrace start --block   [dim]# in a container[/dim][/cyan]
    [cyan]$ headrace start --engine ray   [dim]# on the Ray cluster that this machine is part of[/dim][/cyan]
    """
    http_options: dict[str, Any] = {
        "host": None if no_http else host,
        "port": port,
        "num_proxies": num_proxies,
        "root_path": root_path,
        "request_timeout_s": request_timeout_s,
        "max_body_bytes": max_body_bytes,
        "ssl_keyfile": ssl_keyfile,
        "ssl_certfile": ssl_certfile,
    }
    from headrace.cli.instance import Instance, find_client
    from headrace.cli.messages import err, out

    running = find_client(engine, address)
    if running is not None:
        err.print("An instance is running already, and stays as it is:", style="yellow")
        _tell(running)
        return
    start_options = {
        "http_options": http_options,
        "rest_options": {"host": rest_host, "port": rest_port},
        "logging_config": {"log_level": log_level},
        "tracing_config": tracing_config(otlp_endpoint, trace_sampling_ratio),
        "num_cpus": num_cpus,
        "num_gpus": num_gpus,
        "memory": memory,
        "resources": custom_resources(resources),
        "proxy_location": proxy_location,
        "engine": engine,
        "address": address,
    }
    with Instance(start_options, detached=not block) as instance:
        _tell(instance.client)
        if block:
            err.print("\nServing. Press Ctrl-C to stop.")
            instance.wait()
        else:
            out.print("\nDeploy to it:  headrace deploy CONFIG.yaml\nSee how it is: headrace status")
            out.print("Stop it:       headrace shutdown")


def _tell(client: Client) -> None:
    from headrace.cli.messages import out

    out.print(f"Applications  {client.http_url or 'not over HTTP'}", soft_wrap=True)
    out.print(f"Dashboard     {client.rest_url}", soft_wrap=True)
    out.print(f"REST API      {client.rest_url}", soft_wrap=True)
    out.print(f"Logs          {client.session.dir / 'logs'}", soft_wrap=True)


def custom_resources(text: str | None) -> dict[str, Any]:
    """`--resources` as a dict.

    Raises:
        ConfigError: it is not a JSON object.
    """
    try:
        resources = json.loads(text or "{}")
    except ValueError as error:
        raise ConfigError(f"--resources must be a JSON object such as '{{\"disk\": 2}}': {error}") from None
    if not isinstance(resources, dict):
        raise ConfigError(f"--resources must be a JSON object such as '{{\"disk\": 2}}', not {text}")
    return resources

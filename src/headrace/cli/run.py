"""`headrace run`"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Annotated, Any

import typer

from headrace.cli.options import (
    AppDir,
    Arguments,
    EngineOption,
    OtlpEndpoint,
    RayAddress,
    Target,
    TraceSamplingRatio,
    check_import_path,
    is_config_file,
    named_arguments,
    tracing_config,
)
from headrace.exceptions import ConfigError, HeadraceError


def run(
    target: Target,
    arguments: Arguments = None,
    name: Annotated[str, typer.Option("--name", "-n", help="Name of the application, for an import path.")] = "default",
    route_prefix: Annotated[
        str, typer.Option("--route-prefix", metavar="PATH", help="Under which it answers, for an import path.")
    ] = "/",
    host: Annotated[
        str | None,
        typer.Option("--host", help="Address to serve on; 0.0.0.0 for all.", show_default="127.0.0.1"),
    ] = None,
    port: Annotated[
        int | None, typer.Option("--port", "-p", help="Port to serve on; 0 for any.", show_default="8000")
    ] = None,
    num_proxies: Annotated[
        int | None, typer.Option("--num-proxies", help="Proxy processes on that port.", show_default="1")
    ] = None,
    rest_host: Annotated[
        str | None, typer.Option("--rest-host", help="Address of the REST API.", show_default="127.0.0.1")
    ] = None,
    rest_port: Annotated[
        int | None, typer.Option("--rest-port", help="Port of the REST API; 0 for any.", show_default="8265")
    ] = None,
    app_dir: AppDir = ".",
    working_dir: Annotated[
        str | None,
        typer.Option("--working-dir", metavar="FOLDER", help="Folder to run in.", show_default="the current one"),
    ] = None,
    reload: Annotated[bool, typer.Option("--reload", "-r", help="Deploy again whenever a file changes.")] = False,
    engine: EngineOption = None,
    address: RayAddress = None,
    otlp_endpoint: OtlpEndpoint = None,
    trace_sampling_ratio: TraceSamplingRatio = None,
    blocking: Annotated[
        bool,
        typer.Option("--blocking/--non-blocking", help="Serve until Ctrl-C, or go on in the background."),
    ] = True,
) -> None:
    """Serve an application until Ctrl-C.

    TARGET is an application, a function that returns one, or a config file with several. Ctrl-C leaves nothing behind.

    [bold]Examples[/bold]

    [cyan]$ headrace run hello:app[/cyan]
    [cyan]$ headrace run hello:app --reload   [dim]# while you write it[/dim][/cyan]
    [cyan]$ headrace run text_app:build model=small device=cpu[/cyan]
    [cyan]$ headrace run serve.yaml --port 9000[/cyan]
    [cyan]$ headrace run hello:app --engine ray   [dim]# on the Ray cluster that this machine is part of[/dim][/cyan]

    A function that builds an application gets the arguments as a dict, or as a pydantic model:

    [green]class Args(BaseModel):[/green]
    [green]    model: str = "large"[/green]

    [green]def build(args: Args) -> serve.Application:[/green]
    [green]    return Ingress.bind(Model.bind(args.model))[/green]
    """
    if reload and not blocking:
        raise ConfigError("--reload watches until Ctrl-C, so it excludes --non-blocking; leave out one of them")
    http = {"host": host, "port": port, "num_proxies": num_proxies}
    http = {option: value for option, value in http.items() if value is not None}
    rest = {option: value for option, value in (("host", rest_host), ("port", rest_port)) if value is not None}
    traces = tracing_config(otlp_endpoint, trace_sampling_ratio)
    where = {"engine": engine, "address": address, "rest_options": rest, "tracing_config": traces}
    if is_config_file(target):
        _run_config(target, arguments, http, working_dir or app_dir, where, reload=reload, blocking=blocking)
    else:
        check_import_path(target)
        _enter(working_dir)
        application = _Application(target, named_arguments(arguments), app_dir, name, route_prefix)
        _run_application(application, {"http_options": http, **where}, app_dir, reload=reload, blocking=blocking)


_WATCH_TURN_MS = 200


class _Application:
    """An import path with all that its deployment needs."""

    def __init__(self, import_path: str, args: dict[str, str], app_dir: str, name: str, route_prefix: str) -> None:
        from headrace.config import check_route_prefix

        self._import_path = import_path
        self._args: dict[str, Any] = dict(args)
        self._app_dir = app_dir
        self._route_prefix = check_route_prefix(route_prefix)
        self.name = name

    def load(self) -> Any:
        """Import it, or call the function that builds it."""
        from headrace.cli.folders import import_from
        from headrace.import_path import load_application

        import_from(self._app_dir)
        return load_application(self._import_path, self._args)

    def deploy(self, application: Any) -> None:
        """Deploy what `load` returned, and wait until it runs."""
        from headrace import api

        api.run(application, name=self.name, route_prefix=self._route_prefix)


def _run_application(
    application: _Application, start_options: dict[str, Any], folder: str, *, reload: bool, blocking: bool
) -> None:
    from headrace.cli.folders import forget_modules_in
    from headrace.cli.instance import Instance
    from headrace.cli.messages import err, out
    from headrace.cli.progress import showing_starts
    from headrace.cli.status_view import for_people

    loaded = application.load()
    with Instance(start_options, detached=not blocking) as instance:

        def deploy(loaded: Any) -> None:
            with showing_starts(instance.rest.details, [application.name], err):
                application.deploy(loaded)
            out.print(for_people(instance.rest.details()))

        def deploy_again() -> None:
            forget_modules_in(folder)
            deploy(application.load())

        instance.bring([application.name])
        deploy(loaded)
        _stay(instance, deploy_again if reload else None, [folder])


def _run_config(
    file: str,
    arguments: list[str] | None,
    http: dict[str, Any],
    folder: str,
    where: dict[str, Any],
    *,
    reload: bool,
    blocking: bool,
) -> None:
    from headrace.cli.deploy import at_home, read_config, send
    from headrace.cli.instance import Instance

    def read() -> dict[str, Any]:
        config = read_config(file, arguments, name="", route_prefix=None)
        at_home(config, folder)
        return config

    config = read()
    start_options = {
        "http_options": {**config.get("http_options", {}), **http},
        "proxy_location": config.get("proxy_location"),
        "logging_config": config.get("logging_config"),
        **where,
        "tracing_config": {**(config.get("tracing_config") or {}), **(where["tracing_config"] or {})} or None,
    }
    with Instance(start_options, detached=not blocking) as instance:

        def deploy(config: dict[str, Any]) -> None:
            # An instance is started with these; what is said on the command line has won over the file.
            kept = {key: value for key, value in config.items() if key not in _TAKEN_AT_START}
            instance.bring(application.get("name", "default") for application in config["applications"])
            send(instance.rest, kept, wait=True)

        deploy(config)
        folders = {application["runtime_env"]["working_dir"] for application in config["applications"]}
        again = (lambda: deploy(read())) if reload else None
        _stay(instance, again, [os.path.dirname(file) or ".", *sorted(folders)])


_TAKEN_AT_START = ("http_options", "logging_config", "tracing_config")


def _enter(working_dir: str | None) -> None:
    if working_dir is None:
        return
    try:
        os.chdir(working_dir)
    except OSError as error:
        raise ConfigError(f"--working-dir: cannot change to '{working_dir}': {error.strerror}") from None


def _stay(instance: Any, deploy_again: Callable[[], None] | None, folders: list[str]) -> None:
    """Until Ctrl-C, or not at all if the instance goes on by itself."""
    from headrace.cli.messages import err

    if instance.detached:
        err.print("\nServing in the background. Stop it with: headrace shutdown")
    elif deploy_again is None:
        err.print("\nServing. Press Ctrl-C to stop.")
        instance.wait()
    else:
        _deploy_on_changes(deploy_again, folders)


def _deploy_on_changes(deploy_again: Callable[[], None], folders: list[str]) -> None:
    from watchfiles import DefaultFilter, watch

    from headrace.cli.messages import err, show_error

    class Sources(DefaultFilter):
        def __call__(self, change: Any, path: str) -> bool:
            return path.endswith((".py", ".yaml", ".yml", ".json", ".toml", ".txt")) and super().__call__(change, path)

    watched = list(dict.fromkeys(os.path.realpath(folder) for folder in folders))
    told = False
    for changes in watch(*watched, watch_filter=Sources(), rust_timeout=_WATCH_TURN_MS, yield_on_timeout=True):
        if not told:
            # Said once it is so: from the first turn on no change is missed.
            told = True
            err.print(
                f"\nServing, and watching {', '.join(watched)} for changes. Press Ctrl-C to stop.", soft_wrap=True
            )
        if not changes:
            continue
        names = sorted({os.path.relpath(path) for _, path in changes})
        err.print(f"\n{', '.join(names)} changed; deploying again.", soft_wrap=True)
        try:
            deploy_again()
        except HeadraceError as error:
            show_error(error)
            err.print("What ran before goes on serving. Mend it and save; it is tried again then.")

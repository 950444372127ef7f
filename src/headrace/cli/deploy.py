"""`headrace deploy`"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from headrace.cli.options import Address, AppDir, Arguments, Target, check_import_path, is_config_file, named_arguments

if TYPE_CHECKING:
    from headrace.cli.rest import RestClient


def deploy(
    target: Target,
    arguments: Arguments = None,
    address: Address = None,
    name: Annotated[str, typer.Option("--name", "-n", help="Name of the application, for an import path.")] = "default",
    route_prefix: Annotated[
        str, typer.Option("--route-prefix", metavar="PATH", help="Under which it answers, for an import path.")
    ] = "/",
    app_dir: AppDir = ".",
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until everything runs.")] = True,
) -> None:
    """Give applications to a running instance.

    A config file says [bold]all[/bold] that is to run: applications that are not in it are deleted, those that have
    not changed are left alone, and the others are updated without dropping a request.

    [bold]Examples[/bold]

    [cyan]$ headrace deploy serve.yaml[/cyan]
    [cyan]$ headrace deploy serve.yaml --address http://10.0.0.5:8265 --no-wait[/cyan]
    [cyan]$ headrace deploy text_app:build model=small --name text[/cyan]

    A config file, which [cyan]headrace build[/cyan] can write for you:

    [green]applications:[/green]
    [green]- name: text[/green]
    [green]  import_path: text_app:build[/green]
    [green]  args: {model: small}[/green]
    [green]  route_prefix: /analyze[/green]
    [green]  deployments:[/green]
    [green]  - name: Sentiment[/green]
    [green]    num_replicas: 2[/green]
    """
    from headrace.cli.rest import connect

    config = read_config(target, arguments, name=name, route_prefix=route_prefix)
    client = connect(address)
    if client.local:
        at_home(config, app_dir)
    try:
        send(client, config, wait=wait)
    except KeyboardInterrupt:
        from headrace.cli.messages import err

        err.print("Not waiting any more; the deployment goes on. See how: headrace status")
        raise typer.Exit(130) from None


def read_config(target: str, arguments: list[str] | None, *, name: str, route_prefix: str | None) -> dict[str, Any]:
    """What the REST API takes, from a config file or an import path with its arguments.

    Raises:
        ConfigError: something in it is wrong.
    """
    from pathlib import Path

    from headrace.config import ServeDeploySchema, load_config
    from headrace.exceptions import ConfigError

    args = named_arguments(arguments)
    if is_config_file(target):
        if args:
            raise ConfigError(f"arguments belong into the config file, as 'args' of an application of {target}")
        schema = load_config(Path(target))
        config = schema.model_dump(mode="json", exclude_unset=True)
        _resolve_folders(config, Path(target).parent)
        return config
    check_import_path(target)
    application = {"name": name, "route_prefix": route_prefix, "import_path": target, "args": args}
    return ServeDeploySchema.from_user({"applications": [application]}).model_dump(mode="json", exclude_unset=True)


def _resolve_folders(config: dict[str, Any], folder: Any) -> None:
    """Folders in a config file are meant from where the file is, not from where the server runs."""
    from headrace.config.ray_actor_options import REMOTE

    for application in config["applications"]:
        options = [deployment.get("ray_actor_options") or {} for deployment in application.get("deployments", [])]
        environments = [application.get("runtime_env"), *(actor.get("runtime_env") for actor in options)]
        for environment in environments:
            if environment and environment.get("working_dir") and not environment["working_dir"].startswith(REMOTE):
                environment["working_dir"] = str((folder / environment["working_dir"]).resolve())


def at_home(config: dict[str, Any], app_dir: str) -> None:
    """Have applications that name no folder of their own built and run in `app_dir`, as if they were run from there.

    Raises:
        ConfigError: there is no such folder.
    """
    import os

    from headrace.exceptions import ConfigError

    if not os.path.isdir(app_dir):
        raise ConfigError(f"--app-dir: there is no folder '{app_dir}'")
    for application in config["applications"]:
        environment = application.setdefault("runtime_env", {})
        environment.setdefault("working_dir", os.path.abspath(app_dir))


def send(client: RestClient, config: dict[str, Any], *, wait: bool) -> None:
    """Give a config to the REST API, and show how it comes up.

    Raises:
        ConfigError: the API refuses it.
        DeploymentFailedError: an application cannot start.
    """
    from headrace.cli.messages import err, out
    from headrace.cli.progress import wait_until_running
    from headrace.cli.status_view import for_people

    names = [application.get("name", "default") for application in config["applications"]]
    there = client.details()["applications"].values()
    leaving = [app["name"] for app in there if app.get("deployed_app_config") and app["name"] not in names]
    for note in [*client.deploy(config), *(f"{name} is deleted: it is not in the config" for name in leaving)]:
        err.print(f"Note: {note}", style="yellow", soft_wrap=True)
    if not wait:
        out.print(f"Sent {len(names)} application{'s' if len(names) != 1 else ''}. See how: headrace status")
        return
    out.print(for_people(wait_until_running(client.details, names, err)))

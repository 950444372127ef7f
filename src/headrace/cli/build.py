"""`headrace build`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from headrace.cli.options import AppDir, check_import_path


def build(
    import_paths: Annotated[
        list[str], typer.Argument(metavar="MODULE:APP", help="Import paths of applications.", show_default=False)
    ],
    app_dir: AppDir = ".",
    output_path: Annotated[
        Path | None,
        typer.Option("--output-path", "-o", metavar="FILE", help="File to write.", show_default=False),
    ] = None,
) -> None:
    """Write the config file for applications.

    It lists every deployment with the options that the code gives it, so that they can be changed without touching
    the code. Rename the applications and change their routes as you like.

    [bold]Examples[/bold]

    [cyan]$ headrace build text_app:app -o serve.yaml[/cyan]
    [cyan]$ headrace build text_app:app image_app:app[/cyan]
    [cyan]$ headrace run serve.yaml[/cyan]
    """
    from headrace.cli.folders import import_from
    from headrace.cli.messages import err
    from headrace.cli.yaml_output import document
    from headrace.exceptions import ConfigError

    for import_path in import_paths:
        check_import_path(import_path)
    import_from(app_dir)
    applications = [_application(path, index, len(import_paths)) for index, path in enumerate(import_paths, start=1)]
    config = {"http_options": {"host": "127.0.0.1", "port": 8000}, "applications": applications}
    text = f"# Written by: headrace build {' '.join(import_paths)}\n\n{document(config)}"
    if output_path is None:
        typer.echo(text, nl=False)
        return
    try:
        output_path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--output-path: cannot write {output_path}: {error.strerror}") from None
    err.print(f"Wrote {output_path}. Serve it with: headrace run {output_path}", soft_wrap=True)


def _application(import_path: str, number: int, of: int) -> dict[str, Any]:
    from headrace.build import build_application
    from headrace.config import DeploymentOptions
    from headrace.import_path import load_application

    name = f"app{number}"
    spec = build_application(load_application(import_path), name=name, route_prefix="/" if of == 1 else f"/{name}")
    defaults = DeploymentOptions().model_dump(mode="json")
    return {
        "name": name,
        "route_prefix": spec.route_prefix,
        "import_path": import_path,
        "runtime_env": {},
        "deployments": [
            {
                "name": deployment.name,
                "num_replicas": deployment.options["num_replicas"],
                **_changed(deployment.options, defaults, skip={"name", "num_replicas"}),
            }
            for deployment in spec.deployments
        ],
    }


def _changed(options: dict[str, Any], defaults: dict[str, Any], skip: set[str]) -> dict[str, Any]:
    """The options that are not at their defaults, of nested ones only the parts that are not."""
    changed: dict[str, Any] = {}
    for name, value in options.items():
        default = defaults.get(name)
        if name in skip or value == default:
            continue
        nested = isinstance(value, dict) and isinstance(default, dict) and default.keys() == value.keys()
        changed[name] = _changed(value, default, set()) if nested and default is not None else value
    return changed

"""Options that both kinds of manifests have, and how they are read and written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headrace.exceptions import ConfigError

if TYPE_CHECKING:
    from headrace.kubernetes.served_config import ServedConfig

_PODS = "Pods"
_REPLICAS = "Pods that run replicas"

Config = Annotated[
    str,
    typer.Argument(
        metavar="TARGET",
        help="A YAML config file, or an import path [cyan]module:app[/cyan] of what is in the image.",
        show_default=False,
    ),
]
Image = Annotated[
    str, typer.Option("--image", "-i", metavar="IMAGE", help="With Headrace and your code.", show_default=False)
]
Name = Annotated[
    str | None, typer.Option("--name", "-n", help="Of what is made.", show_default="the config file's name")
]
Namespace = Annotated[str | None, typer.Option("--namespace", help="Where it is made.", show_default="kubectl's")]
Cpus = Annotated[str, typer.Option("--cpus", metavar="AMOUNT", help="CPUs of each.", rich_help_panel=_REPLICAS)]
Memory = Annotated[str, typer.Option("--memory", metavar="AMOUNT", help="Memory of each.", rich_help_panel=_REPLICAS)]
Gpus = Annotated[int, typer.Option("--gpus", help="GPUs of each.", rich_help_panel=_REPLICAS)]
GpuResource = Annotated[
    str, typer.Option("--gpu-resource", metavar="NAME", help="What the cluster calls them.", rich_help_panel=_REPLICAS)
]
NodeSelector = Annotated[
    list[str] | None,
    typer.Option(
        "--node-selector",
        metavar="KEY=VALUE",
        help="A label of the machines for them; may be given several times.",
        show_default=False,
        rich_help_panel=_REPLICAS,
    ),
]
Env = Annotated[
    list[str] | None,
    typer.Option(
        "--env",
        "-e",
        metavar="KEY=VALUE",
        help="An environment variable; may be given several times.",
        show_default=False,
        rich_help_panel=_PODS,
    ),
]
EnvFromSecret = Annotated[
    list[str] | None,
    typer.Option(
        "--env-from-secret",
        metavar="NAME",
        help="A Secret whose entries become environment variables.",
        show_default=False,
        rich_help_panel=_PODS,
    ),
]
ImagePullSecret = Annotated[
    list[str] | None,
    typer.Option(
        "--image-pull-secret",
        metavar="NAME",
        help="A Secret with which the image is pulled.",
        show_default=False,
        rich_help_panel=_PODS,
    ),
]
ServiceAccount = Annotated[
    str | None,
    typer.Option(
        "--service-account",
        metavar="NAME",
        help="Under which pods run.",
        show_default="the namespace's",
        rich_help_panel=_PODS,
    ),
]
DrainS = Annotated[
    float | None,
    typer.Option(
        "--drain-s",
        help="How long requests may take when a pod is to end.",
        show_default="as in the config, or 20",
        rich_help_panel=_PODS,
    ),
]
Output = Annotated[
    Path | None, typer.Option("--output", "-o", metavar="FILE", help="File to write.", show_default="standard output")
]


def pairs(option: str, given: Sequence[str] | None) -> dict[str, str]:
    """`["a=1"]` as `{"a": "1"}`.

    Raises:
        ConfigError: one of them has another form, or a name is there twice.
    """
    found: dict[str, str] = {}
    for text in given or ():
        name, separator, value = text.partition("=")
        if not separator or not name:
            raise ConfigError(f"{option} must be KEY=VALUE, not '{text}'")
        if name in found:
            raise ConfigError(f"{option} is given twice for '{name}'")
        found[name] = value
    return found


def served_config(target: str) -> tuple[ServedConfig, str]:
    """A config, and a name that would suit it.

    Raises:
        ConfigError: something in it is wrong.
    """
    from headrace.cli.options import check_import_path, is_config_file
    from headrace.cli.yaml_output import to_yaml
    from headrace.config import ServeDeploySchema, load_config
    from headrace.kubernetes.fields import fitting_name
    from headrace.kubernetes.served_config import ServedConfig

    if is_config_file(target):
        schema = load_config(Path(target))
        return ServedConfig(_tidied(Path(target).read_text(encoding="utf-8")), schema), fitting_name(Path(target).stem)
    check_import_path(target)
    config = {"applications": [{"name": "default", "route_prefix": "/", "import_path": target}]}
    return ServedConfig(to_yaml(config), ServeDeploySchema.from_user(config)), fitting_name(target.partition(":")[0])


def _tidied(text: str) -> str:
    """Without blanks at the ends of lines, with which YAML would write it in one piece, unless they mean something."""
    import yaml

    tidied = "\n".join(line.rstrip() for line in text.strip("\n").splitlines()) + "\n"
    return tidied if yaml.safe_load(tidied) == yaml.safe_load(text) else text


def name_of(given: str | None, suggested: str) -> str:
    """
    Raises:
        ConfigError: there is none.
    """
    if given is None and not suggested:
        raise ConfigError("--name is needed: the config's has no letters that Kubernetes would take")
    return given or suggested


def write(manifests: list[dict[str, Any]], output: Path | None) -> None:
    """
    Raises:
        ConfigError: the file cannot be written.
    """
    import shlex
    import sys

    from headrace.kubernetes.served_config import yaml_stream

    text = f"# Written by: headrace {shlex.join(sys.argv[1:])}\n{yaml_stream(manifests)}"
    if output is None:
        typer.echo(text, nl=False)
        return
    from headrace.cli.messages import err

    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--output: cannot write {output}: {error.strerror}") from None
    err.print(f"Wrote {output}. Apply it with: kubectl apply -f {output}", soft_wrap=True)

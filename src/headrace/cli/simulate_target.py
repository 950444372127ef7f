"""Whose settings are simulated: a deployment of a config file, of an application, or options on the command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from headrace.cli.folders import import_from
from headrace.cli.options import check_import_path, is_config_file, named_arguments
from headrace.config import AutoscalingConfig, DeploymentOptions
from headrace.config.config_file import load_config
from headrace.config.problems import nearest
from headrace.exceptions import ConfigError

OF_DEPLOYMENT = ("max_ongoing_requests", "max_queued_requests")
"""What can be given as KEY=VALUE and is not in `autoscaling_config`."""


def options_to_simulate(
    target: str | None, name: str | None, changed: Sequence[str], app_dir: str
) -> tuple[str | None, DeploymentOptions]:
    """A deployment with `autoscaling_config`, and its name where it has one.

    Args:
        target: a config file or an import path; None for defaults.
        name: which deployment of it; None for the only one that autoscales.
        changed: `KEY=VALUE` of options that win.

    Raises:
        ConfigError: an option is wrong, no such deployment autoscales, or more than one does and none is named.
    """
    found: tuple[str | None, DeploymentOptions] = (name, DeploymentOptions(autoscaling_config=AutoscalingConfig()))
    if target is not None:
        deployments = _of_file(Path(target), name, app_dir) if is_config_file(target) else _of_code(target, app_dir)
        found = _the_one(deployments, name, target)
    return found[0], _with(found[1], changed)


def capacity_of(target: str | None) -> float | None:
    """The `target_capacity` of a config file; None for anything else."""
    return load_config(Path(target)).target_capacity if target is not None and is_config_file(target) else None


def _of_file(path: Path, name: str | None, app_dir: str) -> Mapping[str, DeploymentOptions]:
    config = load_config(path)
    listed: dict[str, DeploymentOptions] = {
        override.name: override for application in config.applications for override in application.deployments
    }
    said = {one for one, options in listed.items() if options.model_fields_set & {"autoscaling_config", "num_replicas"}}
    scaled = any(options.autoscaling_config is not None for options in listed.values())
    if scaled if name is None else name in said or nearest(name, said):
        return listed
    # What is not in the file is in the code.
    from headrace.build import build_application
    from headrace.import_path import load_application

    import_from(app_dir)
    for application in config.applications:
        spec = build_application(
            load_application(application.import_path, application.args),
            name=application.name,
            route_prefix=application.route_prefix,
            overrides=application.deployments,
        )
        listed |= {deployment.name: DeploymentOptions(**deployment.options) for deployment in spec.deployments}
    return listed


def _of_code(import_path: str, app_dir: str) -> Mapping[str, DeploymentOptions]:
    from headrace.build import build_application
    from headrace.import_path import load_application

    check_import_path(import_path)
    import_from(app_dir)
    spec = build_application(load_application(import_path), name="simulated", route_prefix=None)
    return {deployment.name: DeploymentOptions(**deployment.options) for deployment in spec.deployments}


def _the_one(
    deployments: Mapping[str, DeploymentOptions], name: str | None, target: str
) -> tuple[str, DeploymentOptions]:
    scaled = [one for one, options in deployments.items() if options.autoscaling_config is not None]
    if name is not None and name not in deployments:
        meant = nearest(name, deployments)
        hint = f"did you mean '{meant}'?" if meant else f"there are {', '.join(deployments) or 'none'}"
        raise ConfigError(f"--deployment: there is no deployment '{name}' in {target}; {hint}")
    if name is None and len(scaled) > 1:
        raise ConfigError(
            f"{target} has {len(scaled)} deployments that autoscale; choose one: --deployment {scaled[0]}"
        )
    if name is None and not scaled:
        raise ConfigError(
            f"no deployment in {target} has an autoscaling_config; give it one, "
            "or try settings without a file: headrace simulate autoscaling max_replicas=10"
        )
    chosen = scaled[0] if name is None else name
    if chosen not in scaled:
        raise ConfigError(f"the deployment '{chosen}' of {target} has no autoscaling_config: its number is fixed")
    return chosen, deployments[chosen]


def _with(options: DeploymentOptions, changed: Sequence[str]) -> DeploymentOptions:
    given = {key: _value(key, text) for key, text in named_arguments(changed).items()}
    assert options.autoscaling_config is not None
    scaling = {
        **options.autoscaling_config.model_dump(mode="json", exclude_unset=True),
        **{key: value for key, value in given.items() if key not in OF_DEPLOYMENT},
    }
    own = {key: getattr(options, key) for key in ("name", *OF_DEPLOYMENT)}
    own |= {key: value for key, value in given.items() if key in OF_DEPLOYMENT}
    return DeploymentOptions.from_user(autoscaling_config=scaling, **own)


def _value(key: str, text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise ConfigError(f"{key}: '{text}' is not a value as YAML has them") from None

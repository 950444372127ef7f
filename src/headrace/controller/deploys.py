"""What has been deployed under an application's name: what each deploy changed, and which a rollback returns to."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import msgspec

from headrace.config.deployment_options import RESTARTING_OPTIONS
from headrace.config.spec import ApplicationSpec, DeploymentSpec, DeployRecord, PolicySpec
from headrace.exceptions import ConfigError

KEPT = 10
"""How many deploys of an application are kept, the last good one not counted if it is older."""

DEPLOYING = "DEPLOYING"
SUCCEEDED = "SUCCEEDED"
FAILED = "FAILED"
REPLACED = "REPLACED"


def version_of(spec: ApplicationSpec) -> str:
    """Digest of all that makes one deploy of an application differ from another."""
    environment = {name: value for name, value in spec.runtime_env.items() if name != "sys_path"}
    parts = (
        spec.route_prefix,
        spec.ingress,
        environment,
        spec.config,
        spec.request_timeout_s,
        [(deployment.name, deployment.version, deployment.options) for deployment in spec.deployments],
        spec.external_scaler_enabled,
        [policy.version for policy in (spec.policy, *(d.policy for d in spec.deployments)) if policy is not None],
    )
    return hashlib.blake2b(msgspec.json.encode(parts, order="sorted"), digest_size=4).hexdigest()


def changes(old: ApplicationSpec | None, new: ApplicationSpec) -> str:
    """What a deploy changes, for people."""
    if old is None:
        return "first deploy"
    before = {deployment.name: deployment for deployment in old.deployments}
    told = []
    if old.route_prefix != new.route_prefix:
        told.append(f"route_prefix {old.route_prefix} → {new.route_prefix}")
    if old.request_timeout_s != new.request_timeout_s:
        told.append(f"request_timeout_s {old.request_timeout_s} → {new.request_timeout_s}")
    if old.external_scaler_enabled != new.external_scaler_enabled:
        told.append(f"external scaler {'on' if new.external_scaler_enabled else 'off'}")
    if _version(old.policy) != _version(new.policy):
        told.append("autoscaling policy")
    for deployment in new.deployments:
        known = before.pop(deployment.name, None)
        parts = ["new"] if known is None else _deployment_changes(known, deployment)
        if parts:
            told.append(f"{deployment.name}: {', '.join(parts)}")
    told += [f"{name}: removed" for name in before]
    return "; ".join(told) or "config only"


def _deployment_changes(old: DeploymentSpec, new: DeploymentSpec) -> list[str]:
    names = [name for name in new.options if old.options.get(name) != new.options[name]]
    parts = [_option_change(name, old.options.get(name), new.options[name]) for name in names]
    if old.description.get("arguments") != new.description.get("arguments"):
        parts.append("arguments")
    elif old.version != new.version and not RESTARTING_OPTIONS & set(names):
        parts.append("code")
    if "autoscaling_config" not in names and _version(old.policy) != _version(new.policy):
        parts.append("autoscaling policy")
    return parts


def _version(policy: PolicySpec | None) -> str | None:
    return None if policy is None else policy.version


def _option_change(name: str, old: Any, new: Any) -> str:
    short = all(value is None or isinstance(value, int | float) for value in (old, new))
    return f"{name} {old} → {new}" if short else name


def rollback_target(name: str, deploys: Sequence[DeployRecord], to: int | None, undo_build: bool) -> DeployRecord:
    """The deploy to return to.

    The last one that ran in full number before the current one. After a rollback, "before" is meant from the deploy
    that was brought back, so that asking again goes further back and not to and fro.

    Args:
        name: the application's.
        deploys: newest first.
        to: a number that somebody chose; None for the last good one.
        undo_build: a later config could not be built, or is being built: it is what is to be undone.

    Raises:
        ConfigError: there is none.
    """
    if not deploys:
        raise ConfigError(f"nothing has been deployed as application '{name}' that could be returned to")
    current = deploys[0]
    if to is not None:
        for deploy in deploys:
            if deploy.number == to:
                return deploy
        numbers = ", ".join(str(deploy.number) for deploy in deploys)
        raise ConfigError(f"to: application '{name}' has no deploy {to} in its history; there are {numbers}")
    if undo_build and current.outcome == SUCCEEDED:
        return current
    others = [d for d in deploys[1:] if d.outcome == SUCCEEDED and d.version != current.version]
    for deploy in others:
        if deploy.number < origin(current):
            return deploy
    hint = f"; choose one with 'to': {', '.join(str(d.number) for d in others)}" if others else ""
    raise ConfigError(f"no deploy of application '{name}' before number {origin(current)} ran in full number{hint}")


def origin(deploy: DeployRecord) -> int:
    """The number of the deploy in which the same was first deployed."""
    return deploy.number if deploy.restores is None else deploy.restores

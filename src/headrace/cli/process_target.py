"""Which processes of an instance are meant by what somebody types."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from headrace.config.problems import nearest
from headrace.exceptions import ConfigError

_MOST_LISTED = 8
_ONE_MACHINE = "local"
"""What the only machine is called where there is no cluster."""


@dataclass(frozen=True, slots=True)
class Target:
    """One process.

    Attributes:
        kind: `replicas`, `proxies` or `controller`: where the REST API has it.
        name: id of the replica, name of the proxy.
        pid: None while it has no process.
        node: its machine; empty on one machine.
    """

    kind: str
    name: str
    pid: int | None
    node: str

    def __str__(self) -> str:
        title = {"replicas": f"replica {self.name}", "proxies": self.name}.get(self.kind, "controller")
        return f"{title}, pid {self.pid}" + (f", on {self.node}" if self.node not in ("", _ONE_MACHINE) else "")


def targets(text: str, status: dict[str, Any]) -> list[Target]:
    """
    Args:
        text: as `options.ProcessArgument` says.
        status: an `InstanceStatus`.

    Raises:
        ConfigError: nothing is called so, or more than is meant.
    """
    proxies = [Target("proxies", p["name"], p["pid"], p.get("node", "")) for p in status["proxies"]]
    if text == "controller":
        return [Target("controller", "", status["controller_pid"], status.get("controller_node", ""))]
    if text == "proxy" or any(proxy.name == text for proxy in proxies):
        living = [proxy for proxy in proxies if text in ("proxy", proxy.name) and proxy.pid is not None]
        if not living:
            raise ConfigError("there is no proxy that runs")
        return living
    replicas = list(_replicas(status))
    of_deployment = [replica for key, replica in replicas if key == text]
    if of_deployment:
        return of_deployment
    if any(key == text for key in _deployments(status)):
        raise ConfigError(f"{text} has no replica with a process at present; 'headrace status' says why")
    return [_one_replica(text, [replica for _, replica in replicas], status)]


def only_target(text: str, status: dict[str, Any]) -> Target:
    """One process; see `targets`.

    Raises:
        ConfigError: nothing is called so, or several are.
    """
    found = targets(text, status)
    if len(found) > 1:
        raise ConfigError(f"{text} has {len(found)} processes; name one of them:\n{_listed(found)}")
    return found[0]


def _one_replica(text: str, replicas: list[Target], status: dict[str, Any]) -> Target:
    found = [replica for replica in replicas if replica.name == text]
    found = found or [replica for replica in replicas if replica.name.endswith(text)]
    if len(found) == 1:
        return found[0]
    if found:
        raise ConfigError(f"the ids of {len(found)} replicas end so; say more of it:\n{_listed(found)}")
    known = [*_deployments(status), *(replica.name for replica in replicas), "controller", "proxy"]
    meant = nearest(text, known)
    if meant:
        raise ConfigError(f"there is no process '{text}'; did you mean '{meant}'?")
    there = _listed(replicas) if replicas else "  no replica runs"
    raise ConfigError(f"there is no process '{text}'; there are the controller, proxies, and these replicas:\n{there}")


def _listed(found: list[Target]) -> str:
    lines = [f"  {target.name}" for target in found[:_MOST_LISTED]]
    more = len(found) - _MOST_LISTED
    return "\n".join([*lines, f"  … and {more} more"] if more > 0 else lines)


def _replicas(status: dict[str, Any]) -> Iterator[tuple[str, Target]]:
    """Those with a process, each with its `application/deployment`."""
    for application in status["applications"]:
        for deployment in application["deployments"]:
            for replica in deployment["replicas"]:
                if replica["pid"] is not None:
                    target = Target("replicas", replica["replica_id"], replica["pid"], replica.get("node", ""))
                    yield f"{application['name']}/{deployment['name']}", target


def _deployments(status: dict[str, Any]) -> list[str]:
    return [f"{a['name']}/{d['name']}" for a in status["applications"] for d in a["deployments"]]

"""Status as people see it on a terminal, and as programs read it."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from headrace.cli.nodes_view import nodes_for_people, nodes_for_programs

_COLOURS = {
    "RUNNING": "green",
    "HEALTHY": "green",
    "DEPLOYING": "yellow",
    "UPDATING": "yellow",
    "UPSCALING": "yellow",
    "DOWNSCALING": "yellow",
    "DELETING": "yellow",
    "STARTING": "yellow",
    "NOT_STARTED": "bright_black",
    "DRAINED": "bright_black",
}


def for_programs(details: dict[str, Any], nodes: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
    """The short form that `--format yaml` and `--format json` print; its keys are those of Ray Serve's `status`, and
    `nodes` where there are several."""
    return {
        "proxies": {name: proxy["status"] for name, proxy in details.get("proxies", {}).items()},
        "applications": {
            name: {
                "status": application["status"],
                "message": application["message"],
                "last_deployed_time_s": application["last_deployed_time_s"],
                "deployments": {
                    deployment["name"]: {
                        "status": deployment["status"],
                        "status_trigger": deployment["status_trigger"],
                        "replica_states": replica_states(deployment),
                        "message": deployment["message"],
                    }
                    for deployment in application["deployments"].values()
                },
            }
            for name, application in details["applications"].items()
        },
        "target_capacity": details.get("target_capacity"),
        **({"nodes": nodes_for_programs(details, nodes)} if len(nodes) > 1 else {}),
    }


def replica_states(deployment: dict[str, Any]) -> dict[str, int]:
    """How many replicas are in which state."""
    states: dict[str, int] = {}
    for replica in deployment.get("replicas", []):
        states[replica["state"]] = states.get(replica["state"], 0) + 1
    return states


def running_replicas(deployment: dict[str, Any]) -> int:
    """How many replicas of a deployment serve."""
    return replica_states(deployment).get("RUNNING", 0)


def http_address(details: dict[str, Any]) -> str | None:
    """Where the applications answer; None without HTTP."""
    http = details.get("http_options") or {}
    if details.get("proxy_location") == "Disabled" or not http.get("host"):
        return None
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(http["host"], http["host"])
    scheme = "https" if http.get("ssl_certfile") else "http"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{http['port']}"


def for_people(
    details: dict[str, Any], nodes: Sequence[dict[str, Any]] = (), now_s: float | None = None
) -> RenderableType:
    """One table for all applications, with what is wrong below it, and one for the nodes where there are several."""
    now_s = time.time() if now_s is None else now_s
    applications = details["applications"]
    machines: list[RenderableType] = [Text(""), nodes_for_people(details, nodes)] if len(nodes) > 1 else []
    if not applications:
        nothing = Text(
            "No applications are deployed. Deploy some with: headrace deploy CONFIG.yaml", style="bright_black"
        )
        return Group(nothing, *machines) if machines else nothing
    return Group(*_capacity(details), _table(details, now_s), *_messages(applications), *machines)


def _capacity(details: dict[str, Any]) -> Iterator[RenderableType]:
    if details.get("target_capacity") is not None:
        yield Text(f"target_capacity: {details['target_capacity']:g} % of the replicas in configs\n", style="yellow")


def _table(details: dict[str, Any], now_s: float) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bright_black")
    for heading in ("APPLICATION / DEPLOYMENT", "STATUS", "REPLICAS", ""):
        table.add_column(heading, no_wrap=heading != "")
    address = http_address(details)
    for position, application in enumerate(details["applications"].values()):
        if position:
            table.add_row()
        where = _where(application["route_prefix"], address)
        since = _ago(now_s - application["last_deployed_time_s"])
        table.add_row(
            Text(application["name"], style="bold"),
            status_text(application["status"]),
            "",
            Text.assemble((where, "cyan"), ("  " if where else ""), (since, "bright_black")),
        )
        deployments = list(application["deployments"].values())
        for index, deployment in enumerate(deployments):
            branch = "└─" if index == len(deployments) - 1 else "├─"
            table.add_row(
                Text.assemble((f"{branch} ", "bright_black"), deployment["name"]),
                status_text(deployment["status"]),
                _replicas(deployment),
                Text(_remark(deployment), style="bright_black", overflow="ellipsis", no_wrap=True),
            )
    return table


def _messages(applications: dict[str, Any]) -> Iterator[RenderableType]:
    for application in applications.values():
        if application["message"] and application["status"] not in ("RUNNING", "DEPLOYING"):
            yield Text(f"\n{application['name']}: {application['status']}", style="bold red")
            yield Text(textwrap.indent(application["message"].rstrip(), "  "))


def _where(route_prefix: str | None, address: str | None) -> str:
    if route_prefix is None or address is None:
        return "not over HTTP"
    return address + route_prefix


def status_text(status: str) -> Text:
    """A status in its colour."""
    return Text(f"● {status}", style=_COLOURS.get(status, "red"))


def _replicas(deployment: dict[str, Any]) -> Text:
    running, target = running_replicas(deployment), deployment["target_num_replicas"]
    others = {state: count for state, count in replica_states(deployment).items() if state != "RUNNING"}
    text = Text(f"{running}/{target}", style="" if running == target else "yellow")
    for state, count in others.items():
        text.append(f"  +{count} {state.lower()}", style="bright_black")
    return text


def _remark(deployment: dict[str, Any]) -> str:
    """What is wrong, or why a deployment that scales itself has as many replicas as it has."""
    reason = (deployment.get("autoscaling_detail") or {}).get("reason", "")
    return _first_line(deployment["message"] or reason)


def _first_line(message: str) -> str:
    return message.strip().splitlines()[0] if message.strip() else ""


def _ago(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"deployed {int(seconds // length)} {unit} ago"
    return "deployed just now"


_OUTCOME_COLOURS = {"SUCCEEDED": "green", "FAILED": "red", "DEPLOYING": "yellow", "REPLACED": "bright_black"}


def history_for_people(history: dict[str, Any], now_s: float | None = None) -> RenderableType:
    """A table of an application's deploys, newest first."""
    now_s = time.time() if now_s is None else now_s
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bright_black")
    for heading in ("", "DEPLOY", "OUTCOME", "WHEN", "CHANGES"):
        table.add_column(heading, no_wrap=heading != "CHANGES")
    for deploy in history["deploys"]:
        outcome = deploy["outcome"]
        restores = f"rollback to {deploy['restores']}: " if deploy["restores"] is not None else ""
        table.add_row(
            Text("→" if deploy["number"] == history["rollback_to"] else " ", style="cyan"),
            Text(str(deploy["number"]), style="bold"),
            Text(f"● {outcome}", style=_OUTCOME_COLOURS.get(outcome, "red")),
            Text(_ago(now_s - deploy["deployed_at"]), style="bright_black"),
            Text(restores + deploy["changes"]),
        )
        if deploy["message"]:
            table.add_row("", "", "", "", Text(_first_line(deploy["message"]), style="bright_black"))
    return table

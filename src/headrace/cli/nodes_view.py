"""The machines of an instance as people see them on a terminal, and as programs read them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

_SHORTEST_ID = 8


def nodes_for_programs(details: dict[str, Any], nodes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """By id: the address, whether it lives, and how many replicas run there."""
    counts = _replicas_by_node(details)
    return {
        node["node_id"]: {
            "node_ip": node["node_ip"],
            "status": "ALIVE" if node["alive"] else "LOST",
            "replicas": counts[node["node_id"]],
        }
        for node in nodes
    }


def nodes_for_people(details: dict[str, Any], nodes: Sequence[dict[str, Any]]) -> Table:
    """A table of the machines, the head first."""
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bright_black")
    zones = any(node["zone"] for node in nodes)
    for heading in ("NODE", "STATUS", "REPLICAS", "ADDRESS", *(["ZONE"] if zones else []), "HAS"):
        table.add_column(heading, no_wrap=heading != "HAS")
    counts, length = _replicas_by_node(details), _telling_length(nodes)
    for node in nodes:
        name = Text(node["node_id"][:length], style="bold")
        if node["head"]:
            name.append("  head", style="not bold bright_black")
        alive = Text("● ALIVE", style="green") if node["alive"] else Text("● LOST", style="red")
        zone = [node["zone"] or ""] if zones else []
        has = Text(", ".join(_resources(node["resources"], node["labels"])), style="bright_black")
        table.add_row(name, alive, str(counts[node["node_id"]]), Text(node["node_ip"], style="cyan"), *zone, has)
    return table


def _replicas_by_node(details: dict[str, Any]) -> Counter[str]:
    return Counter(
        replica["node_id"]
        for application in details["applications"].values()
        for deployment in application["deployments"].values()
        for replica in deployment.get("replicas", [])
        if replica.get("node_id")
    )


def _telling_length(nodes: Sequence[dict[str, Any]]) -> int:
    """How much of the ids tells them apart."""
    ids = [node["node_id"] for node in nodes]
    longest = max(map(len, ids))
    return next((n for n in range(_SHORTEST_ID, longest) if len({id[:n] for id in ids}) == len(ids)), longest)


def _resources(resources: dict[str, float], labels: dict[str, str]) -> Iterator[str]:
    first = ("CPU", "GPU", "memory")
    for name, amount in sorted(resources.items(), key=lambda item: (item[0] not in first, item)):
        if name == "memory":
            yield f"{amount / 1e9:.3g} GB"
        elif name == "GPU":
            kind = labels.get("ray.io/accelerator-type")
            yield f"{amount:g} GPU{f' ({kind})' if kind else ''}"
        elif not name.startswith(("node:", "accelerator_type:", "object_store_memory")):
            yield f"{amount:g} {name}"

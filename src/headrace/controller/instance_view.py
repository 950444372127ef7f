"""What others see of an instance besides its applications: its machines, and the proxies on them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from headrace.config.spec import NodeStatus, ProxyStatus
from headrace.engine.process import NodeInfo, ProcessInfo


def node_statuses(nodes: Sequence[NodeInfo]) -> list[NodeStatus]:
    """The head first, then those that live, by name."""
    ordered = sorted(nodes, key=lambda node: (not node.head, not node.alive, node.node))
    return [
        NodeStatus(
            node=node.node,
            host=node.host,
            alive=node.alive,
            head=node.head,
            resources=node.resources,
            labels=node.labels,
            zone=node.zone,
        )
        for node in ordered
    ]


def proxy_statuses(processes: Sequence[ProcessInfo], nodes: Sequence[NodeInfo], per_node: int) -> list[ProxyStatus]:
    """The proxies that there are, and those that there should be."""
    found = [process for process in processes if process.role == "proxy"]
    missing = [proxy for node in nodes if node.alive and node.http for proxy in _missing(node, found, nodes, per_node)]
    living = [ProxyStatus(name=proxy.name, pid=proxy.pid, status="HEALTHY", node=proxy.node) for proxy in found]
    return sorted((*living, *missing), key=lambda proxy: proxy.name)


def _missing(
    node: NodeInfo, found: Sequence[ProcessInfo], nodes: Sequence[NodeInfo], per_node: int
) -> Iterator[ProxyStatus]:
    here = {process.name.partition("@")[0] for process in found if process.node == node.node}
    where = f"@{node.node}" if len(nodes) > 1 else ""
    for index in range(per_node):
        if f"proxy-{index}" not in here:
            yield ProxyStatus(name=f"proxy-{index}{where}", pid=None, status="STARTING", node=node.node)

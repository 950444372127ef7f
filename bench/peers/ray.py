"""Ray Serve as it comes, and with every switch for speed that it has; each on a cluster of one machine and of three."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from bench.peer import APPS, Command, Peer
from bench.workload import WORKLOADS, Workload

_APPS = frozenset(workload.app for workload in WORKLOADS)
_REQUIREMENTS = ("ray[serve]==2.60.0", "numpy")
_VARIABLES = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_TMPDIR": "{scratch}"}


def command(python: Path, workload: Workload, port: int) -> list[str]:
    return [str(python), str(APPS / "serve_api.py"), "ray", workload.app, str(port), "--size", str(workload.size)]


def quiet_command(python: Path, workload: Workload, port: int) -> list[str]:
    return [*command(python, workload, port), "--quiet"]


def on_three(command: Command) -> Command:
    """The same, on a cluster of three machines."""
    return lambda python, workload, port: [*command(python, workload, port), "--nodes", "3"]


RAY = Peer(
    name="ray",
    title="Ray Serve",
    distribution="ray",
    apps=_APPS,
    command=command,
    environment="ray",
    requirements=_REQUIREMENTS,
    variables=_VARIABLES,
    note="all defaults",
)

RAY_FAST = Peer(
    name="ray-fast",
    title="Ray Serve, fast switches",
    distribution="ray",
    apps=_APPS,
    command=quiet_command,
    environment="ray",
    requirements=_REQUIREMENTS,
    variables={
        **_VARIABLES,
        # User code and router on the replica's own loop, buffered logs, replicas that take HTTP themselves, frozen GC.
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        # HAProxy in front instead of the Python proxy.
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        # gRPC between replicas instead of actor calls; named, for the switch above comes too late for one of its uses.
        "RAY_SERVE_USE_GRPC_BY_DEFAULT": "1",
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": "{scratch}/haproxy/haproxy.cfg",
        "RAY_SERVE_HAPROXY_SOCKET_PATH": "{scratch}/haproxy/admin.sock",
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": "{scratch}/haproxy/metrics.sock",
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": "{scratch}/haproxy",
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": "{scratch}/haproxy/server-state",
    },
    note="throughput-optimised, HAProxy, gRPC, no access log; its gRPC refuses arguments above 4 MB",
)

RAY_3 = replace(
    RAY,
    name="ray-3",
    title="Ray Serve, 3 nodes",
    command=on_three(command),
    kind="cluster",
    note="each hop between nodes",
)
RAY_FAST_3 = replace(
    RAY_FAST,
    name="ray-fast-3",
    title="Ray Serve, fast, 3 nodes",
    command=on_three(quiet_command),
    kind="cluster",
    note="each hop between nodes",
)

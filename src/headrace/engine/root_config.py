"""What a root is told at its start, and what it answers."""

from __future__ import annotations

from typing import Any

import msgspec

WARM = (
    "headrace.controller.main",
    "headrace.proxy.main",
    "headrace.replica.main",
)
"""What the processes of an instance import. Imported once in the root, it costs the next one nothing."""


class RootConfig(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """How to start an instance.

    Attributes:
        session_dir: folder of the instance; None for a new one among this user's.
        driver_pid: the instance ends when this process ends; None for never.
        http_host, http_port: what the proxies serve; host None for no HTTP and no proxies, port 0 for any free one.
        num_proxies: proxy processes on the one socket.
        rest_host, rest_port: where the controller's REST API is served.
        rest_port_fallback: if the REST port is taken, take the next one that is free. The answer tells which.
        http_port_fallback: the same for the HTTP port, where several roots of one instance share a machine.
        gate_host, gate_port: where the other machines of a cluster reach the sockets of this one; host None where there
            are no others. There is a gate in the controller's place then: the controller runs somewhere in the cluster.
        secret: of the instance, in hexadecimal; None for a new one.
        keep: the folder belongs to somebody else (on a cluster, this machine's agent), who starts another root in it
            should this one die. It is removed all the same when this root is told to end, or the driver ends.
        cluster: where the cluster is that this machine is one of; "" for none.
        http_port_option, rest_port_option: what a person sets to choose the ports, for messages.
        instance: what the controller and the proxies get as `args["instance"]`, as it is.
        detached: it serves without a driver: it becomes the current instance, and its processes write to
            `logs/headrace.log` in the session folder.
        controller_entry, proxy_entry: "package.module:function".
        warm: modules to import for the processes to come; those that cannot be imported are left out.
        sys_path: where modules are looked for after the interpreter's own places.
        stdout_fd: inherited file descriptor that becomes the processes' standard output; None for standard error.
        grace_s: seconds that processes have to end themselves when the instance ends.
        engine: what the session folder says where the instance's processes run: "local" or "ray".
        node, zone: what this machine is called among the instance's.
    """

    session_dir: str | None = None
    driver_pid: int | None = None
    http_host: str | None = "127.0.0.1"
    http_port: int = 8000
    num_proxies: int = 1
    rest_host: str = "127.0.0.1"
    rest_port: int = 8265
    rest_port_fallback: bool = False
    http_port_fallback: bool = False
    gate_host: str | None = None
    gate_port: int = 0
    secret: str | None = None
    keep: bool = False
    cluster: str = ""
    http_port_option: str = "http_options.port"
    rest_port_option: str = "dashboard_port"
    instance: dict[str, Any] = {}
    detached: bool = False
    controller_entry: str = "headrace.controller.main:main"
    proxy_entry: str = "headrace.proxy.main:main"
    warm: tuple[str, ...] = WARM
    sys_path: list[str] = []
    stdout_fd: int | None = None
    grace_s: float = 5.0
    engine: str = "local"
    node: str = "local"
    zone: str = ""


class RootAnswer(msgspec.Struct, kw_only=True):
    """The one line that a root writes. `error` is None where it started; connections are then accepted, and wait."""

    error: str | None = None
    session_dir: str = ""
    http: tuple[str, int] | None = None
    rest: tuple[str, int] | None = None
    pid: int = 0

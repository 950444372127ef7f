"""What an instance on a cluster keeps in the cluster's key-value store, for every machine to find."""

from __future__ import annotations

from typing import Any

import msgspec

from headrace.engine.process import ProcessInfo

SESSION = "session"
ENDING = "ending"
"""Present once the instance is being ended."""
CONTROLLER = "controller"
NODE = "node:"
PROCESS = "process:"
JOURNAL = "journal:"

CONTROLLER_ACTOR = "controller"
CONTROLLER_SOCKET = "ctl.sock"
REST_SOCKET = "rest.sock"
"""Where the controller listens in the session folder of its machine. Gates lead there from everywhere."""


class Driver(msgspec.Struct, kw_only=True, frozen=True):
    """The process that an instance ends with. `started`: in clock ticks since its machine's start."""

    node: str
    pid: int
    started: int


class SessionRecord(msgspec.Struct, kw_only=True, frozen=True):
    """An instance.

    Attributes:
        name: of the instance; that of each machine's session folder begins with it.
        instance: an InstanceConfig as a dict.
        rest_port_fallback: nobody chose the REST port, so another one will do where it is taken.
        sessions_dir: folder of the session folders on every machine; None for each machine's own default.
        rest_token: what the REST API asks for; None where it serves this machine only.
        driver: None for an instance that serves on when who started it has ended.
        sys_path: where modules are looked for after the interpreter's own places.
    """

    name: str
    secret: bytes
    instance: dict[str, Any]
    rest_port_fallback: bool = True
    sessions_dir: str | None = None
    rest_token: str | None = None
    driver: Driver | None = None
    sys_path: list[str] = []

    def folder_name(self, node: str) -> str:
        return f"{self.name}{node[:4]}"


class NodeRecord(msgspec.Struct, kw_only=True, frozen=True):
    """A machine, as its agent tells of it.

    Attributes:
        node: Ray's id of it.
        host: its address in the cluster.
        session_dir: where its session folder is.
        gate, http, rest: hosts and ports; http None without proxies.
        root_pid: its root.
        error: why it has no root; the rest is empty then.
    """

    node: str
    host: str
    zone: str = ""
    session_dir: str = ""
    gate: tuple[str, int] | None = None
    http: tuple[str, int] | None = None
    rest: tuple[str, int] | None = None
    root_pid: int = 0
    error: str | None = None


class ControllerRecord(msgspec.Struct, kw_only=True, frozen=True):
    """Where the controller is. `address`: of its socket, through its machine's gate. `error`: why it cannot start."""

    node: str
    address: str
    error: str | None = None


class ProcessRecord(msgspec.Struct, kw_only=True, frozen=True):
    """A process that runs. `started`: in clock ticks since its machine's start; with the pid it names one process.

    `group`: name of its placement group; "" if it is in none.
    """

    info: ProcessInfo
    started: int
    group: str = ""

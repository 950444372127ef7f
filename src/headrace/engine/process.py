"""What a process is asked to be, what it is told, and what is known of it. The same for every engine."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from headrace.engine.resources import Allocation


class ProcessSpec(msgspec.Struct, kw_only=True):
    """A process to start.

    Attributes:
        name: unique among the living processes of the instance.
        role: "controller", "proxy", "replica", "builder" or "policy".
        entry: "package.module:function", called with a `ProcessContext`. When it returns, the process ends with status
            0; what it raises is printed and ends it with status 1.
        args: what msgpack can carry.
        listen: file name of a Unix socket in the session folder. It is bound and listens before the process exists, so
            that connecting to a new process never fails.
        env: environment variables to set on top of the engine's own.
        cwd: working directory; None for the engine's.
        restart: start it again whenever it ends.
        allocation: the resources that it holds. An engine fills it in from `allocate`.
    """

    name: str
    role: str
    entry: str
    args: dict[str, Any] = {}
    listen: str | None = None
    env: dict[str, str] = {}
    cwd: str | None = None
    restart: bool = False
    allocation: Allocation | None = None


@dataclass
class ProcessContext:
    """What a new process is handed.

    Attributes:
        name: its name.
        args: `ProcessSpec.args`.
        session_dir: folder of the instance.
        secret: the instance's secret, which proves that a peer belongs to it.
        listeners: listening sockets: "wire" is the process's own, if it asked for one; "http" for proxies that serve
            HTTP; "rest" for the controller.
        lifeline: where the system cannot end a process with its parent: a file descriptor at its end of file once the
            engine is gone. It is watched already.
        leave: ends the process at once with an exit status, whatever threads still run; called on the main thread.
    """

    name: str
    args: dict[str, Any]
    session_dir: Path
    secret: bytes
    listeners: dict[str, socket.socket] = field(default_factory=dict)
    lifeline: int | None = None
    leave: Callable[[int], None] = os._exit


class ProcessInfo(msgspec.Struct, kw_only=True):
    """A living process.

    Attributes:
        listen: path of its Unix socket, on its own node; None if it asked for none.
        started_at: seconds since the epoch.
        node, zone: where it runs.
        address: how the controller and other machines reach its socket over the wire: the path itself on one machine.
            Empty if it has none.
        vitals: how the socket that a replica opens beside it, `<stem of listen>.vitals`, is reached from there; a
            proxy's is `<name>.vitals`. Empty if it has none.
    """

    name: str
    role: str
    pid: int
    listen: str | None
    started_at: float
    args: dict[str, Any] = {}
    allocation: Allocation | None = None
    node: str = ""
    zone: str = ""
    address: str = ""
    vitals: str = ""


class Activity(msgspec.Struct, kw_only=True, frozen=True):
    """What the system tells of a living process, whether or not it answers anybody.

    Attributes:
        stopped: a signal has stopped it (SIGSTOP), so that nothing in it runs, and only SIGKILL ends it.
        cpu_s: seconds of CPU time that it has taken so far.
    """

    stopped: bool
    cpu_s: float


class NodeInfo(msgspec.Struct, kw_only=True):
    """A machine of the instance.

    Attributes:
        node: what it is called in `ProcessInfo.node`.
        host: its address, as other machines reach it; the loopback address where there are no others.
        alive: it can run processes. One that is not is kept in mind for a while, for people to see.
        head: it is the one that the others depend on.
        resources: what it has in all: "CPU", "GPU", "memory" in bytes, and custom resources.
        labels: what `label_selector` goes by.
        http: where its proxies listen; None if it has none.
    """

    node: str
    host: str
    alive: bool = True
    head: bool = False
    resources: dict[str, float] = {}
    labels: dict[str, str] = {}
    zone: str = ""
    http: tuple[str, int] | None = None


class ProcessExited(msgspec.Struct, kw_only=True):
    """A process that ended: with an exit code, or by a signal, or for a `reason` in words, where neither is known.

    `sequence` counts the ends of an instance from 1; who has seen up to `n` asks for what came after `n`.
    """

    sequence: int
    name: str
    role: str
    pid: int
    exit_code: int | None = None
    signal: int | None = None
    reason: str = ""

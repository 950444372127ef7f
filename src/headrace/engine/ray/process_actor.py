"""The Ray actor around one process of ours: a replica, a builder, or the process of an autoscaling policy.

Ray has chosen the machine and made the environment; what runs is the same entry that a root would have forked. It has
the main thread, and with it the signals, until it ends.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import msgspec
import ray

from headrace.engine import orphans, prctl, session
from headrace.engine.listeners import listen_tcp, listen_unix
from headrace.engine.process import ProcessContext, ProcessInfo, ProcessSpec
from headrace.engine.ray import pids
from headrace.engine.ray.records import NodeRecord
from headrace.exceptions import StartupError
from headrace.wire.address import gate_address, tcp_address

_OOM_SCORE = "300"


class Whereabouts(msgspec.Struct, frozen=True):
    """Of an actor's process. `started`: see `pids.started`."""

    node: str
    pid: int
    started: int


class ProcessActor:
    """One process. Its methods are called in this order, and once each."""

    def __init__(self) -> None:
        self._spec: ProcessSpec
        self._context: ProcessContext
        self._status: int | None = None

    def where(self) -> Whereabouts:
        """Where Ray has put it."""
        pid = os.getpid()
        return Whereabouts(ray.get_runtime_context().get_node_id(), pid, pids.started(pid))

    def open(self, spec: ProcessSpec, node: NodeRecord, secret: bytes) -> ProcessInfo:
        """Open its sockets. From now on whoever connects waits for it.

        Raises:
            StartupError: a socket cannot be opened.
        """
        self._spec = spec
        folder = Path(node.session_dir)
        listeners: dict[str, socket.socket] = {}
        address = vitals = ""
        path = None
        if spec.listen is not None:
            path = session.socket_path(folder, spec.listen)
            try:
                listeners["wire"] = listen_unix(path)
            except OSError as error:
                raise StartupError(f"cannot listen on {path} for '{spec.name}': {error}") from error
            assert node.gate is not None, "a machine without a gate runs no processes"
            address = gate_address(*node.gate, path.name)
            vitals = gate_address(*node.gate, path.with_suffix(".vitals").name)
            if spec.role == "replica":
                listeners["tcp"] = listen_tcp(node.host, 0, f"'{spec.name}'", "the machine's address")
                address = tcp_address(node.host, listeners["tcp"].getsockname()[1])
        self._enter(spec)
        self._context = ProcessContext(spec.name, spec.args, folder, secret, listeners, leave=_leave)
        return ProcessInfo(
            name=spec.name,
            role=spec.role,
            pid=os.getpid(),
            listen=None if path is None else os.fspath(path),
            started_at=time.time(),
            args=spec.args,
            allocation=spec.allocation,
            node=node.node,
            zone=node.zone,
            address=address,
            vitals=vitals,
        )

    def _enter(self, spec: ProcessSpec) -> None:
        """The working directory. One that Ray has unpacked is entered already, and that of the script which deployed
        this need not be on every machine."""
        if spec.cwd is None or "://" in spec.cwd:
            return
        try:
            os.chdir(spec.cwd)
        except OSError as error:
            print(f"headrace: '{spec.name}' stays in {os.getcwd()}: {spec.cwd}: {error.strerror}", file=sys.stderr)

    def run(self) -> int:
        """Be the process until it ends. Returns its exit status, if it comes to that."""
        spec = self._spec
        _leave_ray_behind(spec, self._context)
        try:
            _find(spec.entry)(self._context)
            self._status = 0
        except SystemExit as exit:
            self._status = _exit_status(exit.code)
        except KeyboardInterrupt:
            self._status = 128 + signal.SIGINT
        except BaseException:
            traceback.print_exc()
            self._status = 1
        # Whoever hears of the end kills the actor; nobody shall find it listening until then.
        for listener in self._context.listeners.values():
            with contextlib.suppress(OSError):
                listener.close()
        return self._status

    def over(self) -> int | None:
        """Returns when `run` has: for a controller that was not there when it was called."""
        return self._status


def _leave(status: int) -> NoReturn:
    # Not at once, as elsewhere: Ray would take it for a crash, and tell everybody so.
    raise SystemExit(status)


def _leave_ray_behind(spec: ProcessSpec, context: ProcessContext) -> None:
    """What a root's child does between the fork and its entry."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    prctl.name_process(f"headrace:{spec.role}")
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write(_OOM_SCORE)
    orphans.mark_descendants(context.session_dir.name)
    os.environ.update(spec.env)
    sys.argv = [f"headrace:{spec.name}"]
    gc.collect()
    gc.freeze()


def _find(entry: str) -> Callable[[ProcessContext], Any]:
    module, _, function = entry.partition(":")
    found: Callable[[ProcessContext], Any] = getattr(importlib.import_module(module), function)
    return found


def _exit_status(code: object) -> int:
    if code is None:
        return 0
    if isinstance(code, int):
        return code & 0xFF
    print(code, file=sys.stderr)
    return 1

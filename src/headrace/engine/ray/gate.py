"""The process that stands in for the controller on each machine of a cluster, and lets the other machines in.

Who connects to `controller.sock`, or to the REST API, is handed on to wherever the controller runs. Who connects to the
machine's one port for the cluster, and holds the secret, gets to the Unix sockets of its session folder.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from pathlib import Path

import uvloop

from headrace.engine.process import ProcessContext
from headrace.engine.ray.records import CONTROLLER_SOCKET, REST_SOCKET
from headrace.engine.session import CONTROLLER_ADDRESS
from headrace.observe.log_files import LoggedProcess
from headrace.observe.logs import configure_logging
from headrace.wire.gate import open_gate
from headrace.wire.relay import relay


def main(process: ProcessContext) -> None:
    """Hand on connections until told to end."""
    config = (process.args.get("instance") or {}).get("logging")
    configure_logging(LoggedProcess("gate", "gate"), config, process.session_dir / "logs")
    uvloop.run(_serve(process))


async def _serve(process: ProcessContext) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    gate_listener = process.listeners["gate"]
    where = _Where(process.session_dir, gate_listener)
    gate = await open_gate(gate_listener, process.secret, process.session_dir)
    controller = await relay(process.listeners["wire"], process.secret, where.controller)
    rest = await relay(process.listeners["rest"], process.secret, where.rest)
    await stop.wait()
    for relaying in (controller, rest):
        relaying.close()
    gate.close()


class _Where:
    """Where the controller is at this moment, as the machine's agent has written it down."""

    def __init__(self, folder: Path, gate: socket.socket) -> None:
        host, port = gate.getsockname()[:2]
        self._folder = folder
        self._own = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def controller(self) -> str | None:
        return self._socket(CONTROLLER_SOCKET)

    def rest(self) -> str | None:
        return self._socket(REST_SOCKET)

    def _socket(self, name: str) -> str | None:
        with contextlib.suppress(OSError):
            gate = (self._folder / CONTROLLER_ADDRESS).read_text().strip()
            if gate == self._own:
                return str(self._folder / name)
            return f"{gate}/{name}" if gate else None
        return None

"""A process of one of the two machines: `gate FOLDER IP PORT`, `replica FOLDER NAME IP PORT`, or `controller FOLDER`,
which tells everybody who watches it one table of routes."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import uvloop

from headrace.config.spec import RoutingTable, WatchRequest, WatchUpdate
from headrace.engine.listeners import listen_unix
from headrace.engine.process import ProcessContext
from headrace.replica.main import main as serve_replica
from headrace.wire.gate import open_gate
from headrace.wire.rpc import RpcServer

SECRET = b"s" * 32


def tcp_listener(host: str, port: str) -> socket.socket:
    listener = socket.create_server((host, int(port)), backlog=128)
    listener.setblocking(False)
    return listener


async def keep_gate(folder: Path, listener: socket.socket) -> None:
    await open_gate(listener, SECRET, folder)
    print("listening", flush=True)
    await asyncio.get_running_loop().create_future()


async def watch(body: WatchRequest) -> AsyncIterator[WatchUpdate]:
    table = msgspec.Raw(msgspec.msgpack.encode(RoutingTable()))
    yield WatchUpdate(key="routes", version=body.versions["routes"] + 1, value=table)
    await asyncio.get_running_loop().create_future()


async def keep_controller(folder: Path) -> None:
    await RpcServer({"watch": watch}).start(listen_unix(folder / "controller.sock"), SECRET)
    print("listening", flush=True)
    await asyncio.get_running_loop().create_future()


def main() -> None:
    kind, folder, *rest = sys.argv[1:]
    if kind == "controller":
        uvloop.run(keep_controller(Path(folder)))
        return
    if kind == "gate":
        uvloop.run(keep_gate(Path(folder), tcp_listener(*rest)))
        return
    name, *where = rest
    context = ProcessContext(
        name=name,
        args={"app": "app", "deployment": "Model", "replica_id": name},
        session_dir=Path(folder),
        secret=SECRET,
        listeners={"wire": listen_unix(Path(folder) / f"{name}.sock"), "tcp": tcp_listener(*where)},
    )
    print("listening", flush=True)
    serve_replica(context)


if __name__ == "__main__":
    main()

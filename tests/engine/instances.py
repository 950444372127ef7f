"""Instances with fake controllers, proxies and replicas (`engine_entries`), and how to look at them."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from headrace.engine.local import RootConfig

ENTRIES = str(Path(__file__).parent)


def config(**options: Any) -> RootConfig:
    defaults: dict[str, Any] = {
        "http_port": 0,
        "rest_port": 0,
        "controller_entry": "engine_entries:serve_wire",
        "proxy_entry": "engine_entries:proxy",
        "warm": (),
        "sys_path": [ENTRIES],
    }
    return RootConfig(**defaults | options)


def ask(path: Path | str, timeout_s: float = 10.0) -> dict[str, Any]:
    """What the process at a Unix socket says of itself."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout_s)
        connection.connect(str(path))
        facts: dict[str, Any] = json.loads(connection.makefile("rb").read())
        return facts


def ask_proxy(address: tuple[str, int] | None) -> int:
    """The pid of the proxy that answers."""
    assert address is not None
    with socket.create_connection(address, timeout=10.0) as connection:
        return int(connection.makefile("rb").read())


def until(condition: Callable[[], object], timeout_s: float = 10.0) -> Any:
    """The first true value of `condition`."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.005)
    return value


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True

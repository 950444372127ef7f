"""Where a process listens, as text: on this machine, on another, or behind another machine's gate."""

from __future__ import annotations

import re
from typing import NamedTuple

_SOCKET_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}\.(sock|vitals)")


class UnixAddress(NamedTuple):
    """A Unix socket of this machine."""

    path: str


class TcpAddress(NamedTuple):
    """A TCP socket. `name`: of a Unix socket in the folder of the gate that listens there; "" where it is no gate."""

    host: str
    port: int
    name: str = ""


def parse_address(address: str) -> UnixAddress | TcpAddress:
    """Read `/path.sock` (or `./path.sock`), `host:port`, or `host:port/name.sock`. An IPv6 host stands in brackets.

    Raises:
        ValueError: it is none of these.
    """
    if address.startswith(("/", ".")):
        return UnixAddress(address)
    where, slash, name = address.partition("/")
    host, colon, port = where.rpartition(":")
    if not (host and colon and port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise ValueError(f"address {address!r} is neither a path, nor host:port, nor host:port/name.sock")
    if slash and not is_socket_name(name):
        raise ValueError(f"address {address!r} names no socket behind the gate; {name!r} should be like 'name.sock'")
    return TcpAddress(host.removeprefix("[").removesuffix("]"), int(port), name)


def gate_address(host: str, port: int, name: str) -> str:
    """The address of the socket `name` behind the gate at `host` and `port`."""
    return f"{tcp_address(host, port)}/{name}"


def tcp_address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_socket_name(name: str) -> bool:
    """Whether it is a plain file name as sockets have them: no folder can be left with it."""
    return _SOCKET_NAME.fullmatch(name) is not None

"""Opens listening sockets, and says who is in the way when one cannot be opened."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

from headrace.exceptions import StartupError

BACKLOG = 2048
"""Connections that may wait while nobody accepts, as between the death of a proxy and the next one."""

_PORTS_TO_TRY = 100
# How the command line of a root ends.
_ROOT_COMMAND_ENDINGS = (os.path.join("headrace", "engine", "root.py"), "headrace.engine.root")


def listen_tcp(host: str, port: int, purpose: str, option: str, next_free: bool = False) -> socket.socket:
    """Open a listening TCP socket.

    Args:
        host: name or address of the interface.
        port: 0 for any free one.
        purpose: what is served there, for messages.
        option: the option that chooses the port, for messages.
        next_free: if the port is taken, take the next one that is free.

    Raises:
        StartupError: it cannot be opened. The message names who holds the port, and the option.
    """
    last = min(port + _PORTS_TO_TRY, 65535) if next_free and port else port
    for candidate in range(port, last + 1):
        try:
            return _listen(host, candidate)
        except OSError as error:
            if error.errno == errno.EADDRINUSE and candidate < last:
                continue
            raise StartupError(_why_not(host, port, purpose, option, error)) from error
    raise AssertionError("the last candidate is listened on or raises")


def _listen(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # "::" means every address, the old ones too, whatever this system's default.
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind(address)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener


def _why_not(host: str, port: int, purpose: str, option: str, error: OSError) -> str:
    start = f"cannot serve {purpose} on {host}:{port}: "
    if error.errno == errno.EADDRINUSE:
        return f"{start}the port is in use by {_who_listens(port)}. Stop it, or choose another port with {option}."
    if error.errno == errno.EACCES:
        return f"{start}a port below 1024 needs privileges. Choose another port with {option}."
    if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
        return f"{start}this machine has no address '{host}'. Choose another host."
    return f"{start}{error.strerror or error}."


def _who_listens(port: int) -> str:
    import psutil  # slow to import, and only needed here

    try:
        pids = {
            connection.pid
            for connection in psutil.net_connections(kind="tcp")
            if connection.pid is not None
            and connection.status == psutil.CONN_LISTEN
            and connection.laddr
            and connection.laddr.port == port
        }
        process = psutil.Process(min(pids))
        command = process.cmdline()
        # A worker holds what its parent has opened; the parent is the one to stop.
        while (parent := process.parent()) is not None and parent.cmdline() == command:
            process = parent
    except (psutil.Error, ValueError):  # the system tells of a user's own processes only
        return "a process of another user"
    text = " ".join(command) or process.name()
    if text.endswith(_ROOT_COMMAND_ENDINGS):
        return (
            f"another Headrace instance, process {process.pid} (`headrace shutdown` ends what `headrace start` began)"
        )
    return f"process {process.pid} ({text if len(text) <= 120 else text[:117] + '...'})"


def listen_unix(path: Path) -> socket.socket:
    """Open a listening Unix socket, in place of what may be left at its path. Only this user can connect.

    Raises:
        OSError: the folder is gone or not writable.
    """
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(os.fspath(path))
        path.chmod(0o600)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener

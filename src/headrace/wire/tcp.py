"""Sockets between machines: small requests leave at once, and a machine that has vanished is noticed within seconds.

What says that a connection is dead is the other machine's kernel, which acknowledges what it gets even while its
process is stopped or busy:

- Nothing is under way: keepalive probes (`SO_KEEPALIVE`) go unanswered for `KEEPALIVE_IDLE_S`, then `KEEPALIVE_PROBES`
  times `KEEPALIVE_EVERY_S`.
- Data is under way: it is retransmitted, for a quarter of an hour by default, and nothing is acknowledged. `AckWatch`
  looks for that in the kernel's own notes (`TCP_INFO`). Not `TCP_USER_TIMEOUT`, which would do it in the kernel: it
  also ends connections whose receiver lives and takes nothing for so long, and user code may block its event loop for
  minutes while large requests wait for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import struct
import sys
from collections.abc import Iterator

logger = logging.getLogger("headrace.wire")

KEEPALIVE_IDLE_S = 5
KEEPALIVE_EVERY_S = 2
KEEPALIVE_PROBES = 3

LOOK_EVERY_S = 1.0
UNACKNOWLEDGED_S = 7.0
"""A network that fails for less than this interrupts, but breaks nothing."""

_UNSENT_BYTES = 128 * 1024
"""So much may wait in the kernel before it has left for the first time: what a small request waits behind. What is on
its way and not acknowledged comes in addition, so that it costs no throughput."""

_HAS_INFO = sys.platform == "linux" and hasattr(socket, "TCP_INFO")
_U32 = struct.Struct("=I")
_INFO_BYTES = 60
_PROBES, _UNACKED, _LAST_ACK_MS = 3, 24, 56  # offsets in Linux' struct tcp_info


def tune(transport: asyncio.BaseTransport) -> None:
    """Set a TCP connection's options; does nothing to a Unix socket."""
    options = [
        (socket.IPPROTO_TCP, "TCP_NODELAY", 1),
        (socket.SOL_SOCKET, "SO_KEEPALIVE", 1),
        (socket.IPPROTO_TCP, "TCP_KEEPIDLE", KEEPALIVE_IDLE_S),
        (socket.IPPROTO_TCP, "TCP_KEEPINTVL", KEEPALIVE_EVERY_S),
        (socket.IPPROTO_TCP, "TCP_KEEPCNT", KEEPALIVE_PROBES),
        (socket.IPPROTO_TCP, "TCP_NOTSENT_LOWAT", _UNSENT_BYTES),
    ]
    with _socket_of(transport) as sock:
        if sock is None:
            return
        for level, name, value in options:
            option = getattr(socket, name, None)  # not every system has every one
            if option is not None:
                with contextlib.suppress(OSError):
                    sock.setsockopt(level, option, value)


@contextlib.contextmanager
def _socket_of(transport: asyncio.BaseTransport) -> Iterator[socket.socket | None]:
    """A TCP transport's socket, None for another's. What uvloop gives out itself has no getsockopt."""
    known = transport.get_extra_info("socket")
    if known is None or known.family not in (socket.AF_INET, socket.AF_INET6) or known.fileno() < 0:
        yield None
        return
    borrowed = socket.socket(known.family, socket.SOCK_STREAM, socket.IPPROTO_TCP, fileno=known.fileno())
    try:
        yield borrowed
    finally:
        borrowed.detach()


class AckWatch:
    """Ends the TCP connections of one event loop whose other machine has not acknowledged anything for
    `UNACKNOWLEDGED_S` while something was under way to it. Nothing runs while there is no TCP connection."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._since: dict[asyncio.Transport, float | None] = {}
        self._timer: asyncio.TimerHandle | None = None

    def add(self, transport: asyncio.Transport) -> None:
        self._since[transport] = None
        if self._timer is None:
            self._timer = self._loop.call_later(LOOK_EVERY_S, self._look)

    def discard(self, transport: asyncio.Transport) -> bool:
        """Must be called when the transport is closed: its descriptor may be another's then. Whether none is left."""
        self._since.pop(transport, None)
        if not self._since and self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return not self._since

    def _look(self) -> None:
        self._timer = None
        now = self._loop.time()
        for transport, since in list(self._since.items()):
            if not _is_deaf(transport):
                self._since[transport] = None
            elif since is None:
                self._since[transport] = now
            elif now - since >= UNACKNOWLEDGED_S - LOOK_EVERY_S:
                del self._since[transport]
                peer = transport.get_extra_info("peername")
                logger.warning("gave up a connection: %s acknowledges nothing for %g s", peer, UNACKNOWLEDGED_S)
                transport.abort()
        if self._since:
            self._timer = self._loop.call_later(LOOK_EVERY_S, self._look)


def _is_deaf(transport: asyncio.Transport) -> bool:
    """Whether something is under way and nothing has been acknowledged since the last look."""
    if not _HAS_INFO:
        return False
    with _socket_of(transport) as sock:
        if sock is None:
            return False
        try:
            info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_BYTES)
        except OSError:  # it has been closed just now
            return False
    (unacknowledged,) = _U32.unpack_from(info, _UNACKED)
    (since_ack_ms,) = _U32.unpack_from(info, _LAST_ACK_MS)
    # Probes: the other end has no room, is asked for it, and even that is not answered.
    return (unacknowledged > 0 or info[_PROBES] > 0) and since_ack_ms >= 1000 * LOOK_EVERY_S


_watches: dict[asyncio.AbstractEventLoop, AckWatch] = {}
"""Of the event loops that have a TCP connection."""


def begin(transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
    """Tune a new connection and watch it, if it is TCP; whoever calls this calls `end` when it is lost."""
    known = transport.get_extra_info("socket")
    if known is None or known.family not in (socket.AF_INET, socket.AF_INET6):
        return
    tune(transport)
    watch = _watches.get(loop)
    if watch is None:
        watch = _watches[loop] = AckWatch(loop)
    watch.add(transport)


def end(transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
    """A connection is lost."""
    watch = _watches.get(loop)
    if watch is not None and watch.discard(transport):
        del _watches[loop]

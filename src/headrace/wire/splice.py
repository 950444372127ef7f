"""Two connections made one: what arrives on either leaves on the other."""

from __future__ import annotations

import asyncio
import contextlib

from headrace.wire import tcp

_BUFFER_BYTES = 256 * 1024
"""So much may lie here in each direction, and what one read brings beyond it; then whoever sends is not read from."""

_FLUSH_WITHIN_S = 30.0
"""So long an end whose other is gone may take to get the last bytes."""


class SpliceEnd(asyncio.Protocol):
    """One of the two. Is not read from before it is joined with another.

    When one end has nothing more to say, the other is told so and may go on answering. When one breaks, both end.
    TLS knows no such half: there the end of either direction is the end of both, after what has been said has left.
    """

    def __init__(self) -> None:
        self.transport: asyncio.Transport = None  # type: ignore[assignment]
        self.lost = False
        self._other: SpliceEnd | None = None
        self._early: list[bytes] = []
        self._said_all = False

    def join(self, other: SpliceEnd) -> None:
        """From now on the two are one connection."""
        self._other, other._other = other, self
        for one, another in ((self, other), (other, self)):
            if one.lost:
                another.abort()
                return
        for end, peer in ((self, other), (other, self)):
            for data in end._early:
                peer.transport.write(data)
            end._early.clear()
            if end._said_all:
                end._pass_end_on(peer)
            end._resume()

    def abort(self) -> None:
        """End this one, and with it the other, at once."""
        self.transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self.transport.set_write_buffer_limits(high=_BUFFER_BYTES)
        tcp.begin(self.transport, asyncio.get_running_loop())
        self._pause()

    def data_received(self, data: bytes) -> None:
        if self._other is not None:
            self._other.transport.write(data)
        else:  # uvloop begins to read after `connection_made`, whatever was asked for there
            self._early.append(data)
            self._pause()

    def eof_received(self) -> bool:
        self._said_all = True
        if self._other is None:
            return self.transport.can_write_eof()
        return self._pass_end_on(self._other)

    def _pass_end_on(self, other: SpliceEnd) -> bool:
        """Returns whether the other may still answer."""
        if other.lost:
            return False
        both_can = self.transport.can_write_eof() and other.transport.can_write_eof()
        if other._said_all or not both_can:
            other._close()
            self._close()
            return False
        other.transport.write_eof()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        tcp.end(self.transport, asyncio.get_running_loop())
        other = self._other
        if other is not None and not other.lost:
            if exc is not None or not self._said_all:
                other.abort()
            else:
                other._close()

    def pause_writing(self) -> None:
        if self._other is not None:
            self._other._pause()

    def resume_writing(self) -> None:
        if self._other is not None:
            self._other._resume()

    def _pause(self) -> None:
        if not self.transport.is_closing():
            with contextlib.suppress(RuntimeError):
                self.transport.pause_reading()

    def _resume(self) -> None:
        if not self.lost and not self.transport.is_closing():
            self.transport.resume_reading()

    def _close(self) -> None:
        """End it when what was written has left."""
        if not self.transport.is_closing():
            self.transport.close()
            asyncio.get_running_loop().call_later(_FLUSH_WITHIN_S, self._close_late)

    def _close_late(self) -> None:
        if not self.lost:
            self.abort()

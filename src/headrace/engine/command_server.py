"""The root's side of `root.sock`: connections that never block the root, however slow or rude the peer."""

from __future__ import annotations

import os
import selectors
import socket
import struct
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from headrace.engine.commands import BrokenFrame, Frames, Reply, Request, Subscribe, frame
from headrace.engine.process import ProcessExited

_MAX_UNREAD = 16 * 1024 * 1024
"""Bytes that wait for a peer that does not read, before it is dropped."""

_decoder = msgspec.msgpack.Decoder(Request)


class _Peer:
    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.frames = Frames()
        self.unsent = bytearray()
        self.subscriptions: list[int] = []


class CommandServer:
    """Answers requests on `listener`.

    Args:
        listener: the Unix socket.
        selector: where connections are registered; the data of a key is a function of the events.
        handle: does what a request says and returns the value of the answer; what it raises is the answer's error.
        past_exits: the ends of processes that are remembered.
    """

    def __init__(
        self,
        listener: socket.socket,
        selector: selectors.BaseSelector,
        handle: Callable[[Request], Any],
        past_exits: Iterable[ProcessExited],
    ) -> None:
        self._listener = listener
        self._selector = selector
        self._handle = handle
        self._past_exits = past_exits
        self._peers: set[_Peer] = set()
        selector.register(listener, selectors.EVENT_READ, self._accept)

    def publish(self, exited: ProcessExited) -> None:
        """Tell every subscriber."""
        for peer in list(self._peers):
            for id in peer.subscriptions:
                self._send(peer, Reply(id, value=msgspec.Raw(msgspec.msgpack.encode(exited))))

    def close(self) -> None:
        for peer in list(self._peers):
            peer.connection.close()
        self._peers.clear()
        self._listener.close()

    def _accept(self, _: int) -> None:
        try:
            connection, _address = self._listener.accept()
        except OSError:
            return
        if not _is_ours(connection):
            connection.close()
            return
        connection.setblocking(False)
        peer = _Peer(connection)
        self._peers.add(peer)
        self._selector.register(connection, selectors.EVENT_READ, lambda events: self._ready(peer, events))

    def _ready(self, peer: _Peer, events: int) -> None:
        if events & selectors.EVENT_WRITE:
            self._flush(peer)
        if not events & selectors.EVENT_READ or peer not in self._peers:
            return
        try:
            data = peer.connection.recv(1 << 20)
            if not data:
                self._drop(peer)
                return
            for body in peer.frames.feed(data):
                self._answer(peer, _decoder.decode(body))
        except BlockingIOError:
            return
        except (OSError, BrokenFrame, msgspec.DecodeError):
            self._drop(peer)

    def _answer(self, peer: _Peer, request: Request) -> None:
        if isinstance(request, Subscribe):
            for exited in self._past_exits:
                if exited.sequence > request.since:
                    self._send(peer, Reply(request.id, value=msgspec.Raw(msgspec.msgpack.encode(exited))))
            peer.subscriptions.append(request.id)
            return
        try:
            reply = Reply(request.id, value=msgspec.Raw(msgspec.msgpack.encode(self._handle(request))))
        except Exception as error:
            reply = Reply(request.id, error=str(error) or type(error).__name__)
        self._send(peer, reply)

    def _send(self, peer: _Peer, reply: Reply) -> None:
        if peer not in self._peers:
            return
        peer.unsent += frame(reply)
        self._flush(peer)

    def _flush(self, peer: _Peer) -> None:
        try:
            while peer.unsent:
                del peer.unsent[: peer.connection.send(peer.unsent)]
        except BlockingIOError:
            pass
        except OSError:
            self._drop(peer)
            return
        if len(peer.unsent) > _MAX_UNREAD:
            self._drop(peer)
            return
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if peer.unsent else 0)
        key = self._selector.get_key(peer.connection)
        if key.events != events:
            self._selector.modify(peer.connection, events, key.data)

    def _drop(self, peer: _Peer) -> None:
        if peer in self._peers:
            self._peers.discard(peer)
            self._selector.unregister(peer.connection)
            peer.connection.close()


def _is_ours(connection: socket.socket) -> bool:
    """Whether the peer is this user, where the system tells; the folder's permissions hold everywhere."""
    if not hasattr(socket, "SO_PEERCRED"):
        return True
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _pid, uid, _gid = struct.unpack("3i", credentials)
    return bool(uid == os.getuid())

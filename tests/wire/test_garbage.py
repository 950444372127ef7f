"""Bytes that are no frames end their connection, are logged, are never unpickled, and harm no other connection."""

from __future__ import annotations

import asyncio
import logging
import os
import pickle
from pathlib import Path
from typing import Any, NoReturn, cast

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headrace.wire import auth, frames
from headrace.wire.callee import CalleeConnection
from headrace.wire.caller import CallerConnection
from headrace.wire.frames import HEAD

from .connected import SECRET, Connected, Requests, connected
from .test_framing import Loop, Socket


@pytest.fixture(autouse=True)
def nothing_is_unpickled(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: Any, **kwargs: Any) -> NoReturn:
        raise AssertionError("garbage was unpickled")

    monkeypatch.setattr(pickle, "loads", never)
    monkeypatch.setattr(pickle, "Unpickler", never)


BAD_FRAMES = {
    "an oversized frame": HEAD.pack(frames.MAX_FRAME + 1, 1, 0, frames.REQUEST, 0),
    "a header longer than its frame": HEAD.pack(10, 1, 11, frames.REQUEST, 0) + bytes(11),
    "an unknown kind": HEAD.pack(0, 1, 0, 99, 0),
    "kind zero": HEAD.pack(0, 1, 0, 0, 0),
    "a response from a caller": HEAD.pack(1, 1, 0, frames.RESPONSE, 0) + b"x",
    "credit that is no number": HEAD.pack(1, 1, 0, frames.CREDIT, 0) + b"x",
    "a release that is no list": HEAD.pack(1, 0, 0, frames.RELEASE, 0) + b"\xc1",
    "a first part that describes nothing": HEAD.pack(4, 9, 4, frames.PART, 0) + b"text",
    "a whole that is too large": HEAD.pack(14, 9, 14, frames.PART, 0)
    + frames.PART_HEADER.pack(frames.MAX_ASSEMBLED + 1, 0, frames.REQUEST, 0),
    "parts that are more than their whole": HEAD.pack(18, 9, 14, frames.PART, 0)
    + frames.PART_HEADER.pack(1, 0, frames.REQUEST, 0)
    + b"text",
    "shared memory where there is none": HEAD.pack(4, 1, 0, frames.REQUEST, frames.SHARED) + b"text",
    "text": b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n" * 10,
}


@pytest.mark.parametrize("garbage", BAD_FRAMES.values(), ids=BAD_FRAMES.keys())
async def test_garbage_of_a_peer_with_the_secret_ends_only_its_own_connection(
    garbage: bytes, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    service = Requests()
    async with connected(folder, service) as good:
        reader, writer = await _handshaken(good)
        writer.write(HEAD.pack(0, 1, 0, frames.REQUEST, 0) + garbage)
        writer.write(HEAD.pack(3, 77, 3, frames.REQUEST, 0) + b"out")  # what follows is not looked at
        assert await _ends(reader)
        writer.close()
        assert "closed a connection" in caplog.text
        cancelled = await service.next()
        assert cancelled.cancelled
        answered = good.call(b"still there?")
        while (call := await service.next()).header != b"still there?":
            assert call.id != 77
        call.respond(0, b"yes")
        assert await answered.ended == "response"


async def test_garbage_instead_of_a_handshake_ends_the_connection(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    service = Requests()
    async with connected(folder, service) as good:
        for garbage in (os.urandom(4096), b"HDRACE1\n" + os.urandom(4096), pickle.dumps([1, 2])):
            reader, writer = await asyncio.open_unix_connection(str(good.path))
            writer.write(garbage)
            assert await _ends(reader)
            writer.close()
        assert caplog.text.count("closed a connection") == 3
        answered = good.call(b"")
        (await service.next()).respond(0, b"")
        assert await answered.ended == "response"


kinds = st.integers(0, 15)
garbage = st.binary(max_size=200) | st.lists(
    st.tuples(kinds, st.integers(0, 255), st.integers(0, 3), st.binary(max_size=40), st.binary(max_size=40)),
    max_size=6,
).map(lambda made: b"".join(HEAD.pack(len(h) + len(p), c, len(h), k, f) + h + p for k, f, c, h, p in made))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(garbage, st.booleans())
def test_no_bytes_make_a_connection_raise(caplog: pytest.LogCaptureFixture, data: bytes, by_callee: bool) -> None:
    caplog.set_level(logging.CRITICAL)
    loop: Any = asyncio.new_event_loop() if by_callee else Loop()
    socket = Socket()
    connection: CalleeConnection | CallerConnection
    if by_callee:
        connection = CallerConnection(loop, SECRET, None)
        loop.close()
    else:
        loop.call_later = lambda *_: None
        connection = CalleeConnection(loop, SECRET, Requests(), None, set())
    socket.connection = connection
    socket.room = 1 << 30
    connection.connection_made(cast(asyncio.Transport, socket))
    connection.authenticated = True
    connection.data_received(data)
    if not socket.aborted:
        # A frame that is well formed so far: the rest is awaited, and it is bounded.
        assert len(connection._pending) <= frames.MAX_FRAME + frames.HEAD_BYTES


async def test_a_segment_name_that_leads_out_of_the_folder_is_refused(
    folder: Path, segments: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from headrace.wire.connection import SharedMemory

    (folder / "secret-file").write_bytes(bytes(4096))
    service = Requests()
    async with connected(folder, service, SharedMemory(segments), SharedMemory(segments)) as good:
        for name in (f"../../{folder}/secret-file", "..", "missing", ""):
            reader, writer = await _handshaken(good)
            payload = msgspec.msgpack.encode((1, name, 4096))
            writer.write(HEAD.pack(len(payload), 1, 0, frames.REQUEST, frames.SHARED | frames.PICKLED) + payload)
            assert await _ends(reader)
            writer.close()
        assert not service.calls
        assert caplog.text.count("a shared segment cannot be mapped") == 3  # a missing one was removed with its owner


async def _handshaken(peer: Connected) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection of a peer that holds the secret and goes mad afterwards."""
    reader, writer = await asyncio.open_unix_connection(str(peer.path))
    server_nonce = (await reader.readexactly(auth.SERVER_HELLO_BYTES))[len(auth.MAGIC) :]
    nonce = auth.nonce()
    writer.write(auth.MAGIC + nonce + auth.proof(SECRET, b"client", server_nonce, nonce))
    await reader.readexactly(auth.PROOF_BYTES)
    return reader, writer


async def _ends(reader: asyncio.StreamReader) -> bool:
    async with asyncio.timeout(10):
        try:
            await reader.read()
        except ConnectionResetError:
            pass
    return True

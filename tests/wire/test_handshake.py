"""Both ends prove that they hold the secret before either parses a frame."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from headrace.engine.listeners import listen_unix
from headrace.wire import auth, callee
from headrace.wire.caller import connect
from headrace.wire.errors import HandshakeFailed

from .conditions import until
from .connected import SECRET, Requests, connected


async def test_both_ends_with_the_secret_can_talk(folder: Path) -> None:
    service = Requests(lambda call: call.respond(0, call.header))
    async with connected(folder, service) as both:
        assert await both.call(b"hello").ended == "response"


async def test_a_caller_with_another_secret_is_refused_and_nothing_of_it_is_parsed(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    service = Requests()
    async with connected(folder, service) as good:
        with pytest.raises(HandshakeFailed):
            await connect(str(good.path), b"x" * 32)
        assert "it does not hold the secret" in caplog.text
        assert not service.calls


async def _fake_callee(folder: Path, answer: Callable[[bytes], bytes]) -> asyncio.AbstractServer:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(auth.MAGIC + bytes(auth.NONCE_BYTES))
        try:
            writer.write(answer(await reader.readexactly(auth.CLIENT_HELLO_BYTES)))
            await reader.read()
        finally:
            writer.close()

    return await asyncio.start_unix_server(serve, folder / "fake.sock")


async def test_a_callee_without_the_secret_is_refused(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    reflected = lambda hello: hello[-auth.PROOF_BYTES :]  # noqa: E731
    for answer in (lambda _: bytes(auth.PROOF_BYTES), reflected):
        server = await _fake_callee(folder, answer)
        with pytest.raises(HandshakeFailed):
            await connect(str(folder / "fake.sock"), SECRET)
        server.close()
        (folder / "fake.sock").unlink(missing_ok=True)
    assert caplog.text.count("the peer does not hold the secret") == 2


@pytest.mark.parametrize("hello", [b"X", b"HDRACE2\n" + bytes(64), b"SSH-2.0-OpenSSH\r\n"])
async def test_another_protocol_is_refused_as_soon_as_it_shows(
    hello: bytes, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with connected(folder, Requests()) as good:
        reader, writer = await asyncio.open_unix_connection(str(good.path))
        writer.write(hello)
        async with asyncio.timeout(2):
            with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
                await reader.readexactly(1000)
        writer.close()
        assert "does not speak Headrace's protocol" in caplog.text


async def test_a_truncated_handshake_leaves_nothing_behind(folder: Path) -> None:
    async with connected(folder, Requests()) as good:
        for length in (0, 3, 8, 40, auth.CLIENT_HELLO_BYTES - 1):
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(good.path))
                client.sendall((auth.MAGIC + bytes(100))[:length])
        await until(lambda: len(good.listener.connections) == 1)


async def test_a_handshake_in_single_bytes_succeeds(folder: Path) -> None:
    service = Requests()
    async with connected(folder, service) as good:
        reader, writer = await asyncio.open_unix_connection(str(good.path))
        server_nonce = (await reader.readexactly(auth.SERVER_HELLO_BYTES))[len(auth.MAGIC) :]
        nonce = auth.nonce()
        for byte in auth.MAGIC + nonce + auth.proof(SECRET, b"client", server_nonce, nonce):
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0)
        given = await reader.readexactly(auth.PROOF_BYTES)
        assert auth.verify(SECRET, b"server", server_nonce, nonce, given)
        writer.close()


async def test_a_recorded_handshake_is_of_no_use_later(folder: Path) -> None:
    service = Requests()
    async with connected(folder, service) as good:
        reader, writer = await asyncio.open_unix_connection(str(good.path))
        server_nonce = (await reader.readexactly(auth.SERVER_HELLO_BYTES))[len(auth.MAGIC) :]
        nonce = auth.nonce()
        recorded = auth.MAGIC + nonce + auth.proof(SECRET, b"client", server_nonce, nonce)
        writer.write(recorded)
        await reader.readexactly(auth.PROOF_BYTES)
        writer.close()

        reader, writer = await asyncio.open_unix_connection(str(good.path))
        await reader.readexactly(auth.SERVER_HELLO_BYTES)
        writer.write(recorded)
        with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
            await reader.readexactly(auth.PROOF_BYTES)
        writer.close()


async def test_a_slow_caller_is_cut_off(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(callee, "HANDSHAKE_TIMEOUT_S", 0.05)
    async with connected(folder, Requests()) as good:
        reader, writer = await asyncio.open_unix_connection(str(good.path))
        await reader.readexactly(auth.SERVER_HELLO_BYTES)
        writer.write(auth.MAGIC)
        async with asyncio.timeout(10):
            with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
                await reader.readexactly(1)
        writer.close()
        assert "no handshake within" in caplog.text
        assert len(good.listener.connections) == 1


async def test_a_silent_callee_is_given_up_on(folder: Path) -> None:
    listener = listen_unix(folder / "silent.sock")
    with pytest.raises(TimeoutError):
        await connect(str(folder / "silent.sock"), SECRET, timeout_s=0.05)
    listener.close()


async def test_a_connection_that_ends_right_after_the_handshake_is_not_handed_out(folder: Path) -> None:
    """Whoever gets a connection then sets `on_lost`, so it must not have been lost already."""

    def proves_and_hangs_up(hello: bytes) -> bytes:
        nonce = hello[len(auth.MAGIC) : len(auth.MAGIC) + auth.NONCE_BYTES]
        return auth.proof(SECRET, b"server", bytes(auth.NONCE_BYTES), nonce)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(auth.MAGIC + bytes(auth.NONCE_BYTES))
        writer.write(proves_and_hangs_up(await reader.readexactly(auth.CLIENT_HELLO_BYTES)))
        writer.close()

    server = await asyncio.start_unix_server(serve, folder / "fake.sock")
    for _ in range(20):
        lost = asyncio.Event()
        try:
            connection = await connect(str(folder / "fake.sock"), SECRET)
        except HandshakeFailed:
            continue
        connection.on_lost = lost.set
        async with asyncio.timeout(10):
            await lost.wait()
    server.close()

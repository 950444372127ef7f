"""Through a gate, what listens in a folder of another machine is reached as if it were here, and by nobody else."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from headrace.engine.listeners import listen_unix
from headrace.wire import auth, gate
from headrace.wire.address import gate_address
from headrace.wire.callee import Listener, listen
from headrace.wire.caller import connect
from headrace.wire.connection import SharedMemory
from headrace.wire.dial import gate_binding
from headrace.wire.errors import HandshakeFailed
from headrace.wire.gate import Gate, open_gate
from headrace.wire.rpc import RpcClient, RpcServer

from .conditions import until
from .connected import SECRET, Recorded, Requests


def tcp_listener() -> socket.socket:
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    listener.setblocking(False)
    return listener


class Opened:
    def __init__(self, gate: Gate, port: int) -> None:
        self.gate = gate
        self.port = port

    def address(self, name: str = "wire.sock") -> str:
        return gate_address("127.0.0.1", self.port, name)


@contextlib.asynccontextmanager
async def opened(folder: Path, secret: bytes = SECRET) -> AsyncIterator[Opened]:
    listener = tcp_listener()
    made = await open_gate(listener, secret, folder)
    try:
        yield Opened(made, listener.getsockname()[1])
    finally:
        made.close()
        await until(lambda: not made.strangers and not made.guests)


@contextlib.asynccontextmanager
async def serving(folder: Path, service: Requests, shared: SharedMemory | None = None) -> AsyncIterator[Listener]:
    listener = await listen(listen_unix(folder / "wire.sock"), SECRET, service, shared)
    try:
        yield listener
    finally:
        listener.close()
        for connection in list(listener.connections):
            connection.abort()
        await until(lambda: not listener.connections)


@contextlib.asynccontextmanager
async def raw_socket(folder: Path, name: str = "raw.sock") -> AsyncIterator[asyncio.Queue[tuple]]:  # type: ignore[type-arg]
    """A Unix socket that shakes no hands, as REST's; gives the streams of each connection."""
    arrived: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        arrived.put_nowait((reader, writer))

    server = await asyncio.start_unix_server(take, folder / name, limit=1024)
    try:
        yield arrived
    finally:
        server.close()


async def knock(port: int, name: bytes, secret: bytes = SECRET) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Ask a gate as a client does that does not look at names."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    hello = await reader.readexactly(auth.SERVER_HELLO_BYTES)
    nonce = auth.nonce()
    proof = auth.proof(secret, b"gate-client", hello[len(auth.GATE_MAGIC) :], nonce, gate_binding(b"", name))
    writer.write(auth.GATE_MAGIC + nonce + bytes([len(name)]) + name + proof)
    return reader, writer


async def ended(reader: asyncio.StreamReader) -> bool:
    async with asyncio.timeout(10):
        try:
            return await reader.read() == b""
        except ConnectionResetError:
            return True


async def test_calls_and_large_payloads_go_through(folder: Path) -> None:
    service = Requests(lambda call: call.respond(0, call.header, bytes(call.payload)))
    async with serving(folder, service), opened(folder) as door:
        caller = await connect(door.address(), SECRET)
        made = []
        for size in (0, 10, 5_000_000):
            made.append(Recorded())
            caller.call(made[-1], 0, b"h", bytes(size))
        assert [await call.ended for call in made] == ["response"] * 3
        assert [call.received for call in made] == [0, 10, 5_000_000]
        caller.close()


async def test_control_calls_and_their_streams_go_through(folder: Path) -> None:
    async def double(number: int) -> int:
        return 2 * number

    async def count(number: int):  # type: ignore[no-untyped-def]
        for i in range(number):
            yield i

    listener = await RpcServer({"double": double, "count": count}).start(listen_unix(folder / "c.sock"), SECRET)
    async with opened(folder) as door:
        client = await RpcClient.connect(door.address("c.sock"), SECRET)
        assert await client.call("double", 21) == 42
        assert [i async for i in client.stream("count", 1000)] == list(range(1000))
        client.close()
    listener.close()


async def test_a_callee_lends_no_shared_memory_to_another_machine(
    folder: Path, shared: Callable[[], SharedMemory]
) -> None:
    from headrace.wire import codec

    flags, payload = codec.encode(bytearray(1_000_000))
    service = Requests(lambda call: call.respond(flags, b"", payload))
    async with serving(folder, service, shared()), opened(folder) as door:
        # One that has shared memory, of its own machine.
        caller = await connect(door.address(), SECRET, shared())
        call = Recorded()
        caller.call(call, 0, b"h")
        assert await call.ended == "response"
        assert codec.decode(call.flags, call.payloads[0]) == bytearray(1_000_000)
        caller.close()


async def test_the_secret_is_asked_for(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with serving(folder, Requests()), opened(folder) as door:
        with pytest.raises(HandshakeFailed):
            await connect(door.address(), b"x" * 32)
        assert "it does not hold the secret" in caplog.text


async def test_what_is_behind_shakes_hands_itself(folder: Path) -> None:
    async with serving(folder, Requests()) as listener, opened(folder, b"t" * 32) as door:
        reader, writer = await knock(door.port, b"wire.sock", b"t" * 32)
        await reader.readexactly(1 + auth.PROOF_BYTES + auth.SERVER_HELLO_BYTES)
        writer.write(auth.MAGIC + bytes(64))
        assert await ended(reader)
        assert not listener.connections
        writer.close()


async def test_a_gate_without_the_secret_is_not_trusted(folder: Path) -> None:
    for answer in (b"\1" + bytes(32), b"\0" + bytes(32), b"X" * 100):

        async def pretend(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: bytes = answer) -> None:
            writer.write(auth.GATE_MAGIC + bytes(32))
            await reader.readexactly(80)
            writer.write(answer)
            await reader.read()
            writer.close()

        server = await asyncio.start_server(pretend, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(HandshakeFailed, match="the gate does not hold the secret"):
            await connect(gate_address("127.0.0.1", port, "wire.sock"), SECRET)
        server.close()


async def test_what_is_no_gate_is_not_asked(folder: Path) -> None:
    listener = tcp_listener()
    plain = await listen(listener, SECRET, Requests())
    with pytest.raises(HandshakeFailed, match="no gate"):
        await connect(gate_address("127.0.0.1", listener.getsockname()[1], "wire.sock"), SECRET)
    plain.close()


async def test_a_gate_is_no_callee(folder: Path) -> None:
    async with opened(folder) as door:
        with pytest.raises(HandshakeFailed):
            await connect(f"127.0.0.1:{door.port}", SECRET)


async def test_a_socket_that_is_not_there_refuses_like_one_of_this_machine(folder: Path) -> None:
    left = listen_unix(folder / "left.sock")
    left.close()
    async with opened(folder) as door:
        for name in ("absent.sock", "left.sock"):
            with pytest.raises(ConnectionRefusedError, match=name):
                await connect(door.address(name), SECRET)


@pytest.mark.parametrize(
    "name",
    [
        b"../outside.sock",
        b"/etc/passwd",
        b".",
        b"..",
        b"",
        b"secret",
        b"a/b.sock",
        b".sock",
        b"wire.sock\0",
        b"wire.sock\n",
        b"x" * 200 + b".sock",
        b"\xff.sock",
    ],
)
async def test_no_other_file_is_reached(name: bytes, folder: Path) -> None:
    (folder / "inside").mkdir()
    (folder / "secret").write_bytes(b"s")
    outside = listen_unix(folder / "outside.sock")
    async with opened(folder / "inside") as door:
        reader, writer = await knock(door.port, name)
        answer = await reader.readexactly(1 + auth.PROOF_BYTES)
        assert answer[:1] == b"\0"
        assert await ended(reader)
        writer.close()
    outside.close()


@pytest.mark.parametrize(
    "garbage", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01" * 100, auth.MAGIC + bytes(64), auth.GATE_MAGIC + bytes(500)]
)
async def test_garbage_is_refused_at_once(garbage: bytes, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with opened(folder) as door:
        reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
        writer.write(garbage)
        await reader.readexactly(auth.SERVER_HELLO_BYTES)
        assert await ended(reader)
        writer.close()
        assert "the gate closed a connection" in caplog.text


async def test_a_slow_stranger_is_cut_off(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "HANDSHAKE_TIMEOUT_S", 0.05)
    async with opened(folder) as door:
        reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
        writer.write(auth.GATE_MAGIC)
        await reader.readexactly(auth.SERVER_HELLO_BYTES)
        assert await ended(reader)
        writer.close()
        assert not door.gate.strangers


async def test_who_belongs_here_gets_through_a_crowd_of_strangers(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "MAX_STRANGERS", 50)
    service = Requests(lambda call: call.respond(0, b""))
    async with serving(folder, service), opened(folder) as door:
        crowd = [await asyncio.open_connection("127.0.0.1", door.port) for _ in range(200)]
        await until(lambda: len(door.gate.strangers) == 50)
        caller = await connect(door.address(), SECRET)
        call = Recorded()
        caller.call(call, 0, b"")
        assert await call.ended == "response"
        await crowd[0][0].readexactly(auth.SERVER_HELLO_BYTES)
        assert await ended(crowd[0][0])
        caller.close()
        for _, writer in crowd:
            writer.close()


async def test_many_idle_connections_harm_nobody(folder: Path) -> None:
    service = Requests(lambda call: call.respond(0, b""))
    async with serving(folder, service), opened(folder) as door:
        idle = [await connect(door.address(), SECRET) for _ in range(200)]
        call = Recorded()
        idle[77].call(call, 0, b"")
        assert await call.ended == "response"
        assert len(door.gate.guests) == 200
        for connection in idle:
            connection.close()
        await until(lambda: not door.gate.guests)


async def test_one_who_stops_reading_stops_who_writes(folder: Path) -> None:
    async with raw_socket(folder) as arrived, opened(folder) as door:
        reader, writer = await knock(door.port, b"raw.sock")
        await reader.readexactly(1 + auth.PROOF_BYTES)
        inner_reader, inner_writer = await arrived.get()
        piece = bytes(64 * 1024)
        sent = 0
        with contextlib.suppress(TimeoutError):
            while sent < 512 * 1024 * 1024:
                writer.write(piece)
                async with asyncio.timeout(1):
                    await writer.drain()
                sent += len(piece)
        assert sent < 64 * 1024 * 1024  # what kernels hold, and no more
        (guest,) = door.gate.guests
        assert guest._other is not None and guest._other.transport.get_write_buffer_size() < 1024 * 1024

        async def take() -> int:
            taken = 0
            while taken < sent:
                taken += len(await inner_reader.read(1 << 20))
            return taken

        async with asyncio.timeout(30):
            assert await take() >= sent
        writer.close()
        inner_writer.close()


async def test_one_who_has_said_all_still_gets_the_answer(folder: Path) -> None:
    async with raw_socket(folder) as arrived, opened(folder) as door:
        reader, writer = await knock(door.port, b"raw.sock")
        await reader.readexactly(1 + auth.PROOF_BYTES)
        inner_reader, inner_writer = await arrived.get()
        writer.write(b"question")
        writer.write_eof()
        async with asyncio.timeout(10):
            assert await inner_reader.read() == b"question"
            inner_writer.write(b"answer" * 100_000)
            inner_writer.close()
            assert await reader.read() == b"answer" * 100_000
        writer.close()
        await until(lambda: not door.gate.guests)


async def test_what_was_said_before_the_end_arrives(folder: Path) -> None:
    """The other way round: what is behind answers and closes at once."""
    async with raw_socket(folder) as arrived, opened(folder) as door:
        for _ in range(20):
            reader, writer = await knock(door.port, b"raw.sock")
            _, inner_writer = await arrived.get()
            inner_writer.write(b"x" * 300_000)
            inner_writer.close()
            async with asyncio.timeout(10):
                assert len(await reader.read()) == 1 + auth.PROOF_BYTES + 300_000
            writer.close()
        await until(lambda: not door.gate.guests)


async def test_when_one_end_breaks_so_does_the_other(folder: Path) -> None:
    async with raw_socket(folder) as arrived, opened(folder) as door:
        # The peer vanishes.
        reader, writer = await knock(door.port, b"raw.sock")
        await reader.readexactly(1 + auth.PROOF_BYTES)
        inner_reader, inner_writer = await arrived.get()
        writer.transport.abort()
        assert await ended(inner_reader)
        inner_writer.close()
        # What is behind vanishes.
        reader, writer = await knock(door.port, b"raw.sock")
        await reader.readexactly(1 + auth.PROOF_BYTES)
        inner_reader, inner_writer = await arrived.get()
        inner_writer.transport.abort()
        assert await ended(reader)
        writer.close()
        await until(lambda: not door.gate.guests)


async def test_a_callee_that_dies_is_noticed_through_the_gate(folder: Path) -> None:
    service = Requests()
    async with serving(folder, service) as listener, opened(folder) as door:
        caller = await connect(door.address(), SECRET)
        call = Recorded()
        caller.call(call, 0, b"")
        await service.next()
        for connection in list(listener.connections):
            connection.abort()
        assert await call.ended == "lost"


async def test_a_caller_that_dies_is_noticed_through_the_gate(folder: Path) -> None:
    service = Requests()
    async with serving(folder, service), opened(folder) as door:
        caller = await connect(door.address(), SECRET)
        caller.call(Recorded(), 0, b"")
        call = await service.next()
        caller.abort()
        await until(lambda: call.cancelled)


async def test_a_gate_that_closes_ends_all(folder: Path) -> None:
    async with serving(folder, Requests()) as listener:
        async with opened(folder) as door:
            callers = [await connect(door.address(), SECRET) for _ in range(5)]
            _, stranger = await asyncio.open_connection("127.0.0.1", door.port)
        await until(lambda: all(caller.closed for caller in callers) and not listener.connections)
        stranger.close()

"""Control-plane calls: values, errors, streams, and what happens when either side goes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from headrace.engine.listeners import listen_unix
from headrace.wire import frames
from headrace.wire.errors import ConnectionLost, RpcError
from headrace.wire.rpc import RpcClient, RpcServer

from .conditions import until
from .connected import SECRET, Recorded


class Point(msgspec.Struct):
    x: int
    y: int = 0


class Control:
    """Handlers, and what became of them."""

    def __init__(self) -> None:
        self.release = asyncio.Event()
        self.cancelled = 0
        self.produced = 0
        self.closed = 0

    async def move(self, body: Point) -> Point:
        return Point(body.x + 1, body.y + 1)

    async def nothing(self) -> None:
        return None

    async def fail(self, body: str) -> None:
        raise ValueError(f"no {body}")

    async def wait(self) -> str:
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return "released"

    async def gives_up(self) -> None:
        raise asyncio.CancelledError

    async def count(self, body: int) -> AsyncIterator[Point]:
        try:
            for i in range(body):
                self.produced += 1
                yield Point(i)
        finally:
            self.closed += 1

    async def breaks(self) -> AsyncIterator[int]:
        yield 1
        raise LookupError("no more")

    def handlers(self) -> dict[str, object]:
        names = ("move", "nothing", "fail", "wait", "gives_up", "count", "breaks")
        return {name: getattr(self, name) for name in names}


class Served:
    def __init__(self, control: Control, client: RpcClient, server: RpcServer, path: Path) -> None:
        self.control, self.client, self.server, self.path = control, client, server, path


@pytest.fixture
async def served(folder: Path) -> AsyncIterator[Served]:
    control = Control()
    server = RpcServer(control.handlers())  # type: ignore[arg-type]
    path = folder / "rpc.sock"
    listener = await server.start(listen_unix(path), SECRET)
    client = await RpcClient.connect(str(path), SECRET)
    yield Served(control, client, server, path)
    client.close()
    listener.close()
    await until(lambda: client.closed and not listener.connections)
    assert not server._tasks


async def test_values_arrive_as_their_types(served: Served) -> None:
    assert await served.client.call("move", Point(1, 2), type=Point) == Point(2, 3)
    assert await served.client.call("nothing") is None


async def test_many_calls_at_once_get_their_own_answers(served: Served) -> None:
    answers = await asyncio.gather(*(served.client.call("move", Point(i), type=Point) for i in range(200)))
    assert answers == [Point(i + 1, 1) for i in range(200)]


async def test_a_slow_call_holds_up_no_other(served: Served) -> None:
    waiting = asyncio.ensure_future(served.client.call("wait"))
    assert await served.client.call("move", Point(1), type=Point) == Point(2, 1)
    served.control.release.set()
    assert await waiting == "released"


async def test_an_error_arrives_with_its_class_and_text(served: Served) -> None:
    with pytest.raises(RpcError, match="no coffee") as caught:
        await served.client.call("fail", "coffee")
    assert caught.value.kind == "ValueError"


async def test_an_unknown_method_is_an_error(served: Served) -> None:
    with pytest.raises(RpcError, match="no control call named 'brew'") as caught:
        await served.client.call("brew")
    assert caught.value.kind == "LookupError"


async def test_a_body_of_the_wrong_type_is_an_error(served: Served) -> None:
    with pytest.raises(RpcError) as caught:
        await served.client.call("move", {"x": "text"})
    assert caught.value.kind == "ValidationError"


async def test_a_handler_that_gives_up_by_cancelling_itself_is_an_error(served: Served) -> None:
    with pytest.raises(RpcError) as caught:
        await served.client.call("gives_up", timeout_s=10)
    assert caught.value.kind == "CancelledError"


async def test_a_call_that_takes_too_long_is_cancelled_at_the_handler(served: Served) -> None:
    with pytest.raises(TimeoutError):
        await served.client.call("wait", timeout_s=0.02)
    await until(lambda: served.control.cancelled == 1)
    assert not served.client.connection.calls


async def test_a_cancelled_caller_cancels_the_handler(served: Served) -> None:
    waiting = asyncio.ensure_future(served.client.call("wait"))
    await until(lambda: served.server._tasks)
    waiting.cancel()
    await until(lambda: served.control.cancelled == 1 and not served.client.connection.calls)


async def test_a_stream_arrives_whole_and_in_order(served: Served) -> None:
    numbers = [point.x async for point in served.client.stream("count", 50_000, type=Point)]
    assert numbers == list(range(50_000))


async def test_a_stream_that_breaks_off_raises_after_what_came_before(served: Served) -> None:
    stream = served.client.stream("breaks", type=int)
    assert await anext(stream) == 1
    with pytest.raises(RpcError, match="no more"):
        await anext(stream)


async def test_leaving_a_stream_early_ends_its_handler(served: Served) -> None:
    stream = served.client.stream("count", 10_000_000, type=Point)
    async for _ in stream:
        break
    await stream.aclose()  # type: ignore[attr-defined]
    await until(lambda: served.control.closed == 1)
    assert served.control.produced < 100_000
    assert not served.client.connection.calls


async def test_an_unread_stream_is_held_back(served: Served) -> None:
    stream = served.client.stream("count", 10_000_000, type=Point)
    await anext(stream)
    most = frames.STREAM_WINDOW // frames.CHUNK_OVERHEAD
    await until(lambda: served.control.produced > most // 3)
    for _ in range(50):
        await asyncio.sleep(0.001)
    assert served.control.produced <= most
    await stream.aclose()  # type: ignore[attr-defined]
    await until(lambda: served.control.closed == 1)


async def test_a_lost_connection_fails_calls_and_streams(served: Served) -> None:
    waiting = asyncio.ensure_future(served.client.call("wait"))
    stream = served.client.stream("count", 10_000_000, type=Point)
    await anext(stream)
    lost: list[bool] = []
    served.client.on_lost = lambda: lost.append(True)
    served.client.connection.abort()
    with pytest.raises(ConnectionLost):
        await waiting
    with pytest.raises(ConnectionLost):
        async for _ in stream:
            pass
    await until(lambda: served.control.cancelled == 1 and served.control.closed == 1)
    assert lost == [True] and served.client.closed
    with pytest.raises(ConnectionLost):
        await served.client.call("nothing")


async def test_data_calls_are_refused_on_a_control_socket(served: Served) -> None:
    call = Recorded()
    served.client.connection.call(call, 0, b"nothing", b"")
    assert await call.ended == "error"

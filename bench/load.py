"""Load from one process over plain sockets, with the fate of every request kept."""

from __future__ import annotations

import asyncio
import time
from typing import NamedTuple

REQUEST = b"GET / HTTP/1.1\r\nhost: bench\r\n\r\n"
GIVE_UP_S = 60.0


class Outcome(NamedTuple):
    """One request. `status`: None where the connection broke or was refused; 0 where no answer came for a minute."""

    began: float
    ended: float
    status: int | None


class Connection:
    """A client's connection, made anew whenever it broke."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def get(self) -> Outcome:
        """One request on it."""
        began = time.monotonic()
        try:
            async with asyncio.timeout(GIVE_UP_S):
                status: int | None = await self._get()
        except TimeoutError:
            self.close()
            status = 0
        except (OSError, asyncio.IncompleteReadError, ValueError):
            self.close()
            status = None
        return Outcome(began, time.monotonic(), status)

    async def _get(self) -> int:
        if self._streams is not None and self._streams[0].at_eof():
            self.close()  # the server has closed it, as it does with those that are idle for long
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        writer.write(REQUEST)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        if b"content-length:" in head:
            await reader.readexactly(int(head.split(b"content-length:")[1].split(b"\r\n")[0]))
        else:
            await reader.readuntil(b"0\r\n\r\n")  # in chunks; the applications' answers are a digit long
        if b"connection: close" in head:
            self.close()
        return int(head.split()[1])

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def closed_loop(port: int, connections: int, stop: asyncio.Event) -> list[Outcome]:
    """So many clients, each with one request at a time, until `stop` is set."""
    outcomes: list[Outcome] = []

    async def client() -> None:
        connection = Connection(port)
        while not stop.is_set():
            outcome = await connection.get()
            outcomes.append(outcome)
            if outcome.status is None:
                await asyncio.sleep(0.01)  # a refused connection would be tried thousands of times
        connection.close()

    await asyncio.gather(*(client() for _ in range(connections)))
    return outcomes


async def open_loop(port: int, per_second: float, seconds: float) -> list[Outcome]:
    """So many requests per second, whether they are answered or not."""
    free: list[Connection] = []
    outcomes: list[Outcome] = []

    async def one() -> None:
        connection = free.pop() if free else Connection(port)
        outcomes.append(await connection.get())
        free.append(connection)

    began = time.monotonic()
    tasks: set[asyncio.Task[None]] = set()
    for index in range(int(per_second * seconds)):
        await asyncio.sleep(max(0.0, began + index / per_second - time.monotonic()))
        task = asyncio.create_task(one())
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks)
    for connection in free:
        connection.close()
    return outcomes

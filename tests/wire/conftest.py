from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import uvloop

from headrace.wire.connection import SharedMemory
from headrace.wire.shm import shared_folder


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    # Replicas and proxies run on uvloop, the threads that tell vitals on asyncio's own loop.
    return {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}


@pytest.fixture
def folder() -> Iterator[Path]:
    # Not pytest's own: a Unix socket's path has to be short.
    with tempfile.TemporaryDirectory(prefix="hr-") as made:
        yield Path(made)


@pytest.fixture
def segments(folder: Path) -> Iterator[Path]:
    """A folder for shared memory; whatever a test leaves in it is removed."""
    made = shared_folder(folder.name)
    if made is None:
        pytest.skip("this machine has no memory file system")
    yield made
    for left in made.iterdir():
        left.unlink()
    made.rmdir()


@pytest.fixture
def shared(segments: Path) -> Iterator[Callable[[], SharedMemory]]:
    """Makes what one process would have of shared memory."""
    made: list[SharedMemory] = []

    def make() -> SharedMemory:
        made.append(SharedMemory(segments))
        # Both ends live in this process here; names of segments start with the process's id.
        made[-1].pool._pid = len(made)
        return made[-1]

    yield make
    for memory in made:
        memory.pool.close()

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from .served import Replica


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
def folder() -> Iterator[Path]:
    # Not pytest's own: a Unix socket's path has to be short.
    with tempfile.TemporaryDirectory(prefix="hr-") as made:
        yield Path(made)


Serve = Callable[..., Any]


@pytest.fixture
async def serve(folder: Path) -> AsyncIterator[Serve]:
    """`await serve(Class, option=…)` starts a replica of it."""
    made: list[Replica] = []

    async def start(target: Any, *args: Any, **options: Any) -> Replica:
        replica = Replica(folder, target, args, options)
        made.append(replica)
        await replica.start()
        return replica

    yield start
    for replica in made:
        await replica.stop()

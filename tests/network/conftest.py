from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import uvloop

from .machines import Cable, folders, two_machines


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
def cable() -> Iterator[Cable]:
    with two_machines() as made:
        yield made


@pytest.fixture
def session_folders() -> Iterator[tuple[Path, Path]]:
    with folders() as made:
        yield made

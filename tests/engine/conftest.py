"""Session folders and instances that end with the test."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.instances import config
from headrace.engine.local import LocalEngine, RootHandle, launch


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder for sessions, with a short path."""
    folder = Path(tempfile.mkdtemp(prefix="hr-"))
    monkeypatch.setenv("HEADRACE_SESSIONS", str(folder))
    monkeypatch.delenv("HEADRACE_ADDRESS", raising=False)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def start(sessions: Path) -> Iterator[Callable[..., RootHandle]]:
    """Starts instances, and ends them after the test."""
    handles: list[RootHandle] = []

    def start(**options: Any) -> RootHandle:
        handles.append(launch(config(**options)))
        return handles[-1]

    yield start
    for handle in handles:
        handle.stop()


@pytest.fixture
def root(start: Callable[..., RootHandle]) -> RootHandle:
    return start()


@pytest.fixture
async def engine(root: RootHandle) -> AsyncIterator[LocalEngine]:
    engine = await LocalEngine.connect(root.session.dir)
    yield engine
    await engine.close()

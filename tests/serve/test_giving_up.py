"""Replicas that say of themselves that they can serve no more."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import headrace as serve
from headrace.exceptions import ReplicaUnavailableError

from .conditions import ids, lines, running, until

pytestmark = pytest.mark.usefixtures("http")


@serve.deployment(health_check_period_s=60)
class Fragile:
    def __init__(self, notes: str) -> None:
        self.notes = Path(notes)
        self.failed = asyncio.Event()

    def note(self, what: str) -> None:
        with self.notes.open("a") as file:
            file.write(what + "\n")

    async def pid(self) -> int:
        return os.getpid()

    async def give_up(self) -> str:
        serve.get_replica_context().fail("its engine has died")
        self.failed.set()
        return "given up"

    def give_up_in_a_thread(self) -> None:
        context = serve.get_replica_context()
        thread = threading.Thread(target=lambda: context.fail("its engine has died"))
        thread.start()
        thread.join()

    async def last_words(self) -> AsyncIterator[str]:
        yield "first"
        await self.failed.wait()
        yield "error"

    async def hang(self) -> None:
        await asyncio.sleep(60)

    def __del__(self) -> None:
        self.note("cleaned up")


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    return tmp_path / "notes"


def test_it_is_replaced_without_waiting_for_a_health_check(notes: Path) -> None:
    handle = serve.run(Fragile.bind(str(notes)))
    [before] = ids("Fragile")
    assert handle.give_up.remote().result() == "given up"
    until(lambda: running("Fragile") and before not in ids("Fragile"), seconds=10)
    assert lines(notes) == ["cleaned up"]


def test_answers_in_flight_have_time_to_end(notes: Path) -> None:
    handle = serve.run(Fragile.bind(str(notes)))
    words = handle.options(stream=True).last_words.remote()
    assert next(words) == "first"
    handle.give_up.remote().result()
    assert list(words) == ["error"]


def test_what_takes_too_long_is_not_waited_for(notes: Path) -> None:
    handle = serve.run(Fragile.bind(str(notes)))
    [before] = ids("Fragile")
    hanging = handle.hang.remote()
    handle.give_up.remote().result()
    until(lambda: before not in ids("Fragile"), seconds=10)
    with pytest.raises(ReplicaUnavailableError):
        hanging.result(timeout_s=10)


def test_any_thread_may_say_so(notes: Path) -> None:
    handle = serve.run(Fragile.bind(str(notes)))
    [before] = ids("Fragile")
    handle.give_up_in_a_thread.remote().result()
    until(lambda: running("Fragile") and before not in ids("Fragile"), seconds=10)


def test_in_local_testing_nothing_ends(notes: Path) -> None:
    handle = serve.run(Fragile.bind(str(notes)), local_testing_mode=True)
    assert handle.give_up.remote().result() == "given up"
    assert handle.pid.remote().result() == os.getpid()

"""Code that blocks an event loop is named by its line, once, and nobody else is."""

from __future__ import annotations

import asyncio
import linecache
import queue
import re
import signal
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import uvloop

from headrace.replica.blocking_code import Line, line_at_work
from headrace.replica.loop_watch import (
    DEFAULT_THRESHOLD_S,
    SAME_LINE_AGAIN_S,
    THRESHOLD_VARIABLE,
    Blocks,
    LoopWatch,
    warning_threshold_s,
)

THRESHOLD_S = 0.2


class Work:
    def __init__(self, ongoing: int) -> None:
        self.ongoing = ongoing
        self.worked_s = 0.0
        self.package: str | None = None


class Watched:
    """An event loop in a thread, as a replica runs its own, and a watch in another. `said` are the warnings."""

    def __init__(self) -> None:
        self.work = Work(1)
        self.said: queue.Queue[str] = queue.Queue()
        self.loop: asyncio.AbstractEventLoop
        ready = threading.Event()

        async def run() -> None:
            self.loop = asyncio.get_running_loop()
            self._stop = asyncio.Event()
            ready.set()
            await self._stop.wait()

        self._thread = threading.Thread(target=uvloop.run, args=(run(),), daemon=True)
        self._thread.start()
        ready.wait()
        assert self._thread.ident is not None
        self._watch = LoopWatch(self.loop, self._thread.ident, self.work, THRESHOLD_S, self.said.put)
        threading.Thread(target=self._watch_it, daemon=True).start()
        deadline = time.monotonic() + 30
        while self._watch._turned_at is None:  # until it has looked
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def _watch_it(self) -> None:
        async def watch() -> None:
            self._watching = asyncio.current_task(), asyncio.get_running_loop()
            await self._watch.watch()

        try:
            asyncio.run(watch())
        except asyncio.CancelledError:
            pass

    def does(self, function: Callable[..., None], *args: object) -> None:
        """Have user code run on the loop, to its end."""

        async def handler() -> None:
            function(*args)

        asyncio.run_coroutine_threadsafe(handler(), self.loop).result(60)

    def end(self) -> None:
        task, loop = self._watching
        assert task is not None
        loop.call_soon_threadsafe(task.cancel)
        self.loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()


@pytest.fixture
def watched() -> Iterator[Watched]:
    watched = Watched()
    yield watched
    watched.end()


def block(seconds: float) -> None:
    time.sleep(seconds)


def search(text: str) -> None:
    re.match(r"(a+)+$", text)


def test_the_line_that_blocks_is_named_while_it_blocks(watched: Watched) -> None:
    threading.Thread(target=watched.does, args=(block, 1.5)).start()
    warning = watched.said.get(timeout=30)
    line = block.__code__.co_firstlineno + 1
    assert f"{__file__}:{line} in block (time.sleep(seconds))" in warning
    assert "make the method synchronous" in warning
    assert "turns again after 1." in watched.said.get(timeout=30)


def test_code_in_c_that_keeps_the_interpreters_lock_is_named_too(watched: Watched) -> None:
    began = time.monotonic()
    search("a" * 20 + "b")
    short = time.monotonic() - began
    more = 20
    while short * 2 ** (more - 20) < 4 * THRESHOLD_S:
        more += 1
    deadline = time.monotonic() + 60
    while watched.said.empty():  # on a machine that has no time for this process, nobody is to blame
        assert time.monotonic() < deadline
        watched.does(search, "a" * more + "b")
    assert "in search (re.match" in watched.said.get()


def test_a_line_is_named_once_and_another_one_too(watched: Watched) -> None:
    def other() -> None:
        time.sleep(2 * THRESHOLD_S)

    for _ in range(3):
        watched.does(block, 2 * THRESHOLD_S)
    watched.does(other)
    said = [watched.said.get(timeout=30)]
    while "in " + other.__qualname__ not in said[-1]:
        said.append(watched.said.get(timeout=30))
    assert sum("in block" in text and "has been blocked" in text for text in said) == 1


def test_code_that_awaits_is_not_named(watched: Watched) -> None:
    async def waits() -> None:
        for _ in range(20):
            await asyncio.sleep(THRESHOLD_S / 4)

    asyncio.run_coroutine_threadsafe(waits(), watched.loop).result(60)
    watched.does(block, 4 * THRESHOLD_S)  # whatever was said of the time before is said by now
    assert "in block" in watched.said.get(timeout=30)


def test_nothing_is_asked_of_a_loop_without_requests(watched: Watched) -> None:
    watched.work.ongoing = 0
    turns = 0
    original = watched.loop.call_soon_threadsafe

    def counted(*args: object) -> object:
        nonlocal turns
        turns += 1
        return original(*args)  # type: ignore[arg-type]

    time.sleep(3 * THRESHOLD_S)  # a question that was under way
    watched._watch._loop = types.SimpleNamespace(call_soon_threadsafe=counted)  # type: ignore[assignment]
    time.sleep(3 * THRESHOLD_S)
    assert turns == 0


STOPPED = """
import asyncio, sys, threading, time
from tests.replica.test_loop_watch import Watched, block
watched = Watched()
print("ready", flush=True)
sys.stdin.readline()
asyncio.run_coroutine_threadsafe(asyncio.sleep(0.5), watched.loop).result()
watched.does(block, 1.0)
print(watched.said.get(timeout=30), flush=True)
"""


def test_nobody_is_to_blame_where_the_whole_process_was_stopped() -> None:
    tests = Path(__file__).parents[2]
    process = subprocess.Popen(
        [sys.executable, "-c", STOPPED], cwd=tests, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdin is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGSTOP)
    time.sleep(2.0)
    process.send_signal(signal.SIGCONT)
    process.stdin.write("\n")
    process.stdin.flush()
    assert "in block" in process.stdout.readline()
    process.kill()
    process.wait()


LINE = Line("/app/model.py", 14, "Model.__call__", "time.sleep(1)", None, False)


def test_the_same_line_is_named_again_after_a_while_with_how_often_it_was() -> None:
    said: list[str] = []
    blocks = Blocks(said.append)
    for number in range(4):
        blocks.found(LINE, 0.5, float(number))
        blocks.ended(0.6)
    assert len(said) == 1
    blocks.found(LINE, 0.5, SAME_LINE_AGAIN_S + 1)
    assert len(said) == 2 and "happened 3 more times" in said[1]


def test_code_without_end_on_ever_new_lines_is_not_remembered_for_ever() -> None:
    said: list[str] = []
    blocks = Blocks(said.append)
    for number in range(5000):
        blocks.found(Line("<string>", number, "f", "", None, False), 0.5, 0.0)
    assert len(said) == len(blocks._told_at) == 1000


def test_how_long_it_was_is_said_where_it_was_much_longer() -> None:
    said: list[str] = []
    blocks = Blocks(said.append)
    blocks.found(LINE, 0.5, 0.0)
    blocks.ended(61.2)
    assert said[1] == "the event loop turns again after 61.2 s; /app/model.py:14 had blocked it"


def code_of(filename: str, source: str, **names: object) -> Callable[..., Line]:
    """The function `f` of a source that is said to be in a file."""
    linecache.cache[filename] = (len(source), None, source.splitlines(True), filename)
    found: dict[str, object] = {"__name__": Path(filename).stem, **names}
    exec(compile(source, filename, "exec"), found)
    return found["f"]  # type: ignore[return-value]


def here(package: str | None = None) -> Line | None:
    return line_at_work(sys._getframe(1), package)


def test_the_line_of_the_user_is_named_and_what_it_called_in_a_library() -> None:
    library = code_of("/v/lib/site-packages/client/http.py", "def f():\n    return look()\n", look=here)
    found = code_of("/app/model.py", "def f():\n    return get()\n", get=library)()
    assert (found.file, found.number, found.source) == ("/app/model.py", 2, "return get()")
    assert str(found) == "/app/model.py:2 in f (return get(), now in client/http.py:2 f)"


def test_a_library_is_named_where_there_is_no_code_of_the_users() -> None:
    def run(look: Callable[[], Line | None]) -> Line | None:
        return asyncio.Runner().run(_awaiting(look))

    library = code_of("/v/lib/site-packages/client/http.py", "def f():\n    return look()\n", look=lambda: here("x"))
    found = run(library)
    assert found is not None
    # The function above, which called it, is the user's.
    assert found.file == __file__


async def _awaiting(look: Callable[[], Line | None]) -> Line | None:
    return look()


def test_an_installed_package_is_the_users_where_the_deployment_is_of_it() -> None:
    source = "def f():\n    return look('shop')\n"
    installed = code_of("/v/site-packages/shop/model.py", source, look=here, __name__="shop.model")
    found = code_of("/v/site-packages/torch/nn.py", "def f():\n    return call()\n", call=installed)()
    assert found.file == "/v/site-packages/shop/model.py" and found.within is None


def test_a_loop_that_waits_blocks_nobody() -> None:
    async def none() -> Line | None:
        loop = asyncio.get_running_loop()
        main, found = threading.get_ident(), []

        def look() -> None:
            found.append(line_at_work(sys._current_frames()[main]))

        await loop.run_in_executor(None, lambda: (time.sleep(0.2), look()))
        return found[0]

    assert uvloop.run(none()) is None


@pytest.mark.parametrize(
    ("written", "threshold_s"),
    [("", DEFAULT_THRESHOLD_S), ("0", None), ("2.5", 2.5), (" 0.1 ", 0.1)],
)
def test_the_threshold_is_read_from_the_environment(
    written: str, threshold_s: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(THRESHOLD_VARIABLE, written)
    assert warning_threshold_s() == threshold_s


@pytest.mark.parametrize("written", ["half", "-1", "inf", "nan"])
def test_a_wrong_threshold_is_said_and_the_default_taken(
    written: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(THRESHOLD_VARIABLE, written)
    assert warning_threshold_s() == DEFAULT_THRESHOLD_S
    assert f"{THRESHOLD_VARIABLE}: must be a number of seconds, or 0" in caplog.text

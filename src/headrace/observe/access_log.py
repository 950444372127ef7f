"""The access log: a line for each request, written off the request path.

The request path appends a tuple. A thread, which sleeps while there is nothing, turns the tuples of a tenth of a
second into lines and writes them, a few at a time so that it never holds the interpreter for long.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from typing import Any

from headrace.observe.access_lines import Lines
from headrace.observe.log_files import RotatingLogFile

FLUSH_EVERY_S = 0.1
MAX_WAITING = 20_000
"""Requests that may wait to be written; what comes on top while the disk stands still is dropped, and counted."""
_SLICE = 64


class AccessLog:
    """
    Args:
        file: where the lines go.
        lines: turns requests that are done into lines.
    """

    def __init__(self, file: RotatingLogFile, lines: Lines) -> None:
        self._file = file
        self._lines = lines
        self._waiting: deque[Any] = deque()
        self._dropped = 0
        self._awake = False
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._writing = threading.Lock()

    def note(self, done: tuple[Any, ...]) -> None:
        """A request is done: the fields of what `lines` takes."""
        waiting = self._waiting
        if len(waiting) >= MAX_WAITING:
            self._dropped += 1
            return
        waiting.append(done)
        if not self._awake:
            self._begin()

    def _begin(self) -> None:
        self._awake = True
        if self._thread is None:
            self._thread = threading.Thread(target=self._flush_for_ever, name="headrace-access-log", daemon=True)
            self._thread.start()
        self._wake.set()

    def _flush_for_ever(self) -> None:
        while True:
            self._wake.wait()
            self._wake.clear()
            while True:
                time.sleep(FLUSH_EVERY_S)
                if not self._waiting:
                    break
                self.flush()
            self._awake = False
            if self._waiting:  # noted before that could be seen
                self._awake = True
                self._wake.set()

    def flush(self) -> None:
        """Write what waits."""
        with self._writing:
            waiting = self._waiting
            offset = time.time() - time.monotonic()
            left = len(waiting)
            while left > 0:
                batch = [waiting.popleft() for _ in range(min(left, _SLICE))]
                left -= len(batch)
                self._file.write(self._lines(batch, offset))
            dropped, self._dropped = self._dropped, 0
        if dropped:
            self._file.warn(f"{dropped} requests are missing in the access log: the disk did not take them in time")


def tells_clients() -> bool:
    """Whether access logs tell the addresses of clients, which are personal data: as in Ray Serve, if asked to."""
    return os.environ.get("RAY_SERVE_LOG_CLIENT_ADDRESS", "0") == "1"

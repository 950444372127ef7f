"""Hears from vLLM's workers how loading goes."""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from headrace.llm.engines.protocol import LoadingProgress
from headrace.llm.engines.vllm.worker_extension import PROGRESS

_READ_AT_ONCE = 64 * 1024


class Loading:
    """While it is entered, what workers write into a named pipe goes to `report`, on the event loop.

    The pipe's name is in the environment, which vLLM's processes inherit, whatever they are started by.
    """

    def __init__(self, report: Callable[[LoadingProgress], None]) -> None:
        self._report = report
        self._pipe = -1
        self._unread = b""
        self._last: LoadingProgress | None = None

    def __enter__(self) -> Loading:
        self._folder = tempfile.TemporaryDirectory(prefix="headrace-vllm-")
        path = Path(self._folder.name, "progress")
        os.mkfifo(path, 0o600)
        # Opened for writing too, it has no end of file while no worker has it open.
        self._pipe = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        os.environ[PROGRESS] = str(path)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._pipe, self._read)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._read()
        self._loop.remove_reader(self._pipe)
        os.environ.pop(PROGRESS, None)
        os.close(self._pipe)
        self._folder.cleanup()

    def _read(self) -> None:
        try:
            self._unread += os.read(self._pipe, _READ_AT_ONCE)
        except BlockingIOError:
            return
        *lines, self._unread = self._unread.split(b"\n")
        for line in lines:
            told = json.loads(line)
            self.tell(LoadingProgress(told["stage"], told["fraction"]))

    def tell(self, progress: LoadingProgress) -> None:
        """Report, unless it is what was reported last."""
        if progress != self._last:
            self._last = progress
            self._report(progress)

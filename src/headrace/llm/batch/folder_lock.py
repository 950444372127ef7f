"""One process at a time works off the batches of a folder."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
from pathlib import Path

logger = logging.getLogger("headrace.llm")

_TRY_EVERY_S = 0.2
_TELL_AFTER_S = 10.0


class FolderLock:
    """Held until `release`, or until this process ends, whichever way.

    During an update the new process waits here until the old one has ended.

    Args:
        folder: is there, and can be written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._descriptor: int | None = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    async def acquire(self) -> None:
        """Returns when this process holds it."""
        waited_s = 0.0
        while not self._try():
            await asyncio.sleep(_TRY_EVERY_S)
            waited_s += _TRY_EVERY_S
            if waited_s >= _TELL_AFTER_S > waited_s - _TRY_EVERY_S:
                logger.warning("batches wait: another process works off those in %s", self._folder)

    def _try(self) -> bool:
        assert self._descriptor is not None
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def release(self) -> None:
        """Let the next one have it. Safe to call twice."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

"""A controller that is killed at a write to its store: before the statement, or right after it.

It dies at the write that the file `die_at` in the session folder counts down to, and only once.
"""

from __future__ import annotations

import os
import signal
import sqlite3
from pathlib import Path
from typing import Any

from headrace.controller import main as controller
from headrace.controller.store import Store
from headrace.engine.process import ProcessContext

DIE_AT = "die_at"
_READING = ("SELECT", "PRAGMA")


class DyingConnection:
    """A connection to the database, each of whose writes has two moments to die at."""

    def __init__(self, connection: sqlite3.Connection, folder: Path) -> None:
        self._connection = connection
        self._file = folder / DIE_AT

    def execute(self, statement: str, parameters: Any = ()) -> sqlite3.Cursor:
        if statement.startswith(_READING):
            return self._connection.execute(statement, parameters)
        self._maybe_die()
        cursor = self._connection.execute(statement, parameters)
        self._maybe_die()
        return cursor

    def close(self) -> None:
        self._connection.close()

    def _maybe_die(self) -> None:
        if not self._file.exists():
            return
        left = int(self._file.read_text())
        if left == 0:
            self._file.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        self._file.write_text(str(left - 1))


class DyingStore(Store):
    def __init__(self, path: Path, *more: Any) -> None:
        super().__init__(path, *more)
        self._db = DyingConnection(self._db, path.parent)  # type: ignore[assignment]


def main(process: ProcessContext) -> None:
    controller.Store = DyingStore  # type: ignore[attr-defined]
    controller.main(process)

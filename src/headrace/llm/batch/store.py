"""Where uploaded files and batches are kept: a folder with an SQLite file beside the files' contents."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec

from headrace.exceptions import ConfigError
from headrace.llm.batch.records import ENDED, BatchRecord, FileRecord

_SCHEMA = """
CREATE TABLE IF NOT EXISTS files (id TEXT PRIMARY KEY, owner TEXT NOT NULL, record BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS batches (
    id TEXT PRIMARY KEY, owner TEXT NOT NULL, ended INTEGER NOT NULL, record BLOB NOT NULL
);
"""

_batch = msgspec.json.Decoder(BatchRecord)
_file = msgspec.json.Decoder(FileRecord)


class BatchStore:
    """Used by one process at a time. What a method has written is there after a power cut.

    Args:
        folder: made, for this user alone, if it is not there.

    Raises:
        ConfigError: the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._database = sqlite3.connect(folder / "batches.db", isolation_level=None, check_same_thread=False)
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.executescript(_SCHEMA)
        except (OSError, sqlite3.Error) as error:
            raise ConfigError(f"batch_config.folder: cannot keep batches in '{folder}': {error}") from error

    def close(self) -> None:
        """No more calls after this."""
        self._database.close()

    def content(self, file_id: str) -> Path:
        """Where a file's bytes are."""
        return self._folder / file_id

    # Files.

    def new_file_id(self) -> str:
        """For a file whose content is written before it is added."""
        return f"file-{uuid4().hex}"

    def add_file(self, file_id: str, filename: str, purpose: str, owner: str) -> FileRecord:
        """Make a file known whose bytes are at `content(file_id)`."""
        path = self.content(file_id)
        with path.open("rb") as file:
            os.fsync(file.fileno())
            size = os.fstat(file.fileno()).st_size
        record = FileRecord(id=file_id, bytes=size, created_at=int(time.time()), filename=filename, purpose=purpose)
        self._database.execute(
            "INSERT OR REPLACE INTO files VALUES (?, ?, ?)", (file_id, owner, msgspec.json.encode(record))
        )
        return record

    def file(self, file_id: str, owner: str) -> FileRecord | None:
        """A file of this owner's."""
        rows = self._rows("SELECT record FROM files WHERE id = ? AND owner = ?", (file_id, owner))
        return next((_file.decode(record) for (record,) in rows), None)

    def files(self, owner: str) -> list[FileRecord]:
        """All files of an owner, the latest first."""
        rows = self._rows("SELECT record FROM files WHERE owner = ? ORDER BY rowid DESC", (owner,))
        return [_file.decode(record) for (record,) in rows]

    def delete_file(self, file_id: str, owner: str) -> bool:
        """Returns whether there was one."""
        with closing(
            self._database.execute("DELETE FROM files WHERE id = ? AND owner = ?", (file_id, owner))
        ) as deleted:
            found = deleted.rowcount > 0
        if found:
            self.content(file_id).unlink(missing_ok=True)
        return found

    # Batches.

    def save_batch(self, batch: BatchRecord, owner: str) -> None:
        """Write a batch as it is now."""
        self._database.execute(
            "INSERT INTO batches VALUES (?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET ended = excluded.ended, "
            "record = excluded.record",
            (batch.id, owner, batch.status in ENDED, msgspec.json.encode(batch)),
        )

    def batch(self, batch_id: str, owner: str) -> BatchRecord | None:
        """A batch of this owner's."""
        rows = self._rows("SELECT record FROM batches WHERE id = ? AND owner = ?", (batch_id, owner))
        return next((_batch.decode(record) for (record,) in rows), None)

    def batches(self, owner: str) -> list[BatchRecord]:
        """All batches of an owner, the latest first."""
        rows = self._rows("SELECT record FROM batches WHERE owner = ? ORDER BY rowid DESC", (owner,))
        return [_batch.decode(record) for (record,) in rows]

    def unfinished(self) -> list[tuple[BatchRecord, str]]:
        """Batches that have not ended, with their owners, the oldest first."""
        rows = self._rows("SELECT record, owner FROM batches WHERE NOT ended ORDER BY rowid", ())
        return [(_batch.decode(record), owner) for record, owner in rows]

    def _rows(self, query: str, values: Iterable[object]) -> list[tuple[Any, ...]]:
        with closing(self._database.execute(query, tuple(values))) as found:
            return found.fetchall()

"""A database whose committed transactions are also kept in a journal, from which the next controller makes it anew.

The journal is the truth: a transaction is in it before it is committed here. Whoever cannot tell whether an entry has
arrived there stops and begins again from what the journal holds, so that no controller ever acts on anything else.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable
from typing import Any

import msgspec

from headrace.engine.protocol import Journal, JournalContents

logger = logging.getLogger("headrace.controller")

COMPACT_ENTRIES = 512
"""Entries after which the journal is compacted, however short they are."""

COMPACT_BYTES = 1 << 18
"""Bytes of entries after which it is compacted, if the snapshot is no longer than that."""

_READING = ("SELECT", "PRAGMA")

_Statement = tuple[str, list[Any]]
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[_Statement]).decode


def rebuilt(contents: JournalContents, prepare: Callable[[sqlite3.Connection], None]) -> sqlite3.Connection:
    """The database that a journal holds, in memory.

    Args:
        prepare: makes the tables that are not there.

    Raises:
        sqlite3.Error, msgspec.MsgspecError: what the journal holds is damaged.
    """
    db = sqlite3.connect(":memory:", isolation_level=None)
    if contents.snapshot is not None:
        db.deserialize(contents.snapshot)
    prepare(db)
    for entry in contents.entries:
        db.execute("BEGIN")
        for statement, parameters in _decode(entry):
            db.execute(statement, parameters)
        db.execute("COMMIT")
    return db


class JournaledDatabase:
    """Does what is used of a `sqlite3.Connection` in autocommit mode.

    Args:
        db: what `rebuilt` made of `contents`.
        on_lost: called once when the journal cannot be written for certain; every later write fails.
    """

    def __init__(
        self, db: sqlite3.Connection, journal: Journal, contents: JournalContents, on_lost: Callable[[], None]
    ) -> None:
        self._db = db
        self._journal = journal
        self._on_lost = on_lost
        self._number = contents.number + len(contents.entries)
        self._entries = len(contents.entries)
        self._bytes = sum(map(len, contents.entries))
        self._snapshot_bytes = len(contents.snapshot or b"")
        self._open: list[_Statement] | None = None
        self._lost: ConnectionError | None = None

    def execute(self, statement: str, parameters: Any = ()) -> sqlite3.Cursor:
        """
        Raises:
            ConnectionError: it is not certain that the next controller would find this. Nothing has changed here, and
                nothing will any more.
            sqlite3.Error: as from a connection.
        """
        verb = statement.partition(" ")[0]
        if verb in _READING:
            return self._db.execute(statement, parameters)
        if self._lost is not None:
            raise self._lost
        match verb:
            case "BEGIN":
                self._open = []
                return self._db.execute(statement)
            case "ROLLBACK":
                self._open = None
                return self._db.execute(statement)
            case "COMMIT":
                return self._commit()
        if self._open is not None:
            return self._write(self._open, statement, parameters)
        self.execute("BEGIN IMMEDIATE")
        assert self._open is not None
        try:
            cursor = self._write(self._open, statement, parameters)
        except BaseException:
            self.execute("ROLLBACK")
            raise
        self._commit()
        return cursor

    def close(self) -> None:
        self._db.close()

    def _write(self, transaction: list[_Statement], statement: str, parameters: Any) -> sqlite3.Cursor:
        cursor = self._db.execute(statement, parameters)
        transaction.append((statement, list(parameters)))
        return cursor

    def _commit(self) -> sqlite3.Cursor:
        transaction, self._open = self._open, None
        if not transaction:
            return self._db.execute("COMMIT")
        entry = _encode(transaction)
        try:
            self._journal.append(self._number + 1, entry)
        except ConnectionError as error:
            self._db.execute("ROLLBACK")
            self._lose(error)
            raise
        self._number += 1
        self._entries += 1
        self._bytes += len(entry)
        cursor = self._db.execute("COMMIT")
        if self._entries >= COMPACT_ENTRIES or self._bytes >= max(COMPACT_BYTES, self._snapshot_bytes):
            self._compact()
        return cursor

    def _compact(self) -> None:
        snapshot = self._db.serialize()
        try:
            self._journal.compact(self._number, snapshot)
        except ConnectionError as error:
            # The entries are all there: it is tried again with one of the next.
            logger.debug("the journal could not be compacted: %s", error)
            return
        self._entries, self._bytes, self._snapshot_bytes = 0, 0, len(snapshot)

    def _lose(self, error: ConnectionError) -> None:
        logger.error("the controller's state can no longer be kept, and it starts anew: %s", error)
        self._lost = ConnectionError(f"the controller's state can no longer be kept: {error}")
        self._on_lost()

"""The controller's state in Ray's key-value store, where the next controller finds it on whatever machine it starts.

journal:entry:<number, 16 digits>       an entry
journal:snapshot:<number, 16 digits>    the state after that entry; the newest one counts
"""

from __future__ import annotations

from typing import Any

from headrace.engine.protocol import JournalContents
from headrace.engine.ray import kv
from headrace.engine.ray.records import JOURNAL

_ENTRY = f"{JOURNAL}entry:"
_SNAPSHOT = f"{JOURNAL}snapshot:"


class KvJournal:
    """A `Journal`."""

    def load(self) -> JournalContents:
        with _reaching():
            snapshots = sorted(map(_number, kv.keys(_SNAPSHOT)), reverse=True)
            for number in snapshots:
                snapshot = kv.get(_key(_SNAPSHOT, number))
                if snapshot is not None:
                    return JournalContents(number, snapshot, self._entries_after(number))
            return JournalContents(0, None, self._entries_after(0))

    def _entries_after(self, number: int) -> list[bytes]:
        entries = []
        while (entry := kv.get(_key(_ENTRY, number + 1))) is not None:
            entries.append(entry)
            number += 1
        return entries

    def append(self, number: int, entry: bytes) -> None:
        with _reaching():
            key = _key(_ENTRY, number)
            kept = kv.put_new(key, entry)
            if kept and any(_number(snapshot) >= number for snapshot in kv.keys(_SNAPSHOT)):
                # Its place was free because another one's entry there is in a snapshot already.
                kv.delete(key)
            elif kept or kv.get(key) == entry:
                return
            raise ConnectionError(f"entry {number} of the journal is another controller's, which has taken over")

    def compact(self, number: int, snapshot: bytes) -> None:
        with _reaching():
            kv.put(_key(_SNAPSHOT, number), snapshot)
            for prefix, last in ((_ENTRY, number), (_SNAPSHOT, number - 1)):
                for key in kv.keys(prefix):
                    if _number(key) <= last:
                        kv.delete(key)


class _reaching:
    """Says of whatever Ray raises that the store is out of reach."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, Exception) and not isinstance(error, ConnectionError):
            raise ConnectionError(f"the cluster's key-value store is out of reach: {error}") from error


def _key(prefix: str, number: int) -> str:
    return f"{prefix}{number:016d}"


def _number(key: str) -> int:
    return int(key.rpartition(":")[2])

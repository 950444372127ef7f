"""Reading logs back: the last lines of a file, from its end, and what is added to it from now on."""

from __future__ import annotations

import calendar
import contextlib
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

_HEAD = re.compile(rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)\.(\d{3})Z (\S+) +(\S+?)(?: (\S+) (\S+))?: ")
_BLOCK = 65_536
_LONGEST_MESSAGE = 1 << 20
"""Bytes of lines without a head that are taken for one message; then the next begins."""

_TOLD = frozenset(("asctime", "levelname", "message", "request_id", "route", "exc_text"))


class Entry(msgspec.Struct, omit_defaults=True):
    """One message of a log, with the lines that belong to it.

    Attributes:
        time: seconds since the epoch.
        level: "" for what native code or a child process has written.
        process: label of the process.
        fields: what else a line of JSON has.
    """

    time: float
    level: str
    process: str
    message: str
    request_id: str = ""
    route: str = ""
    fields: dict[str, Any] = {}


Accept = Callable[[Entry], bool]


def entry_of(line: bytes, process: str) -> Entry | None:
    """The entry that begins with this line; None where it belongs to the one before."""
    found = _HEAD.match(line)
    if found is not None:
        at = _epoch(found[1].decode()) + int(found[2]) / 1000
        request_id, route = (part.decode(errors="replace") for part in (found[5] or b"", found[6] or b""))
        message = line[found.end() :].decode(errors="replace")
        return Entry(at, found[3].decode(errors="replace"), process, message, request_id, "" if route == "-" else route)
    if line.startswith(b'{"asctime":'):
        with contextlib.suppress(msgspec.DecodeError, KeyError, ValueError, TypeError):
            fields: dict[str, Any] = msgspec.json.decode(line)
            text = fields["asctime"]
            message = str(fields["message"])
            if fields.get("exc_text"):
                message += f"\n{fields['exc_text']}"
            return Entry(
                _epoch(text[:19]) + int(text[20:23]) / 1000,
                str(fields["levelname"]),
                process,
                message,
                str(fields.get("request_id", "")),
                str(fields.get("route", "")),
                {name: value for name, value in fields.items() if name not in _TOLD},
            )
    return None


def _epoch(text: str) -> float:
    return calendar.timegm(time.strptime(text, "%Y-%m-%dT%H:%M:%S"))


class Budget:
    """Bytes that may still be read for one question."""

    def __init__(self, left: int) -> None:
        self.left = left

    @property
    def spent(self) -> bool:
        return self.left <= 0


def parts_of(path: Path) -> list[Path]:
    """The file and those that were put aside when it was full, newest first."""
    # Of a link, what lies beside its target.
    path = Path(os.path.realpath(path))
    parts = [path] if path.exists() else []
    number = 1
    while (older := path.with_name(f"{path.name}.{number}")).exists():
        parts.append(older)
        number += 1
    return parts


def last_entries(
    path: Path, process: str, count: int, accept: Accept, not_before: float, budget: Budget, end: int | None = None
) -> list[Entry]:
    """The last entries of a log, oldest first.

    Args:
        count: of those that `accept` takes, at most.
        not_before: seconds since the epoch; earlier ones are not looked at.
        budget: reading ends when it is spent.
        end: bytes of the newest file that count; None for all.
    """
    found: list[Entry] = []
    later = time.time()
    if count <= 0:
        return found
    for part in parts_of(path):
        for entry in _entries_from_the_end(part, process, later, budget, end):
            later = entry.time
            if entry.time < not_before:
                return found[::-1]
            if accept(entry):
                found.append(entry)
                if len(found) >= count:
                    return found[::-1]
        end = None
    return found[::-1]


def _entries_from_the_end(path: Path, process: str, later: float, budget: Budget, end: int | None) -> Iterator[Entry]:
    """`later`: time of the entry that follows the file, for lines at its beginning that tell none."""
    more: list[bytes] = []
    size = 0
    try:
        with path.open("rb") as file:
            for line in _lines_from_the_end(file, budget, end):
                entry = entry_of(line, process)
                if entry is None and size < _LONGEST_MESSAGE:
                    more.append(line)
                    size += len(line)
                    continue
                if entry is None:
                    entry = Entry(later, "", process, line.decode(errors="replace"))
                later = entry.time
                yield _with(entry, more[::-1])
                more, size = [], 0
    except OSError:
        return  # put aside or removed meanwhile
    if more and not budget.spent:
        first, *rest = reversed(more)
        yield _with(Entry(later, "", process, first.decode(errors="replace")), rest)


def _with(entry: Entry, more: list[bytes]) -> Entry:
    if more:
        lines = (line.removeprefix(b"\t").decode(errors="replace") for line in more)
        entry.message = "\n".join([entry.message, *lines])
    return entry


def _lines_from_the_end(file: BinaryIO, budget: Budget, end: int | None) -> Iterator[bytes]:
    position = file.seek(0, os.SEEK_END)
    if end is not None:
        position = min(position, end)
    rest = b""
    first = True
    while position > 0 and not budget.spent:
        size = min(_BLOCK, position)
        position -= size
        file.seek(position)
        rest = file.read(size) + rest
        budget.left -= size
        if first and rest.endswith(b"\n"):
            rest = rest[:-1]
        first = False
        rest, *lines = rest.split(b"\n")
        yield from reversed(lines)
    if position == 0 and not first:
        yield rest


class Tail:
    """What is added to a log from `position` on, across the moments when it is put aside and begun anew.

    Args:
        position: bytes of the file that are known; None for all that are there.
    """

    def __init__(self, path: Path, process: str, position: int | None = None) -> None:
        self._path = path
        self._process = process
        self._file = path.open("rb")
        self.position = self._file.seek(0, os.SEEK_END) if position is None else self._file.seek(position)
        self._begun = b""

    def read(self, limit: int) -> list[Entry]:
        """Entries that are there and were not at the last call; of at most about `limit` bytes.

        Lines without a head that come later than what they belong to are entries of their own.
        """
        data = self._begun + self._file.read(limit)
        if len(data) - len(self._begun) < limit and self._was_replaced():
            data += self._file.read()  # what came in between
            self._file.close()
            self._file = self._path.open("rb")
        *lines, self._begun = data.split(b"\n")
        if len(self._begun) > _LONGEST_MESSAGE:
            lines.append(self._begun)
            self._begun = b""
        entries: list[Entry] = []
        for line in lines:
            entry = entry_of(line, self._process)
            if entry is not None:
                entries.append(entry)
            elif entries:
                _with(entries[-1], [line])
            else:
                entries.append(Entry(time.time(), "", self._process, line.decode(errors="replace")))
        return entries

    def _was_replaced(self) -> bool:
        own = os.fstat(self._file.fileno())
        try:
            now = os.stat(self._path)
        except OSError:
            return False  # the next one is not there yet, or none will be
        if (now.st_dev, now.st_ino) != (own.st_dev, own.st_ino):
            return True
        return now.st_size < self._file.tell()

    def close(self) -> None:
        self._file.close()

"""The log file of a process: what it is called, how it is kept small, and which files of ended processes may go."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import sys
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from io import TextIOWrapper
from logging import WARNING, LogRecord
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, unquote

SUFFIX = ".log"
KEPT_OF_A_DEPLOYMENT = 10
KEPT_IN_ALL = 200
"""Logs of replicas that have ended, of one deployment and of all."""

_LONGEST_PART = 80
_COMPLAIN_EVERY_S = 60.0


@dataclass(frozen=True, slots=True)
class LoggedProcess:
    """Whose log it is.

    Attributes:
        component: "controller", "proxy", "replica", "policy" or "gate".
        id: tells it from others of its kind: `proxy-0`; of a replica, the last part of its id.
        application, deployment: a replica's.
    """

    component: str
    id: str
    application: str = ""
    deployment: str = ""

    @property
    def label(self) -> str:
        """What its lines begin with."""
        if self.component == "replica":
            return f"{self.application}/{self.deployment}/{self.id}"
        return self.id

    @property
    def stem(self) -> str:
        """Name of its file without an ending. No two processes share one: what separates occurs in no part."""
        parts = (self.application, self.deployment, self.id) if self.component == "replica" else (self.id,)
        return "#".join(quote(shortened(part), safe="") for part in parts)

    @staticmethod
    def of_file(name: str) -> LoggedProcess:
        """The process whose file has this name."""
        parts = [unquote(part) for part in name.removesuffix(SUFFIX).split("#")]
        if len(parts) == 3:
            return LoggedProcess("replica", parts[2], parts[0], parts[1])
        component = "root" if parts[0] == "headrace" else parts[0].partition("/")[0].partition("-")[0]
        return LoggedProcess(component, "root" if component == "root" else parts[0])


def shortened(name: str) -> str:
    """A name as a file's has it: file names have at most 255 bytes."""
    if len(quote(name, safe="")) <= _LONGEST_PART:
        return name
    short = name[:_LONGEST_PART]
    while len(quote(short, safe="")) > _LONGEST_PART - 13:
        short = short[:-1]
    return f"{short}~{hashlib.sha256(name.encode()).hexdigest()[:12]}"


class EndedLog(NamedTuple):
    """The file of a replica that has ended. `deployment` is any key; `written_at`, seconds since the epoch."""

    deployment: str
    name: str
    written_at: float


def superseded(logs: Iterable[EndedLog], keep: int = KEPT_OF_A_DEPLOYMENT, keep_in_all: int = KEPT_IN_ALL) -> list[str]:
    """Names of those that may go: all but the newest `keep` of each deployment, and the newest `keep_in_all` of all."""
    counts: defaultdict[str, int] = defaultdict(int)
    kept, gone = 0, []
    for log in sorted(logs, key=lambda log: log.written_at, reverse=True):
        if counts[log.deployment] < keep and kept < keep_in_all:
            counts[log.deployment] += 1
            kept += 1
        else:
            gone.append(log.name)
    return gone


def remove_superseded(folder: Path) -> None:
    """Remove files of replicas that ended long ago. What cannot be removed stays."""
    with contextlib.suppress(OSError):
        ended = []
        for path in folder.glob(f"*#*{SUFFIX}"):
            with contextlib.suppress(OSError):
                if not is_written(path):
                    ended.append(EndedLog(path.name.rpartition("#")[0], path.name, path.stat().st_mtime))
        for name in superseded(ended):
            # Of a link, the link alone: its target lies where the user keeps logs.
            for path in (folder / name, *folder.glob(f"{name}.*")):
                path.unlink(missing_ok=True)


def is_written(path: Path) -> bool:
    """Whether a process writes to this file: it holds a lock, which the system lets go of when it ends."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # locked; or on a file system without locks, where nobody can tell
        return True
    finally:
        os.close(descriptor)
    return False


class RotatingLogFile(RotatingFileHandler):
    """
    Args:
        path: the file. Full, it becomes `<path>.1`, that `<path>.2`, and so on.
        max_bytes: when it is full; 0 for never.
        backups: how many full ones are kept.
        takes_output: what native code and child processes write to the standard streams goes there too.
        delay: do not make the file before there is a line for it.
        private: nobody else may read it, whatever the process's mask says.

    Raises:
        OSError: the file cannot be made.
    """

    def __init__(
        self,
        path: Path,
        max_bytes: int,
        backups: int,
        *,
        takes_output: bool = False,
        delay: bool = False,
        private: bool = True,
    ) -> None:
        self._mode = 0o600 if private else 0o666
        self._owner = os.getpid()
        self._takes_output = takes_output
        self._complained_at = -_COMPLAIN_EVERY_S
        super().__init__(
            path, maxBytes=max_bytes, backupCount=backups, encoding="utf-8", errors="backslashreplace", delay=delay
        )

    def _open(self) -> TextIOWrapper:
        descriptor = os.open(self.baseFilename, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, self._mode)
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        if self._takes_output:
            os.dup2(descriptor, 1)
            os.dup2(descriptor, 2)
        return os.fdopen(descriptor, "a", encoding=self.encoding, errors=self.errors)

    def shouldRollover(self, record: LogRecord | None) -> bool:
        if self.maxBytes <= 0 or os.getpid() != self._owner:  # a fork of user code's must not rotate its parent's file
            return False
        if self.stream is None:
            self.stream = self._open()
        return os.fstat(self.stream.fileno()).st_size >= self.maxBytes

    def doRollover(self) -> None:
        if self.backupCount > 0:
            super().doRollover()
        else:
            os.truncate(self.baseFilename, 0)

    def write(self, lines: str) -> None:
        """Append whole lines. What cannot be written is lost, and said to be."""
        self.acquire()
        try:
            if self.shouldRollover(None):
                self.doRollover()
            if self.stream is None:
                self.stream = self._open()
            self.stream.write(lines)
            self.stream.flush()
        except Exception:
            self._complain()
        finally:
            self.release()

    def warn(self, message: str) -> None:
        """A line of the log's own."""
        self.handle(LogRecord("headrace.log", WARNING, "", 0, message, None, None))

    def handleError(self, record: LogRecord) -> None:
        self._complain()

    def _complain(self) -> None:
        """A full disk is no reason to fail, or to fill the terminal."""
        now = time.monotonic()
        if now - self._complained_at >= _COMPLAIN_EVERY_S:
            self._complained_at = now
            with contextlib.suppress(OSError):
                os.write(2, f"headrace: cannot write to {self.baseFilename}: {sys.exc_info()[1]!r}\n".encode())

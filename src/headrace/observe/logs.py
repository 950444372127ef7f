"""The log of a process: on standard error, and in a file of its own.

What goes there: the loggers of Headrace; those of user code that no handler of its own takes; and, where user code
runs, what it prints. A logging configuration of user code's is left alone: what it shows on the standard streams
arrives here as what is printed does.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from headrace.exceptions import ConfigError
from headrace.observe.access_lines import call_lines, http_lines
from headrace.observe.access_log import AccessLog, tells_clients
from headrace.observe.log_capture import CapturedStream
from headrace.observe.log_files import SUFFIX, LoggedProcess, RotatingLogFile, remove_superseded
from headrace.observe.log_format import STDERR, STDOUT, CurrentRequest, JsonFormatter, TextFormatter

_LOGGERS = ("headrace", "ray.serve")
"""The second is the one that applications written for Ray Serve log with."""

OUTPUT_FILE = "headrace.log"
"""Where an instance without a terminal writes what belongs to none of its processes."""

MAX_FILE_BYTES = 100_000_000
BACKUP_COUNT = 5

_PYTHONS_LAST_RESORT = logging.lastResort


class _Terminal(logging.StreamHandler[TextIO]):
    def handleError(self, record: logging.LogRecord) -> None:
        pass  # whoever was to read it has gone


class _Everything(logging.Handler):
    """Hands a record on to all handlers of the log."""

    def __init__(self, handlers: list[logging.Handler]) -> None:
        super().__init__()
        self._handlers = handlers

    def handle(self, record: logging.LogRecord) -> bool:
        for handler in self._handlers:
            handler.handle(record)
        return True


class ProcessLog:
    """The log of this process, as `configure_logging` has set it up. `file`: None where there is none."""

    def __init__(
        self,
        process: LoggedProcess,
        config: dict[str, Any],
        folder: Path | None,
        current: CurrentRequest | None,
        capture: bool,
        unwatched: bool,
    ) -> None:
        self.unwatched = unwatched
        self._process = process
        self._config = config
        self._as_json = config.get("encoding") == "JSON"
        self._access: AccessLog | None = None
        attributes = config.get("additional_log_standard_attrs") or []

        def formatter(on_terminal: bool) -> logging.Formatter:
            if self._as_json:
                return JsonFormatter(process, current, attributes)
            return TextFormatter(process, current, attributes, on_terminal)

        self.file = self._open(folder)
        files: list[logging.Handler] = []
        if self.file is not None:
            self.file.setFormatter(formatter(False))
            files.append(self.file)
        terminals = [_Terminal(stream) for stream in (sys.stdout, sys.stderr)]
        for terminal in terminals:
            terminal.setFormatter(formatter(True))
        # Where there is no terminal, a file is all that anybody will read.
        shown = terminals if self.file is None or not unwatched else []
        handlers = [*shown[1:], *files]
        for name in _LOGGERS:
            logger = logging.getLogger(name)
            logger.handlers[:] = handlers
            logger.setLevel(config.get("log_level") or "INFO")
            logger.propagate = False
        logging.lastResort = _Everything(handlers)
        self._captured: list[tuple[str, CapturedStream]] = []
        if capture:
            self._capture(STDOUT, [*shown[:1], *files])
            self._capture(STDERR, handlers)

    def _open(self, folder: Path | None) -> RotatingLogFile | None:
        config, name = self._config, self._process.stem
        chosen = config.get("logs_dir")
        max_bytes = _setting(config, "max_file_bytes", "RAY_ROTATION_MAX_BYTES", MAX_FILE_BYTES)
        backups = _setting(config, "backup_count", "RAY_ROTATION_BACKUP_COUNT", BACKUP_COUNT)

        def opened(path: Path, delay: bool) -> RotatingLogFile:
            return RotatingLogFile(
                path, max_bytes, backups, takes_output=self.unwatched, delay=delay, private=not chosen
            )

        if chosen:
            # Of several instances that log into one folder, each has a controller and proxies of the same names.
            whose = f".{folder.parent.name}" if folder is not None and self._process.component != "replica" else ""
            path = Path(chosen) / f"{name}{whose}{SUFFIX}"
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                file = opened(path, delay=False)
            except OSError as error:
                raise ConfigError(f"logging_config.logs_dir: no log can be written in {chosen}: {error}") from None
            if folder is not None:
                _link(folder / f"{name}{SUFFIX}", path)
            return file
        if folder is None:
            return None
        if self._process.component == "replica":
            remove_superseded(folder)
        try:
            # Without lines there is no file, except where it must take what breaks.
            return opened(folder / f"{name}{SUFFIX}", delay=not self.unwatched)
        except OSError as error:
            print(f"headrace: {self._process.label} has no log file: {error}", file=sys.stderr)
            return None

    def _capture(self, name: str, handlers: list[logging.Handler]) -> None:
        def show(line: str) -> None:
            record = logging.LogRecord(name, logging.INFO, "", 0, line, None, None)
            for handler in handlers:
                handler.handle(record)

        captured = CapturedStream(getattr(sys, name), show)
        setattr(sys, name, captured)
        self._captured.append((name, captured))

    def access(self, method_of: Callable[[bytes], str] | None = None) -> AccessLog | None:
        """The access log; None where none is wanted.

        Args:
            method_of: finds the name of the method in a call's header; None for a log of HTTP requests.
        """
        wanted = self._config.get("enable_access_log", True)
        level = logging.getLevelNamesMapping().get(self._config.get("log_level") or "INFO", logging.INFO)
        if self.file is None or not wanted or level > logging.INFO:
            return None
        if self._access is None:
            if method_of is None:
                lines = http_lines(self._process, self._as_json, tells_clients())
            else:
                lines = call_lines(self._process, self._as_json, method_of)
            self._access = AccessLog(self.file, lines)
        return self._access

    def close(self) -> None:
        """Write what is not written yet, and leave the streams as they were found. Whatever comes later goes there."""
        for name, captured in self._captured:
            captured.finish()
            if getattr(sys, name) is captured:
                setattr(sys, name, captured.original)
        self._captured.clear()
        if self._access is not None:
            self._access.flush()
        for name in _LOGGERS:
            logging.getLogger(name).handlers.clear()
        logging.lastResort = _PYTHONS_LAST_RESORT
        if self.file is not None:
            self.file.close()


_current: ProcessLog | None = None


def configure_logging(
    process: LoggedProcess,
    config: dict[str, Any] | None,
    folder: Path | None = None,
    *,
    current: CurrentRequest | None = None,
    capture: bool = False,
) -> ProcessLog:
    """Send what this process has to say to standard error, and to a file. Called again, it takes the place of before.

    Args:
        process: whose log it is.
        config: a dumped `LoggingConfig`; None for its defaults.
        folder: where the instance's log files lie, unless `config` names another; None for no file.
        current: the request that the running task or thread works on.
        capture: what is printed is part of the log.

    Raises:
        ConfigError: there can be no file in the `logs_dir` of `config`.
    """
    global _current
    before = _current
    unwatched = before.unwatched if before is not None else _is_unwatched(folder)
    if before is not None:
        before.close()
        _remove_empty(before)
    _current = ProcessLog(process, config or {}, folder, current, capture, unwatched)
    return _current


def end_logging() -> None:
    """Write what is not written yet, when the process is about to end."""
    global _current
    if _current is not None:
        _current.close()
        _current = None


def _is_unwatched(folder: Path | None) -> bool:
    """Whether standard error is the file of an instance that has no terminal."""
    if folder is None:
        return False
    try:
        return os.path.samestat(os.fstat(2), os.stat(folder / OUTPUT_FILE))
    except OSError:
        return False


def _remove_empty(log: ProcessLog) -> None:
    """One that was opened before the deployment's own config was known."""
    if log.file is not None:
        with contextlib.suppress(OSError):
            path = Path(log.file.baseFilename)
            if path.stat().st_size == 0:
                path.unlink()


def _link(link: Path, target: Path) -> None:
    """Where the instance looks for logs, tell of one that lies elsewhere."""
    with contextlib.suppress(OSError):
        link.unlink(missing_ok=True)
        link.symlink_to(target.absolute())


def _setting(config: dict[str, Any], name: str, variable: str, default: int) -> int:
    """What the config says, or the variable of Ray's."""
    value = config.get(name)
    if value is None:
        try:
            value = int(os.environ.get(variable, default))
        except ValueError:
            value = default
    return max(0, int(value))

"""Log lines of Headrace's own processes: text for people or JSON for machines, on standard error and in files."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import msgspec

_TEXT = "%(asctime)s %(levelname)-7s %(process_label)s: %(message)s"
_TIME = "%H:%M:%S"

_LOGGERS = ("headrace", "ray.serve")
"""The second is the one that applications written for Ray Serve log with."""


class _Labelled(logging.Filter):
    def __init__(self, label: str) -> None:
        super().__init__()
        self._label = label

    def filter(self, record: logging.LogRecord) -> bool:
        record.process_label = self._label
        return True


class _JsonFormatter(logging.Formatter):
    def __init__(self, attributes: list[str]) -> None:
        super().__init__()
        self._attributes = attributes

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S"),
            "level": record.levelname,
            "process": getattr(record, "process_label", ""),
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        for name in self._attributes:
            line[name] = getattr(record, name, None)
        return msgspec.json.encode(line, enc_hook=str).decode()


def configure_logging(label: str, config: dict[str, Any] | None) -> None:
    """Send what the loggers of Headrace say to standard error, and to a file where a folder for it is given.

    Args:
        label: names the process in each line, such as `proxy-0` or `app/deployment/replica`.
        config: a dumped `LoggingConfig`; None for its defaults.

    Raises:
        OSError: there can be no file in `logs_dir`.
    """
    config = config or {}
    attributes = config.get("additional_log_standard_attrs") or []
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if config.get("logs_dir"):
        folder = Path(config["logs_dir"])
        folder.mkdir(parents=True, exist_ok=True)
        handlers.append(logging.FileHandler(folder / f"{label.replace('/', '_')}.log"))
    for handler in handlers:
        handler.addFilter(_Labelled(label))
        handler.setFormatter(_formatter(config.get("encoding"), attributes))
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers[:] = handlers
        logger.setLevel(config.get("log_level") or "INFO")
        logger.propagate = False


def _formatter(encoding: Any, attributes: list[str]) -> logging.Formatter:
    if encoding == "JSON":
        return _JsonFormatter(attributes)
    return logging.Formatter(" ".join([_TEXT, *(f"{name}=%({name})s" for name in attributes)]), _TIME)

"""Log lines of Headrace's own processes: text for people or JSON for machines, on standard error."""

from __future__ import annotations

import logging
import sys
from typing import Any

import msgspec

_TEXT = "%(asctime)s %(levelname)-7s %(process_label)s: %(message)s"
_TIME = "%H:%M:%S"


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
    """Send what the `headrace` loggers say to standard error.

    Args:
        label: names the process in each line, such as `proxy-0` or `app/deployment/replica`.
        config: a dumped `LoggingConfig`; None for its defaults.
    """
    config = config or {}
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_Labelled(label))
    if config.get("encoding") == "JSON":
        handler.setFormatter(_JsonFormatter(config.get("additional_log_standard_attrs") or []))
    else:
        handler.setFormatter(logging.Formatter(_TEXT, _TIME))
    logger = logging.getLogger("headrace")
    logger.handlers[:] = [handler]
    logger.setLevel(config.get("log_level") or "INFO")
    logger.propagate = False

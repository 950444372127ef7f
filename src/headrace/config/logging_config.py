"""How logs are written."""

from __future__ import annotations

import logging
from enum import StrEnum
from typing import Any, ClassVar

from pydantic import Field, field_validator

from headrace.config.model import ConfigModel, Flag, NonNegativeInt
from headrace.config.problems import nearest, shown, wrong_choice

_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
_RECORD_ATTRIBUTES = frozenset(vars(logging.makeLogRecord({}))) | {"asctime", "message", "taskName"}


class EncodingType(StrEnum):
    """Form of a log line."""

    TEXT = "TEXT"
    JSON = "JSON"


class LoggingConfig(ConfigModel):
    """How logs are written, of an instance, an application or one deployment.

    Attributes:
        encoding: `TEXT` for people, `JSON` for machines.
        log_level: `DEBUG`, `INFO`, `WARNING`, `ERROR` or `CRITICAL`, or the number that `logging` has for one of them.
        logs_dir: folder for the log files; None for the session's own, which is removed with the instance.
        enable_access_log: whether each request is logged, in the files: the proxies' and the replicas'.
        additional_log_standard_attrs: attributes of `logging.LogRecord` that every line carries as well.
        max_file_bytes: a log file of that size is put aside and another begun, 0 for never; None for what
            `RAY_ROTATION_MAX_BYTES` says, or 100 MB.
        backup_count: how many that were put aside are kept; None for what `RAY_ROTATION_BACKUP_COUNT` says, or 5.
    """

    title: ClassVar[str] = "wrong logging_config"

    encoding: EncodingType = EncodingType.TEXT
    log_level: str = "INFO"
    logs_dir: str | None = None
    enable_access_log: Flag = True
    additional_log_standard_attrs: list[str] = Field(default_factory=list)
    max_file_bytes: NonNegativeInt | None = None
    backup_count: NonNegativeInt | None = None

    @field_validator("encoding", mode="before")
    @classmethod
    def _known_encoding(cls, encoding: Any) -> Any:
        choices = [choice.value for choice in EncodingType]
        if not isinstance(encoding, str) or encoding.upper() not in choices:
            raise ValueError(wrong_choice(encoding, choices))
        return encoding.upper()

    @field_validator("log_level", mode="before")
    @classmethod
    def _known_level(cls, level: Any) -> Any:
        name = logging.getLevelName(level) if isinstance(level, int) and not isinstance(level, bool) else level
        name = {"WARN": "WARNING", "FATAL": "CRITICAL"}.get(str(name).upper(), str(name).upper())
        if name not in _LEVELS:
            raise ValueError(wrong_choice(level, _LEVELS))
        return name

    @field_validator("additional_log_standard_attrs")
    @classmethod
    def _attributes_of_a_record(cls, names: list[str]) -> list[str]:
        for name in names:
            if name not in _RECORD_ATTRIBUTES:
                meant = nearest(name, _RECORD_ATTRIBUTES)
                hint = f"; did you mean '{meant}'?" if meant else ""
                raise ValueError(f"{shown(name)} is not an attribute of logging.LogRecord{hint}")
        return list(dict.fromkeys(names))

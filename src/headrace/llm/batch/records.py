"""Files and batches as OpenAI's API shows them.

https://platform.openai.com/docs/api-reference/files/object and …/batch/object
"""

from __future__ import annotations

from typing import Literal

import msgspec

BatchState = Literal[
    "validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"
]
ENDED: frozenset[BatchState] = frozenset(("failed", "completed", "expired", "cancelled"))
"""A batch in one of these does not change any more."""


class FileRecord(msgspec.Struct, kw_only=True):
    """A file. Times are seconds since 1970."""

    id: str
    bytes: int
    created_at: int
    filename: str
    purpose: str
    object: str = "file"
    status: str = "processed"


class RequestCounts(msgspec.Struct):
    """How far a batch is."""

    total: int = 0
    completed: int = 0
    failed: int = 0


class LineProblem(msgspec.Struct):
    """What is wrong with a line of an input file."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


class LineProblems(msgspec.Struct):
    """A list in OpenAI's shape."""

    data: list[LineProblem]
    object: str = "list"


class BatchRecord(msgspec.Struct, kw_only=True):
    """A batch. Times are seconds since 1970, None for what has not happened."""

    id: str
    endpoint: str
    input_file_id: str
    completion_window: str
    created_at: int
    expires_at: int
    status: BatchState = "validating"
    object: str = "batch"
    errors: LineProblems | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    in_progress_at: int | None = None
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    request_counts: RequestCounts = msgspec.field(default_factory=RequestCounts)
    metadata: dict[str, str] | None = None

"""A batch's output on disk, which a batch that was broken off goes on with."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO, Self

from headrace.llm.batch.lines import BatchRequest, BatchResponse, format_response, kept_answer


class OutputFile:
    """Appends answers to a file, one line each, and knows those that a run before this one has left there.

    Lines without an answer, or with one that says "later", are taken out when it is opened: they are asked for again.

    Args:
        path: created if it is not there.

    Attributes:
        answered: the status by `custom_id` of requests that need not be asked for.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.answered: dict[str, int] = {}
        self._file: BinaryIO

    def __enter__(self) -> Self:
        if self.path.exists():
            self._keep_answers()
        self._file = self.path.open("ab", buffering=0)
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def append(self, request: BatchRequest, response: BatchResponse) -> None:
        """Write what became of a request; it is there even if this process is killed right afterwards."""
        self._file.write(format_response(request, response))
        if response.error is None:
            self.answered[request.custom_id] = response.status_code

    def _keep_answers(self) -> None:
        rewritten = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        dropped = False
        with self.path.open("rb") as old, rewritten.open("wb") as new:
            for line in old:
                kept = kept_answer(line)
                if kept is None or kept[0] in self.answered:
                    dropped = True
                else:
                    self.answered[kept[0]] = kept[1]
                    new.write(line)
        if dropped:
            rewritten.replace(self.path)
        else:
            rewritten.unlink()

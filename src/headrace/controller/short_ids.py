"""Short ids: the last part of the names of processes, which their sockets are named after."""

from __future__ import annotations

import random
import string

_LETTERS = string.ascii_lowercase + string.digits
_LENGTH = 5


class ShortIds:
    """Gives out ids that no process of the instance has, on whatever machine it runs.

    Args:
        source: where chance comes from.
    """

    def __init__(self, source: random.Random | None = None) -> None:
        self._source = source if source is not None else random.SystemRandom()
        self._taken: set[str] = set()

    def new(self) -> str:
        """Five letters and digits. They stay taken until a process named after them has ended."""
        while True:
            short_id = "".join(self._source.choices(_LETTERS, k=_LENGTH))
            if short_id not in self._taken:
                self._taken.add(short_id)
                return short_id

    def note(self, process: str) -> None:
        """There is a process of this name, which an earlier controller has started."""
        self._taken.add(process.rpartition("#")[2])

    def free(self, process: str) -> None:
        """The process of this name has ended. Does nothing for a name without a short id."""
        self._taken.discard(process.rpartition("#")[2])

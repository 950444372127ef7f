"""Which processes that report load are connected."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Callers:
    """A process is there while it watches anything: a lost connection ends its watches.

    Args:
        gone: called with the name of one that watches no more.
    """

    def __init__(self, gone: Callable[[str], None]) -> None:
        self._gone = gone
        self._watches: Counter[str] = Counter()

    @contextmanager
    def watching(self, caller: str) -> Iterator[None]:
        """Wrapped around each watch of the process. A process that has no name reports nothing."""
        self._watches[caller] += 1
        try:
            yield
        finally:
            self._watches[caller] -= 1
            if not self._watches[caller]:
                del self._watches[caller]
                if caller:
                    self._gone(caller)

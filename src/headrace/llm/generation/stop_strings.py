"""Stop strings across the borders of tokens."""

from __future__ import annotations


class StopStringScanner:
    """Passes text on until a stop string is complete, and never a part of one.

    What may be the beginning of a stop string is held back until more text tells. The stop string that is complete
    first ends the text; of several that end at the same character, the longest. So the result does not depend on how
    the text was cut.

    Attributes:
        matched: the stop string that ended the text; None so far.
        rest: what came after it.
    """

    def __init__(self, stops: tuple[str, ...], *, include: bool = False) -> None:
        """
        Args:
            stops: none of them empty.
            include: pass the stop string itself on too.
        """
        self.matched: str | None = None
        self.rest = ""
        self._stops = stops
        self._first_characters = frozenset(stop[0] for stop in stops)
        self._include = include
        self._held = ""

    def push(self, text: str) -> str:
        """What of the text so far is certain to be passed on, and has not been. "" after a match."""
        if self.matched is not None:
            return ""
        if not self._held and self._first_characters.isdisjoint(text):
            return text
        text = self._held + text
        found = _first_complete(text, self._stops)
        if found is not None:
            start, self.matched = found
            self._held = ""
            self.rest = text[start + len(self.matched) :]
            return text[: start + len(self.matched)] if self._include else text[:start]
        held = _possible_beginning(text, self._stops)
        cut = len(text) - held
        self._held = text[cut:]
        return text[:cut]

    def flush(self) -> str:
        """The text has ended: what was held back is no stop string."""
        held, self._held = self._held, ""
        return held


def _first_complete(text: str, stops: tuple[str, ...]) -> tuple[int, str] | None:
    """Where the stop string begins that is complete first, and which it is."""
    best: tuple[int, int, str] | None = None
    for stop in stops:
        start = text.find(stop)
        if start >= 0:
            candidate = (start + len(stop), start, stop)
            if best is None or candidate < best:
                best = candidate
    return None if best is None else (best[1], best[2])


def _possible_beginning(text: str, stops: tuple[str, ...]) -> int:
    """Length of the longest end of the text that a stop string begins with."""
    longest = 0
    for stop in stops:
        for length in range(min(len(stop) - 1, len(text)), longest, -1):
            if text.endswith(stop[:length]):
                longest = length
                break
    return longest

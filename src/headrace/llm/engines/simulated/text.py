"""The simulated engine's tokens and text: every four bytes are a token, every token of an answer is a short word."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

BYTES_PER_TOKEN = 4

_WORDS = (  # noqa: SIM905
    "air arc ash bay bee big box bud cap cat cow cup dam day dew dog "
    "ear eel egg elm eve fan far fen fig fin fir fog fox fur gem hat "
    "hay hen hop ice ink ivy jar jay joy keg key kit lap leg lid log "
    "map mud net nut oak oar oat owl pea pen pie pin pot ray red rye"
).split()

PERIOD = len(_WORDS)

# A step that has no divisor in common with the number of words visits all of them.
_ORDERS = [
    tuple(f"{_WORDS[(position * step) % PERIOD]} " for position in range(PERIOD)) * 2 for step in range(1, PERIOD, 2)
]


def token_ids(text: str) -> list[int]:
    """The tokens of a text. A leading one in each keeps short pieces and zero bytes apart."""
    data = text.encode()
    pieces = (data[at : at + BYTES_PER_TOKEN] for at in range(0, len(data), BYTES_PER_TOKEN))
    return [int.from_bytes(b"\x01" + piece, "big") for piece in pieces]


def text_of(ids: Sequence[int]) -> str:
    """The text of tokens.

    Raises:
        ValueError: a number that is no token.
    """
    data = bytearray()
    for token in ids:
        piece = token.to_bytes(max(1, (token.bit_length() + 7) // 8), "big") if token > 0 else b""
        if not piece.startswith(b"\x01") or len(piece) > 1 + BYTES_PER_TOKEN:
            raise ValueError(f"{token} is no token")
        data += piece[1:]
    return data.decode(errors="replace")


def count_tokens(text: str) -> int:
    """How many tokens a text has."""
    return -(-len(text.encode()) // BYTES_PER_TOKEN)


class Answer:
    """The text of an answer, all of which follows from the prompt, the seed and the choice's index.

    Args:
        prompt: of the request.
        seed: of the request; None for 0.
        index: of the choice.
        length: tokens, unless a stop string ends it earlier.
        stops: strings that end it; they are no part of it.

    Attributes:
        length: number of tokens that are generated.
        stopped: a stop string has ended it.
    """

    def __init__(self, prompt: str, seed: int | None, index: int, length: int, stops: Sequence[str]) -> None:
        digest = hashlib.blake2b(f"{seed or 0}\0{index}\0{prompt}".encode(), digest_size=8).digest()
        self._words = _ORDERS[digest[0] % len(_ORDERS)]
        self._start = digest[1] % PERIOD
        self.length = length
        self.stopped = False
        self._cut: str | None = None
        if stops:
            self._stop_at(stops)

    def _stop_at(self, stops: Sequence[str]) -> None:
        text = "".join(self._tokens(0, self.length))
        found = [(at, stop) for stop in stops if (at := text.find(stop)) >= 0]
        if found:
            at, stop = min(found)
            self.stopped = True
            self._cut = text[:at]
            # A word and its space are ASCII: as many characters as bytes.
            self.length = -(-(at + len(stop)) // BYTES_PER_TOKEN)

    def tokens(self, begin: int, end: int) -> Sequence[str]:
        """The text of each token from `begin` to before `end`."""
        if self._cut is None:
            return self._tokens(begin, end)
        cut = self._cut[begin * BYTES_PER_TOKEN : end * BYTES_PER_TOKEN]
        return [cut[at : at + BYTES_PER_TOKEN] for at in range(0, len(cut), BYTES_PER_TOKEN)]

    def _tokens(self, begin: int, end: int) -> Sequence[str]:
        first = (self._start + begin) % PERIOD
        count = end - begin
        if first + count <= 2 * PERIOD:
            return self._words[first : first + count]
        once = self._words[first : first + PERIOD]
        return (once * (count // PERIOD + 1))[:count]

    def text(self) -> str:
        """All of it."""
        return "".join(self.tokens(0, self.length))

"""The beginning of a prompt, as far as it says which replica may have it in its KV cache."""

from __future__ import annotations

MAX_PREFIX_BYTES = 64 * 1024
"""So much of a prompt is looked at: prompts that agree so far go to the same replica, wherever they part."""


class PromptPrefix:
    """A prompt's beginning, and hashes of its blocks, each of which tells all blocks up to it.

    The bytes are the request's own JSON: the same conversation, one turn later, begins with the same bytes.

    Args:
        text: the JSON of `messages`, `prompt` or `input`.
        seed: what makes the same text another prompt: the adapter.
    """

    __slots__ = ("_block_bytes", "_chain", "seed", "text")

    def __init__(self, text: bytes, seed: str = "") -> None:
        self.text = text
        self.seed = seed
        self._block_bytes = 0
        self._chain: tuple[int, ...] = ()

    def chain(self, block_bytes: int) -> tuple[int, ...]:
        """The hashes, first block first. A last block that is not full has none. Computed once.

        Args:
            block_bytes: length of a block.
        """
        if block_bytes != self._block_bytes:
            self._block_bytes = block_bytes
            text = self.text
            end = min(len(text), MAX_PREFIX_BYTES) - block_bytes + 1
            # Python's own hash is keyed, differently in each process, so that no client can make collisions.
            last = hash(self.seed)
            chain = []
            for start in range(0, end, block_bytes):
                last = hash((last, text[start : start + block_bytes]))
                chain.append(last)
            self._chain = tuple(chain)
        return self._chain

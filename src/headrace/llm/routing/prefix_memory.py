"""Which prefixes a replica has been sent, as far as is remembered."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence


class PrefixMemory:
    """The prefixes of one replica: hashes of blocks, of which each tells all blocks before it.

    Where there is no room left, the block that was used longest ago is forgotten. A block is never forgotten before one
    that continues it, as an engine's own cache does it, so that what is known of a prompt is always a beginning of it.

    Args:
        max_blocks: how many are remembered, at least 1.
    """

    __slots__ = ("_blocks", "_max_blocks")

    def __init__(self, max_blocks: int) -> None:
        self._blocks: OrderedDict[int, None] = OrderedDict()
        self._max_blocks = max_blocks

    def __len__(self) -> int:
        return len(self._blocks)

    def matched(self, chain: Sequence[int]) -> int:
        """How many blocks of a prompt, from its first on, are known.

        Args:
            chain: the hashes of the prompt's blocks, see `PromptPrefix.chain`.
        """
        blocks = self._blocks
        low, high = 0, len(chain)  # chain[:low] is known, chain[high:] is not
        while low < high:
            middle = (low + high) // 2
            if chain[middle] in blocks:
                low = middle + 1
            else:
                high = middle
        return low

    def remember(self, chain: Sequence[int]) -> None:
        """The replica gets a prompt of these blocks."""
        blocks = self._blocks
        # The first block last: it is to be forgotten after all that continue it.
        for block in reversed(chain[: self._max_blocks]):
            blocks[block] = None
            blocks.move_to_end(block)
        while len(blocks) > self._max_blocks:
            blocks.popitem(last=False)

"""What the front of the API tells a routing policy about a request."""

from __future__ import annotations

MAX_PREFIX_BYTES = 64 * 1024
"""So much of a prompt is looked at: prompts that agree so far go to the same replica, wherever they part."""


class RoutingHint:
    """A request's prompt, with hashes of its blocks, and its session.

    The prompt is the request's own JSON: the same conversation, one turn later, begins with the same bytes.

    Args:
        prompt: the JSON of `messages`, `prompt` or `input`, at most the first `MAX_PREFIX_BYTES` of it.
        adapter_id: of the LoRA adapter that is asked for, which makes the same text another prompt; "" for none.
        session: what the body says of the session (`prompt_cache_key` or `user`); "" for nothing.
    """

    __slots__ = ("_block_bytes", "_chain", "adapter_id", "prompt", "session")

    def __init__(self, prompt: bytes, adapter_id: str = "", session: str = "") -> None:
        self.prompt = prompt
        self.adapter_id = adapter_id
        self.session = session
        self._block_bytes = 0
        self._chain: tuple[int, ...] = ()

    def chain(self, block_bytes: int) -> tuple[int, ...]:
        """Hashes of the prompt's blocks, first block first; each tells all blocks up to its own. A last block that is
        not full has none. Computed once.

        Args:
            block_bytes: length of a block.
        """
        if block_bytes != self._block_bytes:
            self._block_bytes = block_bytes
            prompt = self.prompt
            end = len(prompt) - block_bytes + 1
            # Python's own hash is keyed, differently in each process, so that no client can make collisions.
            last = hash(self.adapter_id)
            chain = []
            for start in range(0, end, block_bytes):
                last = hash((last, prompt[start : start + block_bytes]))
                chain.append(last)
            self._chain = tuple(chain)
        return self._chain

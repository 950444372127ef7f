"""Requests whose prompts begin alike go to the replica that has that beginning in its KV cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from headrace import RoutingPolicy
from headrace.exceptions import ConfigError
from headrace.llm.routing.eligible import DEFAULT_IMBALANCE, checked_imbalance, eligible
from headrace.llm.routing.prefix_memory import PrefixMemory
from headrace.llm.routing.routing_hint import MAX_PREFIX_BYTES, RoutingHint

_BOUNDLESS = 1e9


class PrefixAffinity(RoutingPolicy):
    """The replica that was sent the longest beginning of the prompt before, as long as that does not unbalance load.

    A prompt of which a replica knows the share `m` may go there although it has up to `imbalanced_threshold * m` more
    requests than another: a long conversation waits a little for its own replica, a new one that shares no more than
    its system prompt with others does not. So no request ever goes to a replica whose load exceeds the least loaded
    one's by more than `imbalanced_threshold`. Where two replicas are as good, the one that has been sent fewer prefixes
    gets the prompt. Requests for a LoRA adapter go to the replicas that have it loaded, where there are any with room.

    It goes by what this process has sent, not by what the engines' caches hold, and asks nobody: several callers have
    memories of their own. Handles give it the prompt as `routing_hint`, a `RoutingHint`; requests without one go to
    the least loaded replica.

    The idea is that of SGLang's router (L. Zheng et al., "SGLang: Efficient Execution of Structured Language Model
    Programs", NeurIPS 2024) and of Ray Serve's `PrefixCacheAffinityRouter`, whose parameters it takes.

    Args:
        imbalanced_threshold: requests that a replica may have more than another if it knows all of a prompt. Default 8.
        match_rate_threshold: share of the prompt, 0 to 1, below which a match does not count. Default 0.1.
        block_chars: bytes of the prompt's JSON that are compared as one. Default 256, some 64 tokens.
        eviction_threshold_chars: bytes of prompts that are remembered of each replica; the oldest are forgotten.
            Default 4,000,000, some million tokens, for which up to 2 MB are used.
        do_eviction, eviction_target_chars, eviction_interval_secs: taken for compatibility and not needed: what is too
            much is forgotten at once.

    Raises:
        ConfigError: a value is out of its range.
    """

    def __init__(
        self,
        imbalanced_threshold: float = DEFAULT_IMBALANCE,
        match_rate_threshold: float = 0.1,
        block_chars: int = 256,
        eviction_threshold_chars: int = 4_000_000,
        do_eviction: bool = True,
        eviction_target_chars: int | None = None,
        eviction_interval_secs: float | None = None,
    ) -> None:
        if not 0 <= match_rate_threshold <= 1:
            raise ConfigError(f"match_rate_threshold must be between 0 and 1, not {match_rate_threshold}")
        if not 16 <= block_chars <= MAX_PREFIX_BYTES:
            raise ConfigError(f"block_chars must be between 16 and {MAX_PREFIX_BYTES}, not {block_chars}")
        if eviction_threshold_chars < block_chars:
            raise ConfigError(
                f"eviction_threshold_chars must be at least block_chars ({block_chars}), not {eviction_threshold_chars}"
            )
        # Of an infinite threshold a share of nothing would be no number.
        self._imbalanced_threshold = min(checked_imbalance(imbalanced_threshold), _BOUNDLESS)
        self._match_rate_threshold = match_rate_threshold
        self._block_bytes = block_chars
        self._max_blocks = eviction_threshold_chars // block_chars
        self._memories: dict[str, PrefixMemory] = {}

    def choose(self, request: Any, replicas: Sequence[Any]) -> Any | None:
        """See the class."""
        candidates = eligible(request, replicas, self._imbalanced_threshold)
        if not candidates:
            return None
        hint = request.routing_hint
        chain = hint.chain(self._block_bytes) if isinstance(hint, RoutingHint) else ()
        memories = self._memories
        best, best_cost = None, (0.0, 0)
        for replica in candidates:
            memory = memories.get(replica.replica_id)
            cost = (replica.load, 0) if memory is None else (replica.load - self._worth(memory, chain), len(memory))
            if best is None or cost < best_cost:
                best, best_cost = replica, cost
        if chain and best is not None:
            self._memory(best.replica_id).remember(chain)
        return best

    def _worth(self, memory: PrefixMemory, chain: Sequence[int]) -> float:
        """How many requests more a replica may have that knows this much of a prompt."""
        rate = memory.matched(chain) / len(chain) if chain else 0.0
        return rate * self._imbalanced_threshold if rate >= self._match_rate_threshold else 0.0

    def _memory(self, replica_id: str) -> PrefixMemory:
        memory = self._memories.get(replica_id)
        if memory is None:
            memory = self._memories[replica_id] = PrefixMemory(self._max_blocks)
        return memory

    def replicas_changed(self, replica_ids: Sequence[str]) -> None:
        """Forget what replicas had that have left."""
        for replica_id in self._memories.keys() - set(replica_ids):
            del self._memories[replica_id]

"""Requests of one session go to one replica, as long as that does not unbalance load."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from headrace import RoutingPolicy
from headrace.llm.routing.eligible import DEFAULT_IMBALANCE, checked_imbalance, eligible
from headrace.llm.routing.routing_hint import RoutingHint


class SessionAffinity(RoutingPolicy):
    """The replica that a session's name falls to, or the next one where its load exceeds the least loaded one's.

    A session's name is the header `x-session-id`, else the request's `prompt_cache_key`, else its `user`. Nothing is
    remembered, so all callers agree, and only the sessions of replicas that come or leave move: rendezvous hashing
    (D. Thaler, C. Ravishankar, "Using name-based mappings to increase hit rates", 1998) with bounded loads (V. Mirrokni
    et al., "Consistent Hashing with Bounded Loads", 2018). Requests without a name go to the least loaded replica.
    Requests for a LoRA adapter go to the replicas that have it loaded, where there are any with room.

    Args:
        imbalanced_threshold: requests by which the chosen replica's load may exceed the least loaded one's. Default 8.

    Raises:
        ConfigError: `imbalanced_threshold` is negative.
    """

    def __init__(self, imbalanced_threshold: float = DEFAULT_IMBALANCE) -> None:
        self._imbalanced_threshold = checked_imbalance(imbalanced_threshold)

    def choose(self, request: Any, replicas: Sequence[Any]) -> Any | None:
        """See the class."""
        candidates = eligible(request, replicas, self._imbalanced_threshold)
        if not candidates:
            return None
        hint = request.routing_hint
        session = request.session_id or (hint.session if isinstance(hint, RoutingHint) else "")
        if not session:
            return min(candidates, key=_load)
        name = session.encode()
        return max(candidates, key=lambda replica: _weight(name, replica.replica_id.encode()))


def _load(replica: Any) -> int:
    load: int = replica.load
    return load


def _weight(session: bytes, replica_id: bytes) -> bytes:
    return hashlib.blake2b(session + b"\0" + replica_id, digest_size=8).digest()

"""Which replicas a request may go to without unbalancing load."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from headrace.exceptions import ConfigError

DEFAULT_IMBALANCE = 8.0


def checked_imbalance(imbalanced_threshold: float) -> float:
    """
    Raises:
        ConfigError: it is negative, or no number.
    """
    if not isinstance(imbalanced_threshold, int | float) or not imbalanced_threshold >= 0:
        raise ConfigError(f"imbalanced_threshold must be a number of requests from 0 on, not {imbalanced_threshold!r}")
    return imbalanced_threshold


def eligible(request: Any, replicas: Sequence[Any], imbalanced_threshold: float) -> list[Any]:
    """The replicas that have room and whose load exceeds the least loaded one's by no more than the threshold: of them
    those that hold the request's LoRA adapter, where there are any."""
    free = [replica for replica in replicas if replica.free]
    if not free:
        return free
    most = min([replica.load for replica in free]) + imbalanced_threshold
    balanced = [replica for replica in free if replica.load <= most]
    adapter_id = request.multiplexed_model_id
    if not adapter_id:
        return balanced
    return [replica for replica in balanced if adapter_id in replica.model_ids] or balanced

"""Which tokens may look at which, for the rows of a batch of requests of different lengths.

Every row's keys begin at position 0, so a query at position p sees keys 0 to p (or, with a sliding window, the last of
those), whatever other rows hold.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import torch

Masks: TypeAlias = torch.Tensor | dict[str, torch.Tensor] | None


@dataclass(frozen=True, slots=True)
class AttentionKinds:
    """What a model's layers look at.

    Attributes:
        windows: by kind of layer, the number of last tokens that it sees; None: all.
        by_kind: the model takes one mask for each kind.
        additive: masks are numbers to add to scores, not truth values.
    """

    windows: dict[str, int | None]
    by_kind: bool
    additive: bool

    def masks(self, positions: torch.Tensor, length: int, dtype: torch.dtype) -> Masks:
        """
        Args:
            positions: of the queries, (rows, queries).
            length: keys of each row.
            dtype: of additive masks.

        Returns:
            Masks of (rows, 1, queries, length).
        """
        keys = torch.arange(length, device=positions.device)
        masks = {kind: self._mask(positions, keys, window, dtype) for kind, window in self.windows.items()}
        return masks if self.by_kind else next(iter(masks.values()))

    def _mask(
        self, positions: torch.Tensor, keys: torch.Tensor, window: int | None, dtype: torch.dtype
    ) -> torch.Tensor:
        distance = positions[:, None, :, None] - keys
        seen = distance >= 0
        if window is not None:
            seen &= distance < window
        if not self.additive:
            return seen
        return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, torch.finfo(dtype).min)


def attention_kinds(config: Any) -> AttentionKinds | None:
    """From a model's config; None where layers are of kinds that keep no keys and values."""
    kinds = set(getattr(config, "layer_types", None) or ())
    window = getattr(config, "sliding_window", None)
    additive = getattr(config, "_attn_implementation", "sdpa") != "sdpa"
    if not kinds:
        if getattr(config, "use_sliding_window", True) is False:
            window = None
        return AttentionKinds({"full_attention": window}, by_kind=False, additive=additive)
    if not kinds <= {"full_attention", "sliding_attention"}:
        return None
    windows = {kind: window if kind == "sliding_attention" else None for kind in sorted(kinds)}
    return AttentionKinds(windows, by_kind=len(kinds) > 1, additive=additive)

"""The KV cache of a running batch: one row for each request, in tensors that grow.

A row holds a request's keys and values from its first token on, so that a request joins by taking the next row and
leaves by giving it up; the last row moves into the gap. The rows in use are always the first ones: a step works on
views of them, and nothing is copied while the batch stays as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

_SMALLEST_LENGTH = 256


@dataclass(slots=True)
class RowsAtWork:
    """What the next forward pass works on.

    Attributes:
        first, rows: the rows, one after another.
        start: position of the first new token, where there is one row.
        positions: of the new token in each row, where each has one; None where one row has several.
        index: 0, 1, …, as long as `positions`.
        length: tokens of the longest row, with the new ones.
    """

    first: int = 0
    rows: int = 0
    start: int = 0
    positions: torch.Tensor | None = None
    index: torch.Tensor | None = None
    length: int = 0


class SlotLayer(CacheLayerMixin):  # type: ignore[misc]
    """Keys and values of one layer: tensors of (rows, heads, length, dimension of a head)."""

    def __init__(self, work: RowsAtWork) -> None:
        super().__init__()
        self.work = work
        self.capacity = (0, 0)
        self.dtype: torch.dtype | None = None
        self.device: torch.device | None = None

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        rows, length = self.capacity
        self.dtype, self.device = key_states.dtype, key_states.device
        # Zeros: what is masked still takes part in a product, and must not be NaN.
        self.keys = key_states.new_zeros((rows, key_states.shape[1], length, key_states.shape[3]))
        self.values = value_states.new_zeros((rows, value_states.shape[1], length, value_states.shape[3]))
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the new tokens' keys and values; returns those of the rows at work."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        work = self.work
        keys, values = self.keys, self.values
        assert keys is not None and values is not None
        if work.positions is not None:
            keys[work.index, :, work.positions] = key_states[:, :, 0]
            values[work.index, :, work.positions] = value_states[:, :, 0]
        else:
            keys[work.first, :, work.start : work.length] = key_states[0]
            values[work.first, :, work.start : work.length] = value_states[0]
        rows = slice(work.first, work.first + work.rows)
        return keys[rows, :, : work.length], values[rows, :, : work.length]

    def reserve(self, rows: int, length: int) -> None:
        """Grow to this many rows of this length."""
        self.capacity = (rows, length)
        if not self.is_initialized:
            return
        self.keys = _grown(self.keys, rows, length)
        self.values = _grown(self.values, rows, length)

    def move(self, source: int, target: int, length: int) -> None:
        """Copy a row's first tokens to another row."""
        if self.keys is not None and self.values is not None:
            self.keys[target, :, :length] = self.keys[source, :, :length]
            self.values[target, :, :length] = self.values[source, :, :length]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.work.length, 0

    def get_seq_length(self) -> int:
        return self.work.start

    def get_max_length(self) -> int:
        return -1


def _grown(tensor: torch.Tensor, rows: int, length: int) -> torch.Tensor:
    grown = tensor.new_zeros((rows, tensor.shape[1], length, tensor.shape[3]))
    grown[: tensor.shape[0], :, : tensor.shape[2]] = tensor
    return grown


class SlotCache(Cache):  # type: ignore[misc]
    """The layers of a model.

    Attributes:
        work: what the next forward pass works on.
    """

    def __init__(self, layers: int, max_rows: int, max_length: int) -> None:
        """
        Args:
            layers: of the model.
            max_rows: requests at once, at most.
            max_length: tokens of a request, at most.
        """
        self.work = RowsAtWork()
        self._max_rows = max_rows
        self._max_length = max_length
        self._rows = 0
        self._length = 0
        self.layers: list[SlotLayer] = []
        super().__init__(layers=[SlotLayer(self.work) for _ in range(layers)])

    def reserve(self, rows: int, length: int) -> None:
        """Have room for so many rows of such a length; at least doubles what there was, so that it is rarely needed."""
        if rows <= self._rows and length <= self._length:
            return
        if rows > self._rows:
            self._rows = min(self._max_rows, max(rows, 2 * self._rows))
        if length > self._length:
            self._length = min(self._max_length, max(length, 2 * self._length, _SMALLEST_LENGTH))
        for layer in self.layers:
            layer.reserve(self._rows, self._length)

    def move(self, source: int, target: int, length: int) -> None:
        """Copy a row's first tokens to another row."""
        for layer in self.layers:
            layer.move(source, target, length)

    def release(self) -> None:
        """Give the memory back; nothing is in use."""
        self._rows = self._length = 0
        self.layers = [SlotLayer(self.work) for _ in self.layers]

"""Texts of different lengths that are continued together, as a server does: they join and leave between two tokens.

A text is read alone, by a `Cache`, whose keys and values then join the batch. From there on it gets its next token in
the same forward pass as all others, which reads the weights once for all. Rows stay without gaps: the last text moves
into the row of one that leaves.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

import tinytensor as tt
from gpt.model.cache import Cache, Store
from gpt.model.gpt import GPT


class Batch(Store):
    """Room for `batch` texts of up to `capacity` tokens, of which the first `count` rows are in use.

    What a text gets depends on the others by the rounding of products alone. The model must be in evaluation mode.
    """

    def __init__(self, model: GPT, batch: int, capacity: int):
        super().__init__(model, batch, capacity)
        self.count = 0

    def _allocate(self) -> Any:
        return self.device.xp.zeros(self.shape, self.dtype)

    def join(self, cache: Cache) -> None:
        """Copy the one text of a cache into the next row."""
        row, length = self.count, cache.length
        for own, read in zip(self.layers, cache.layers, strict=True):
            for new, old in zip(own, read, strict=True):
                new[row, :, :length] = old[0, :, :length]
        self.lengths[row], self.count = length, row + 1

    def leave(self, row: int) -> None:
        """Free a row; the last one moves there. What is behind the end of a row stays 0, as the kernels may need."""
        self.count -= 1
        last, length, left = self.count, self.lengths[self.count], self.lengths[row]
        for layer in self.layers:
            for buffer in layer:
                if row != last:
                    buffer[row, :, :length] = buffer[last, :, :length]
                    buffer[row, :, length:left] = 0
                buffer[last, :, :length] = 0
        self.lengths[row], self.lengths[last] = length, 0

    def logits(self, tokens: Sequence[int]) -> np.ndarray:
        """The logits (n, V) after the newest token of each text."""
        x = self.forward(np.array(tokens, np.int64)[:, None])
        return tt.to_numpy(self.score(x[:, -1]))

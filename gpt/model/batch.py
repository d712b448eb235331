"""Texts of different lengths that are continued together, as a server does: they join and leave between two tokens.

`Prompts` reads the beginnings of some texts in large products. The texts then join a `Batch`, where each gets its next
token in the same forward pass as all others, which reads the weights once for all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

import tinytensor as tt
from gpt.model.cache import Store
from gpt.model.gpt import GPT


class Prompts(Store):
    """The beginnings of some texts, at least a token each, which are read together and a part at a time.

    Shorter ones are padded. That changes nothing for their own tokens, which do not see what comes after them.
    """

    def __init__(self, model: GPT, prompts: Sequence[np.ndarray]):
        self.sizes = [len(prompt) for prompt in prompts]
        super().__init__(model, len(prompts), max(self.sizes))
        self.ids = np.zeros((len(prompts), max(self.sizes)), np.int64)
        for row, prompt in zip(self.ids, prompts, strict=True):
            row[: len(prompt)] = prompt
        self._newest: dict[int, Any] = {}  # {row: (1, C), what the last layer gives for the last token of its prompt}

    @property
    def is_read(self) -> bool:
        """Whether all of them are read to their ends."""
        return len(self._newest) == len(self.sizes)

    def read(self, count: int) -> int:
        """Read about `count` tokens more, as many of each prompt; returns how many it were."""
        begin = int(self.lengths[0])
        part = self.ids[:, begin : begin + max(1, count // len(self.ids))]
        x = self.forward(part).data
        for row, size in enumerate(self.sizes):
            if begin < size <= begin + part.shape[1]:
                self._newest[row] = x[row : row + 1, size - 1 - begin]
        return part.size

    def logits(self) -> np.ndarray:
        """The logits (n, V) after each prompt, once they are read."""
        newest = [self._newest[row] for row in range(len(self.sizes))]
        return tt.to_numpy(self.score(tt.Tensor(self.device.xp.concatenate(newest))))


class Batch(Store):
    """Room for `batch` texts of up to `capacity` tokens, of which the first `count` rows are in use.

    What a text gets depends on the others by the rounding of products alone. The model must be in evaluation mode.
    """

    def __init__(self, model: GPT, batch: int, capacity: int):
        super().__init__(model, batch, capacity)
        self.count = 0

    def _allocate(self, make: str = "zeros") -> None:
        super()._allocate(make)

    def join(self, prompts: Prompts, row: int) -> None:
        """Copy one of the prompts, which are read, into the next row."""
        length = prompts.sizes[row]
        for own, read in zip(self.layers, prompts.layers, strict=True):
            for new, old in zip(own, read, strict=True):
                new[self.count, :, :length] = old[row, :, :length]
        self.lengths[self.count] = length
        self.count += 1

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

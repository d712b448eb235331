"""Batches of token windows, drawn for training and fixed for evaluation.

Which windows make the batch of a step is a pure function of (seed, step, index): there is no generator state to save,
and the parts of a batch see the same windows as the whole.
"""

import mmap
from collections.abc import Iterator

import numpy as np

import tinytensor as tt
from gpt.errors import UserError


def windows(tokens: np.ndarray, starts: np.ndarray, block_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets, (B, T) int64 each, of the windows of T = block_size tokens at `starts` (B,).

    UserError if the tokens are memory-mapped and their file has become shorter.
    """
    require_whole(tokens)
    block = np.asarray(tokens[starts[:, None] + np.arange(block_size + 1)], dtype=np.int64)  # (B, T + 1)
    return np.ascontiguousarray(block[:, :-1]), np.ascontiguousarray(block[:, 1:])


def require_whole(tokens: np.ndarray) -> None:
    """Raise UserError if the file of a memory-mapped array has become shorter: reading beyond its end is a SIGBUS."""
    if isinstance(tokens.base, mmap.mmap) and tokens.base.size() < tokens.nbytes:
        raise UserError(
            f"{tokens.filename}: has become shorter while it was used: restore it from a copy, and resume the run"  # type: ignore[attr-defined]
        )


class Batches:
    """Random windows of a token array; window i of a step depends on (seed, step, i) alone."""

    def __init__(self, tokens: np.ndarray, block_size: int, seed: int):
        self.tokens, self.block_size, self.seed = tokens, block_size, seed

    def starts(self, step: int, first: int, count: int) -> np.ndarray:
        """Where windows `first` to `first + count` of a step begin: (count,) int64, uniform."""
        # random_raw, unlike Generator.integers, gives the same stream in every version of NumPy
        raw = np.random.Philox(key=tt.fold(self.seed, "batch", step)).random_raw(first + count)[first:]
        uniform = (raw >> np.uint64(11)) * 2.0**-53
        return (uniform * (len(self.tokens) - self.block_size)).astype(np.int64)

    def rows(self, step: int, rows: slice) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and targets, (B, T) each, of these rows of the step's batch."""
        return windows(self.tokens, self.starts(step, rows.start, rows.stop - rows.start), self.block_size)


class EvalWindows:
    """A fixed set of windows, spread evenly over a token array; iterate for (B, T) inputs and targets."""

    def __init__(self, tokens: np.ndarray, block_size: int, batch_size: int, batches: int):
        self.tokens, self.block_size = tokens, block_size
        starts = np.arange(batches * batch_size) * (len(tokens) - block_size) // (batches * batch_size)
        self.starts = starts.reshape(batches, batch_size)

    def __len__(self) -> int:
        return len(self.starts)

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        return self.batches(slice(None))

    def batches(self, numbers: slice) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Those batches of the set, one after the other."""
        return (windows(self.tokens, starts, self.block_size) for starts in self.starts[numbers])

"""Batches of token windows, drawn for training and fixed for evaluation.

Which windows make the batch of a step is a pure function of (seed, step, index): there is no generator state to save,
and the parts of a batch see the same windows as the whole.
"""

import mmap
from collections.abc import Iterator

import numpy as np

import tinytensor as tt
from gpt.corpus.tokens import ANSWER, BEGIN, FLAGS
from gpt.errors import UserError
from tinytensor.ops.losses import IGNORE


def windows(
    tokens: np.ndarray, starts: np.ndarray, block_size: int, answers: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets, (B, T) int64 each, of the windows of T = block_size tokens at `starts` (B,).

    With `answers`, what each token of dialogs is (see `Tokens`), only answers are targets, and all others -100.
    UserError if an array is memory-mapped and its file has become shorter.
    """
    require_whole(tokens)
    places = starts[:, None] + np.arange(block_size + 1)
    block = np.asarray(tokens[places], dtype=np.int64)  # (B, T + 1)
    inputs, targets = block[:, :-1].copy(), block[:, 1:].copy()  # never views, of which one would change the other
    if answers is not None:
        require_whole(answers)
        targets[answers[places[:, 1:]] & ANSWER == 0] = IGNORE
    return inputs, targets


def dialog_windows(answers: np.ndarray, block_size: int) -> np.ndarray:
    """Where windows of dialogs may begin, (N,) int64: where a dialog does, as it will when the model is asked.

    A dialog that is longer than a window has further ones, one behind the other. All have a target that counts.
    """
    begins = np.flatnonzero(answers & BEGIN)
    counts = -(-np.diff(begins, append=len(answers)) // block_size)  # windows in each dialog
    number = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    starts = np.repeat(begins, counts) + block_size * number
    starts = starts[starts + block_size < len(answers)]
    edges = np.unique(np.concatenate([starts + 1, starts + block_size + 1]))
    if not len(edges):
        return starts
    counted = np.append(answers & ANSWER, FLAGS.type(0))  # so that an edge may be the end
    before = np.cumsum(np.add.reduceat(counted, edges, dtype=np.int64))  # up to the next edge
    before = np.concatenate([[0], before[:-1]])
    first, last = np.searchsorted(edges, starts + 1), np.searchsorted(edges, starts + block_size + 1)
    return starts[before[last] > before[first]]


def require_whole(tokens: np.ndarray) -> None:
    """Raise UserError if the file of a memory-mapped array has become shorter: reading beyond its end is a SIGBUS."""
    if isinstance(tokens.base, mmap.mmap) and tokens.base.size() < tokens.nbytes:
        raise UserError(
            f"{tokens.filename}: has become shorter while it was used: restore it from a copy, and resume the run"  # type: ignore[attr-defined]
        )


class Batches:
    """Random windows of a token array; window i of a step depends on (seed, step, i) alone. answers: see `windows`."""

    def __init__(self, tokens: np.ndarray, block_size: int, seed: int, answers: np.ndarray | None = None):
        self.tokens, self.block_size, self.seed, self.answers = tokens, block_size, seed, answers
        self.places = None if answers is None else dialog_windows(answers, block_size)

    def starts(self, step: int, first: int, count: int) -> np.ndarray:
        """Where windows `first` to `first + count` of a step begin: (count,) int64, uniform."""
        # random_raw, unlike Generator.integers, gives the same stream in every version of NumPy
        raw = np.random.Philox(key=tt.fold(self.seed, "batch", step)).random_raw(first + count)[first:]
        uniform = (raw >> np.uint64(11)) * 2.0**-53
        if self.places is not None:
            return self.places[(uniform * len(self.places)).astype(np.int64)]
        return (uniform * (len(self.tokens) - self.block_size)).astype(np.int64)

    def rows(self, step: int, rows: slice) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and targets, (B, T) each, of these rows of the step's batch."""
        starts = self.starts(step, rows.start, rows.stop - rows.start)
        return windows(self.tokens, starts, self.block_size, self.answers)


class EvalWindows:
    """A fixed set of windows, spread evenly over a token array; iterate for (B, T) inputs and targets."""

    def __init__(
        self, tokens: np.ndarray, block_size: int, batch_size: int, batches: int, answers: np.ndarray | None = None
    ):
        self.tokens, self.block_size, self.answers = tokens, block_size, answers
        places = None if answers is None else dialog_windows(answers, block_size)
        count = len(tokens) - block_size if places is None else len(places)
        starts = np.arange(batches * batch_size) * count // (batches * batch_size)
        starts = starts if places is None else places[starts]
        self.starts = starts.reshape(batches, batch_size)

    def __len__(self) -> int:
        return len(self.starts)

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        return self.batches(slice(None))

    def batches(self, numbers: slice) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Those batches of the set, one after the other."""
        return (windows(self.tokens, starts, self.block_size, self.answers) for starts in self.starts[numbers])

"""Randomness as a pure function of a key: nothing hidden to save, nothing to lose on resume.

Every draw (initial weights, dropout, sampling) takes its 64-bit seed from the current
key and the number of draws made under it, so that

    with seeded(seed, "dropout", step): ...

gives the same bits whenever it is run again. The key is per thread. Where a batch is worked on in parts, `batch_rows`
says which rows a part holds, and every part draws what it would in the whole batch. Draws are made on the CPU by
NumPy's counter-based Philox generator, hence the same on every device; dropout masks come from an equally stateless
hash inside the kernels.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np


def fold(*key: int | str) -> int:
    """Hash a key of integers and strings to a 64-bit unsigned integer (the same on every machine)."""
    plain = tuple([part if isinstance(part, str) else int(part) for part in key])  # NumPy prints its integers otherwise
    return int.from_bytes(hashlib.blake2b(repr(plain).encode(), digest_size=8).digest(), "little")


class Generator:
    """A stream of draws of its own, as in PyTorch: randn(3, generator=Generator().manual_seed(1)).

    Its numbers are a function of its seed, 0 at first, and of the draws made with it.
    """

    def __init__(self) -> None:
        self.manual_seed(0)

    def manual_seed(self, seed: int) -> Generator:
        """Begin again from `seed`. Returns self."""
        self.key, self.draws = ("generator", seed), 0
        return self


class _Stream(threading.local):
    """The current thread's key, how many draws were made under it, and the first row of the batch in hand."""

    def __init__(self) -> None:
        self.key: tuple = ("unseeded", secrets.randbits(64))
        self.draws = 0
        self.first_row = 0


_stream = _Stream()


def manual_seed(seed: int) -> None:
    """Make all later draws of this thread a function of `seed`."""
    _stream.key, _stream.draws = (seed,), 0


@contextmanager
def seeded(*key: int | str) -> Iterator[None]:
    """Draws inside are a pure function of `key` and their order; afterwards the outer stream continues."""
    outer = _stream.key, _stream.draws
    _stream.key, _stream.draws = key, 0
    try:
        yield
    finally:
        _stream.key, _stream.draws = outer


def get_rng_state() -> tuple:
    """This thread's key and number of draws, for `set_rng_state` in this or another process."""
    return _stream.key, _stream.draws


def set_rng_state(state: tuple) -> None:
    """Continue this thread's draws from what `get_rng_state` returned."""
    _stream.key, _stream.draws = state


@contextmanager
def batch_rows(first: int) -> Iterator[None]:
    """Inside, the tensors that are dropped out hold rows `first`, first + 1, ... of a larger batch on their axis 0."""
    outer, _stream.first_row = _stream.first_row, first
    try:
        yield
    finally:
        _stream.first_row = outer


def first_row() -> int:
    """What `batch_rows` says in this thread, else 0."""
    return _stream.first_row


def next_seed(generator: Generator | None = None) -> int:
    """A fresh 64-bit seed for one draw, of this thread or of `generator`."""
    stream = generator or _stream
    stream.draws += 1
    return fold(*stream.key, stream.draws)


def random_generator(generator: Generator | None = None) -> np.random.Generator:
    """A NumPy generator keyed by the next draw, of this thread or of `generator`."""
    return np.random.Generator(np.random.Philox(key=next_seed(generator)))

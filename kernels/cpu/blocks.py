"""Cuts arrays into rows, and rows into blocks that fit in a core's cache.

Floor 0. A chain of elementwise steps over a large array reads and writes main memory once per step; over a block that
stays in the L2 cache, only once in all.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

BLOCK_BYTES = 256 * 1024  # a block and the two or three temporaries of its size stay inside 1 MiB of L2


def as_rows(x):
    """(..., S) -> (N, S), a view if x is contiguous. N is counted, as reshape(-1, S) fails where S is 0."""
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1])


def row_blocks(rows: int, row_bytes: int, block_bytes: int = BLOCK_BYTES) -> Iterator[slice]:
    """Slices that cover range(rows) in order, each of about `block_bytes`, at least one row."""
    size = max(1, block_bytes // max(1, row_bytes))
    return (slice(start, min(start + size, rows)) for start in range(0, rows, size))

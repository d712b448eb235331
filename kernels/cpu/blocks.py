"""Runs a primitive block by block, on several threads if it is large enough.

A chain of elementwise steps over a large array reads and writes main memory once per step; over a block that stays in
the cache of its core, only once in all.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from kernels.cpu.threads import get_splits, parallel_map, split_evenly

BLOCK_BYTES = 2**20  # a block and its temporaries stay in the L2 and L3 caches; smaller ones cost more in calls
PARALLEL_BYTES = 2**20  # below this, waking a thread costs more than it saves


def as_rows(x):
    """(..., S) -> (N, S), a view if x is contiguous. N is counted, as reshape(-1, S) fails where S is 0."""
    return x if x.ndim == 2 else x.reshape(math.prod(x.shape[:-1]), x.shape[-1])


def c_order(x):
    """x in C order, copied if need be, with the strides of a new array.

    `np.ascontiguousarray` leaves any stride on axes of length 1, which BLAS would take for a leading dimension.
    """
    x = np.ascontiguousarray(x)
    return np.ndarray(x.shape, x.dtype, x) if x.size else x


def row_blocks(rows: int, row_bytes: int, block_bytes: int, multiple: int = 1) -> list[slice]:
    """Slices that cover range(rows) in order: a `multiple` of about equal ones, of up to `block_bytes` or one row."""
    needed = -(-rows // max(1, block_bytes // max(1, row_bytes)))
    count = max(1, min(rows, -(-needed // multiple) * multiple))
    return split_evenly(rows, count) if rows else []


def for_blocks(work: Callable, rows: int, row_bytes: int) -> list:
    """[work(block) for each cache-sized block of rows], in order; on several threads if there is enough to do."""
    if rows * row_bytes < PARALLEL_BYTES:
        if rows * row_bytes <= BLOCK_BYTES:
            return [work(slice(0, rows))] if rows else []
        return [work(block) for block in row_blocks(rows, row_bytes, BLOCK_BYTES)]
    return parallel_map(work, row_blocks(rows, row_bytes, BLOCK_BYTES, get_splits()))

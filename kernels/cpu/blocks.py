"""Runs a primitive block by block, over several threads if there are any to spare.

Floor 0. A chain of elementwise steps over a large array reads and writes main memory once per step; over a block that
stays in the cache of its core, only once in all. NumPy lets go of Python's lock while it computes, so blocks can run
on several threads. BLAS is then held to one thread, since all of them are busy with work of their own.

How much is done by threads is set once for the process by `use_threads`; within work that is already spread over
them, inner loops run where they are.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise

from threadpoolctl import ThreadpoolController

BLOCK_BYTES = 2**20  # a block and its temporaries stay in the L2 and L3 caches; smaller ones cost more in calls
SPREAD_BYTES = 2**20  # below this, waking a thread costs more than it saves


class _Threads:
    count = 1
    pool: ThreadPoolExecutor | None = None


class _Here(threading.local):
    busy = False  # whether this thread is already working on a part of something


_here = _Here()


def use_threads(count: int) -> None:
    """Spread primitives over `count` threads; with more than one, BLAS itself runs on one."""
    if count > 1:
        ThreadpoolController().select(user_api="blas").limit(limits=1)
    _Threads.count = count
    _Threads.pool = ThreadPoolExecutor(count - 1) if count > 1 else None


def thread_count() -> int:
    """What `use_threads` was last told; 1 to begin with, when BLAS has its own threads."""
    return _Threads.count


def spread(work: Callable, items: Iterable) -> list:
    """[work(item) for item in items], each thread taking a run of neighbouring items."""
    items = list(items)
    parts = min(_Threads.count, len(items))
    if parts <= 1 or _here.busy:
        return [work(item) for item in items]
    runs = [items[run] for run in even_slices(len(items), parts)]
    futures = [_Threads.pool.submit(_work_through, work, run) for run in runs[1:]]
    results = _work_through(work, runs[0])
    return results + [result for future in futures for result in future.result()]


@contextmanager
def alone():
    """Inside, this thread spreads nothing: the cores have work of their own."""
    before, _here.busy = _here.busy, True
    try:
        yield
    finally:
        _here.busy = before


def _work_through(work: Callable, items: list) -> list:
    with alone():
        return [work(item) for item in items]


def as_rows(x):
    """(..., S) -> (N, S), a view if x is contiguous. N is counted, as reshape(-1, S) fails where S is 0."""
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1])


def row_blocks(rows: int, row_bytes: int, block_bytes: int, multiple: int = 1) -> list[slice]:
    """Slices that cover range(rows) in order: a `multiple` of about equal ones, of up to `block_bytes` or one row."""
    needed = -(-rows // max(1, block_bytes // max(1, row_bytes)))
    count = max(1, min(rows, -(-needed // multiple) * multiple))
    return even_slices(rows, count) if rows else []


def even_slices(stop: int, count: int, start: int = 0) -> list[slice]:
    """range(start, stop) in order, in `count` slices of about the same size."""
    bounds = [start + (stop - start) * i // count for i in range(count + 1)]
    return [slice(*pair) for pair in pairwise(bounds)]


def for_blocks(work: Callable, rows: int, row_bytes: int) -> list:
    """[work(block) for each cache-sized block of rows], in order; spread over threads if there is enough to do."""
    if rows * row_bytes < SPREAD_BYTES:
        return [work(block) for block in row_blocks(rows, row_bytes, BLOCK_BYTES)]
    return spread(work, row_blocks(rows, row_bytes, BLOCK_BYTES, _Threads.count))

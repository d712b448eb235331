"""How many threads the primitives use: process-wide state, and the only such state of this package.

NumPy releases the GIL while it computes, so several blocks of one primitive can run on several threads. BLAS is then
limited to one thread, since each of ours makes calls of its own. Work that already runs on one of several threads does
not start further ones: `parallel_map` inside `parallel_map` is a plain loop.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import pairwise

import numpy as np
from threadpoolctl import ThreadpoolController

MEMBERS, ARRIVED, ABANDONED = range(3)  # what the threads of a team share; see `run_together`


class _State:
    """The process's threads."""

    count = 1
    splits = 1  # into how many parts primitives divide their work, which decides how sums are rounded
    pool: ThreadPoolExecutor | None = None  # count - 1 threads; the caller of parallel_map is the last one
    team = threading.Lock()  # held while some work runs on all threads together
    blas_limit = None  # threadpoolctl's, which knows what to restore; None while BLAS uses its own threads


class _Local(threading.local):
    nested = False  # whether this thread is already one of several


_local = _Local()


def set_num_threads(count: int, splits: int | None = None) -> None:
    """Let every primitive of this process use `count` threads from now on, and shut the previous threads down.

    splits: into how many parts they divide their work, by default as many. It decides how sums are rounded: the same
    number gives the same bits with any number of threads.
    With more than one, BLAS is limited to one thread; with one, it gets back the number it had before.
    Not to be called while a primitive runs. Raises ValueError if count is less than 1.
    """
    if count < 1:
        raise ValueError(f"set_num_threads: count is {count}: must be at least 1")
    if _State.pool:
        _State.pool.shutdown()
    if count > 1 and _State.blas_limit is None:
        _State.blas_limit = ThreadpoolController().select(user_api="blas").limit(limits=1)
    elif count == 1 and _State.blas_limit is not None:
        _State.blas_limit.restore_original_limits()
        _State.blas_limit = None
    _State.count, _State.splits = count, splits or count
    _State.pool = ThreadPoolExecutor(count - 1) if count > 1 else None


def get_num_threads() -> int:
    """What `set_num_threads` was last given; 1 to begin with, when BLAS uses its own threads."""
    return _State.count


def get_splits() -> int:
    """Into how many parts primitives divide their work; see `set_num_threads`."""
    return _State.splits


def parallel_map(work: Callable, items: Iterable) -> list:
    """[work(item) for item in items], the items split evenly among the threads in order."""
    items = list(items)
    parts = min(_State.count, len(items))
    if parts <= 1 or _local.nested or _State.pool is None:
        return [work(item) for item in items]
    chunks = [items[part] for part in split_evenly(len(items), parts)]
    futures = [_State.pool.submit(_run, work, chunk) for chunk in chunks[1:]]
    results = _run(work, chunks[0])
    return results + [result for future in futures for result in future.result()]


def run_together(work: Callable) -> None:
    """work(team, member) on every thread at the same time, for loops whose threads wait for each other.

    team (3,) int64, for the barrier of `kernels/cpu/loops/team.py`: how many threads there are, how often any of them
    has arrived there, and whether they should not wait any more, as one failed or was interrupted. member: from 0 on.
    """
    pool = None if _local.nested else _State.pool
    team = np.array([_State.count if pool else 1, 0, 0])
    with _State.team:  # else threads of two teams could all wait for others that find no thread to run on
        futures: list[Future] = []
        try:
            with _abandoned_on_error(team):
                if pool:
                    futures += (pool.submit(_run_member, work, team, i) for i in range(1, _State.count))
                _run_member(work, team, 0)
        finally:
            for future in futures:
                future.result()


def run_alone(work: Callable) -> None:
    """`run_together` on this thread only."""
    work(np.array([1, 0, 0]), 0)


def _run_member(work: Callable, team: np.ndarray, member: int) -> None:
    with _abandoned_on_error(team), _on_own_processor(member, team[MEMBERS]):
        work(team, member)


@contextmanager
def _abandoned_on_error(team: np.ndarray):
    try:
        yield
    except BaseException:  # Ctrl-C, too
        team[ABANDONED] = 1
        raise


@contextmanager
def _on_own_processor(member: int, members: int):
    """Keep this thread on one processor, a different one for each member, if there are as many as members.

    Where other programs keep all of them busy, Linux may wake a thread on the processor of the one that woke it, and
    leave both there, where each waits at every barrier until the other has had its turn.
    """
    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    own = {sorted(usable)[member]} if len(usable) == members > 1 else usable
    try:
        if own != usable:
            with suppress(OSError):  # which a sandbox may forbid
                os.sched_setaffinity(0, own)
        yield
    finally:
        with suppress(OSError):
            if own != usable and os.sched_getaffinity(0) == own:  # else it was set from outside meanwhile
                os.sched_setaffinity(0, usable)


@contextmanager
def no_nested_parallelism():
    """Inside, `parallel_map` is a plain loop on this thread, as the other cores are busy."""
    before, _local.nested = _local.nested, True
    try:
        yield
    finally:
        _local.nested = before


def _run(work: Callable, items: list) -> list:
    with no_nested_parallelism():
        return [work(item) for item in items]


def split_evenly(stop: int, count: int, start: int = 0) -> list[slice]:
    """range(start, stop) in order, in `count` slices of about the same size."""
    if count == 1:
        return [slice(start, stop)]
    bounds = [start + (stop - start) * i // count for i in range(count + 1)]
    return [slice(*pair) for pair in pairwise(bounds)]


def _renew_threads() -> None:
    """In a forked process, which has none of its parent's threads, and its locks as they were at that moment."""
    _State.pool = ThreadPoolExecutor(_State.count - 1) if _State.count > 1 else None
    _State.team = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_threads)

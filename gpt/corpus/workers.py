"""A loop over all cores: results come in the order of the inputs, with only a few of them in memory at a time.

Processes rather than threads, because parsing holds the GIL; spawned rather than forked, because libraries with threads
of their own do not survive a fork.
"""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing.connection import wait
from typing import TypeVar

from gpt.errors import UserError

INPUTS_PER_PROCESS = 2  # one being worked on, one waiting

In = TypeVar("In")
Out = TypeVar("Out")


class Workers:
    """`count` worker processes; with a count of 1, this process does the work. A context manager."""

    def __init__(self, count: int):
        self.count = count
        context = multiprocessing.get_context("spawn")
        self.pool = ProcessPoolExecutor(count, context, start_worker) if count > 1 else None

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_: object) -> None:
        if self.pool:
            self.pool.shutdown(cancel_futures=True)

    def map(self, function: Callable[[In], Out], inputs: Iterable[In]) -> Iterator[Out]:
        """Yield `function(input)` for each input, in order, reading only a few inputs ahead."""
        if not self.pool:
            yield from map(function, inputs)
            return
        inputs = iter(inputs)
        first = islice(inputs, self.count * INPUTS_PER_PROCESS)
        running: deque[Future[Out]] = deque(self.pool.submit(function, each) for each in first)
        try:
            while running:
                result = running.popleft().result()
                running.extend(self.pool.submit(function, each) for each in islice(inputs, 1))
                yield result
        except BrokenProcessPool:
            raise UserError(
                f"--workers {self.count}: one of the processes was killed, perhaps for lack of memory; use fewer and "
                "give the same command again"
            ) from None


def start_worker() -> None:
    """Initialise a worker process: it leaves Ctrl-C to its parent, and exits when the parent does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=exit_with_parent, daemon=True).start()


def exit_with_parent() -> None:
    """Wait for the parent process to end, even if it is killed, then exit."""
    parent = multiprocessing.parent_process()
    assert parent is not None  # a worker has one
    wait([parent.sentinel])
    os._exit(1)

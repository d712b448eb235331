"""All cores for one long loop: results come in the order of the inputs, few of them in memory at a time.

Floor 5, above `errors`. Processes rather than threads, since parsing holds Python's lock; started anew rather
than forked, since libraries with threads of their own do not survive a fork. Read `gpt.prepare` next.
"""

import multiprocessing
import os
import signal
import threading
from collections import deque
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing.connection import wait

from gpt.errors import UserError

WAITING = 2  # inputs for each process: one at work, one ready


class Workers:
    """`count` processes; one is this process. A context manager."""

    def __init__(self, count):
        self.count = count
        self.pool = ProcessPoolExecutor(count, multiprocessing.get_context("spawn"), begin) if count > 1 else None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.pool:
            self.pool.shutdown(cancel_futures=True)

    def map(self, function, inputs):
        """Yield `function(input)` for each input, in order, reading only a few inputs ahead."""
        if not self.pool:
            yield from map(function, inputs)
            return
        inputs = iter(inputs)
        running = deque(self.pool.submit(function, each) for each in islice(inputs, self.count * WAITING))
        try:
            while running:
                result = running.popleft().result()
                running.extend(self.pool.submit(function, each) for each in islice(inputs, 1))
                yield result
        except BrokenProcessPool:
            raise UserError(
                f"--workers {self.count}: one of the processes was ended from outside, perhaps for lack of memory; "
                "use fewer and give the same command again"
            ) from None


def begin():
    """What a new process does: leave Ctrl-C to its parent, and end with it even if that was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=end_with_parent, daemon=True).start()


def end_with_parent():
    """Wait for the parent process to end, then end this one."""
    wait([multiprocessing.parent_process().sentinel])
    os._exit(1)

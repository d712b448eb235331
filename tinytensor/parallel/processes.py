"""Divides a training step among the cores of a CPU: a process for each share of the batch.

Threads of one process contend for the GIL outside NumPy's arithmetic; processes synchronize only at the end of a step.
They are forks of this process, so they begin with a copy of the model, and the parameters lie in
shared memory. Each puts its gradients into shared memory too, where they are added in a fixed order, so the result for
a given number of processes is bit-identical every time. Dropout is keyed by the row of the whole batch, and every part
of the loss is weighted by the targets that count in it, so another number of processes changes only the rounding. Each
process works through its rows in small parts, which bounds its memory.
"""

from __future__ import annotations

import gc
import mmap
import os
import signal
import sys
import weakref
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from itertools import accumulate
from multiprocessing import Pipe
from typing import Any

import numpy as np

from kernels.cpu.memory import return_freed_memory
from kernels.cpu.threads import get_num_threads, no_nested_parallelism, parallel_map, split_evenly
from tinytensor.nn import Module, Parameter
from tinytensor.ops.losses import IGNORE
from tinytensor.random import batch_rows, first_row, get_rng_state, set_rng_state

PART_TOKENS = 1024  # enough rows for the matrix products to run at full speed
CAN_FORK = hasattr(os, "fork") and sys.platform != "darwin"  # macOS's libraries are not fork-safe


def available_cores() -> int:
    """The cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class BatchParallel:
    """Computes `model(ids, targets)`, a mean over targets, and its gradients, the batch divided among processes.

    processes: how many, this one included; by default as many as `set_num_threads` was told. The others are forked
    here, with the model's layers as they are now (parameters and mode may change), and end with this object. With one
    row in the batch, and where processes cannot fork, the threads share the work of each operation.
    """

    def __init__(self, model: Module, batch_size: int, processes: int | None = None):
        self.model = model
        self._parameters = model.parameters()
        others = min(processes or get_num_threads(), batch_size) - 1 if CAN_FORK else 0
        self._shared = _shared_like(self._parameters) if others else []
        self._share_parameters()
        if others:
            gc.collect()
            return_freed_memory()
            gc.freeze()  # what is there now stays: collections in the forks need not walk, and copy, its pages
        self._workers = [_Worker(model, self._parameters) for _ in range(others)]

    def backward(self, ids: np.ndarray, targets: np.ndarray, scale: float = 1.0) -> np.ndarray:
        """Add the gradients of scale * loss to each parameter's `grad`: ids, targets (B, T) -> loss, a raw () array.

        The loss is the mean over the targets that are not ignored (-100), NaN if there is none.
        Raises ChildProcessError if a process was killed, and whatever the model raises, in any process.
        """
        self._share_parameters()
        workers = self._workers[: max(0, len(ids) - 1)]
        shares = split_evenly(len(ids), len(workers) + 1)
        options = _Options(scale, get_rng_state(), first_row(), self.model.training, count_targets(targets))
        for worker, rows in zip(workers, shares[1:], strict=True):
            worker.send(ids, targets, rows, options)
        try:
            with no_nested_parallelism() if workers else nullcontext():
                loss = _backward(self.model, ids, targets, shares[0], options)
        finally:
            replies = [worker.receive() for worker in workers]  # an unread one would be taken for the next step's
        for worker, reply in zip(workers, replies, strict=True):
            loss += worker.add_gradients(self._parameters, reply)
        return loss

    def _share_parameters(self) -> None:
        """Keep the parameters' arrays, which may have been replaced, where other processes, if any, see them."""
        for p, shared in zip(self._parameters, self._shared, strict=False):
            if p.data is not shared:
                np.copyto(shared, p.data, casting="no")
                p.data = shared


class _Worker:
    """A forked process with a share of the batch, seen from the first process."""

    def __init__(self, model, parameters):
        self._gradients = _shared_like(parameters)
        self._connection, theirs = Pipe()
        pid = os.fork()
        if pid == 0:
            try:
                self._connection.close()
                with no_nested_parallelism():
                    _serve(theirs, model, parameters, self._gradients)
            finally:
                os._exit(0)  # without running what the first process registered for its own exit
        theirs.close()
        weakref.finalize(self, _kill, pid)

    def send(self, *task) -> None:
        with suppress(OSError):  # it was killed, as `receive` will find
            self._connection.send(task)

    def receive(self):
        try:
            return self._connection.recv()
        except (EOFError, OSError):
            return ChildProcessError("a process that worked on a share of the batch was killed")

    def add_gradients(self, parameters, reply):
        """Add what the process has computed to the parameters' gradients; returns its part of the loss."""
        if isinstance(reply, Exception):
            raise reply
        loss, present = reply

        def add(one):
            p, gradient, there = one
            if there:
                p.grad = gradient.copy() if p.grad is None else np.add(p.grad, gradient, out=p.grad)

        parallel_map(add, zip(parameters, self._gradients, present, strict=True))
        return loss


def _serve(connection: Any, model: Module, parameters: list, gradients: list) -> None:
    """The loop of a forked process, until the first one closes the connection or exits."""
    for number in (
        signal.SIGINT,
        signal.SIGTERM,
        signal.SIGHUP,
    ):  # they reach the whole process group; the parent decides
        signal.signal(number, signal.SIG_IGN)
    while True:
        try:
            task = connection.recv()
        except EOFError:
            return
        for p in parameters:
            p.grad = None
        reply: tuple | Exception
        try:
            loss = _backward(model, *task)
            present = [p.grad is not None for p in parameters]
            for p, gradient in zip(parameters, gradients, strict=True):
                if p.grad is not None:
                    np.copyto(gradient, p.grad)
                    p.grad = None  # the values are in shared memory now
            reply = loss, present
        except Exception as error:
            reply = error
        connection.send(reply)


def count_targets(targets: np.ndarray) -> int:
    """How many targets count in a mean loss."""
    return int((targets != IGNORE).sum())


@dataclass(frozen=True)
class _Options:
    """What is the same for all shares of a step."""

    scale: float
    rng_state: tuple
    first_row: int  # of this batch in a larger one
    training: bool
    count: int  # of the targets that are not ignored


def _backward(model: Module, ids: np.ndarray, targets: np.ndarray, rows: slice, options: _Options) -> Any:
    """Backpropagate the part of scale * loss that these rows contribute; returns that part of the loss."""
    if model.training != options.training:
        model.train(options.training)
    if not options.count:
        return np.float32(np.nan)
    total, time = 0.0, ids.shape[1]
    for part in _parts(rows, time):
        count = count_targets(targets[part])
        if not count:
            continue  # the mean over no targets would be NaN
        set_rng_state(options.rng_state)  # every part draws what the whole batch would
        with batch_rows(options.first_row + part.start):
            loss = model(ids[part], targets[part])
        share = loss.dtype.type(count / options.count)
        loss.backward(share * loss.dtype.type(options.scale))
        total += share * loss.data
    return total


def _parts(rows: slice, time: int) -> list[slice]:
    """`rows`, of `time` tokens each, split evenly into parts of about PART_TOKENS tokens."""
    most = max(1, PART_TOKENS // max(1, time))
    return split_evenly(rows.stop, -(-(rows.stop - rows.start) // most), rows.start)


def _shared_like(parameters: list[Parameter]) -> list[np.ndarray]:
    """Arrays for the values or gradients of the parameters, in memory that forks of this process share."""
    sizes = [-(-p.data.nbytes // mmap.PAGESIZE) * mmap.PAGESIZE for p in parameters]
    memory = mmap.mmap(-1, max(1, sum(sizes)))
    starts = accumulate(sizes, initial=0)
    return [np.ndarray(p.shape, p.dtype, memory, start) for p, start in zip(parameters, starts, strict=False)]


def _kill(pid: int) -> None:
    """Kill a forked process, which holds nothing worth keeping."""
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)

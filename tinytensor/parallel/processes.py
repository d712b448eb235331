"""Divides the shares of a training step among the cores of a CPU: a process for each block of shares.

Threads of one process contend for the GIL outside NumPy's arithmetic; processes synchronize only at the end of a step.
They are forks of this process, so they begin with a copy of the model, and the parameters lie in
shared memory. Each puts its gradients into shared memory too, where they are added along the tree of `shares.py`, so
the result is bit-identical for any number of processes. Dropout is keyed by the row of the whole batch, and every part
of the loss is weighted by the targets that count in it, so another number of shares changes only the rounding. Each
share is worked through in small parts, which bounds its memory.
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
from typing import Any, NamedTuple

import numpy as np

from kernels.cpu.memory import return_freed_memory
from kernels.cpu.threads import get_num_threads, no_nested_parallelism, parallel_map, split_evenly
from tinytensor.backend import array_module
from tinytensor.nn import Module, Parameter
from tinytensor.ops.losses import IGNORE
from tinytensor.parallel.shares import Shares, TreeSum, all_shares
from tinytensor.random import batch_rows, first_row, get_rng_state, set_rng_state

PART_TOKENS = 1024  # enough rows for the matrix products to run at full speed
CAN_FORK = hasattr(os, "fork") and sys.platform != "darwin"  # macOS's libraries are not fork-safe


def available_cores() -> int:
    """The cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class WholeBatch(NamedTuple):
    """What a rank knows of the batch that it has a part of: all its rows, and how many of its targets count."""

    rows: int
    targets: int


class BatchParallel:
    """Computes `model(ids, targets)`, a mean over targets, and its gradients, the batch divided into shares.

    shares: their number, or those of this rank. pass_rows: the most rows of a forward pass; by default as many as have
    about PART_TOKENS tokens. processes: how many work on the shares, this one included; by default as many as
    `set_num_threads` was told, on a GPU one. The others are forked here, with the model's layers as they are now
    (parameters and mode may change, but not which parameters require a gradient), and end with this object. With one
    share, and where processes cannot fork, the threads share the work of each operation.
    """

    def __init__(self, model: Module, shares: Shares | int, pass_rows: int | None = None, processes: int | None = None):
        self.model = model
        self.shares = all_shares(shares) if isinstance(shares, int) else shares
        self._pass_rows = pass_rows
        self._parameters = model.parameters()
        self._trained = [p for p in self._parameters if p.requires_grad]  # the others are frozen
        on_cpu = array_module(self._parameters[0].data) is np
        count = min(processes or get_num_threads(), len(self.shares)) if CAN_FORK and on_cpu else 1
        self._shared = _shared_like(self._parameters) if count > 1 else []
        self._share_parameters()
        if count > 1:
            gc.collect()
            return_freed_memory()
            gc.freeze()  # what is there now stays: collections in the forks need not walk, and copy, its pages
        self._own, *others = self.shares.split(count)
        self._workers = [_Worker(model, self._trained, block, pass_rows) for block in others]

    def backward(self, ids: np.ndarray, targets: np.ndarray, whole: WholeBatch | None = None) -> Any:
        """Add the gradients of the loss to each trained parameter's `grad`: ids, targets (B, T) -> loss, a () array.

        The loss is the mean over the targets that are not ignored (-100), NaN if there is none. whole: the batch of
        which ids and targets are the rows of these shares; the result is then their part of its loss.
        Raises ChildProcessError if a process was killed, and whatever the model raises, in any process.
        """
        self._share_parameters()
        whole = whole or WholeBatch(len(ids), count_targets(targets))
        xp, dtype = array_module(self._parameters[0].data), self._parameters[0].dtype
        if not whole.targets:
            return xp.full((), np.nan, dtype=dtype)
        options = _Options(whole, get_rng_state(), first_row(), self.model.training)
        offset = self.shares.rows(whole.rows).start

        def part(shares: Shares) -> tuple[np.ndarray, np.ndarray]:
            rows = shares.rows(whole.rows)
            return ids[rows.start - offset : rows.stop - offset], targets[rows.start - offset : rows.stop - offset]

        for worker in self._workers:
            worker.send(*part(worker.shares), options)
        before = [p.grad for p in self._trained]
        try:
            with no_nested_parallelism() if self._workers else nullcontext():
                nodes = _backward(self.model, self._trained, *part(self._own), self._own, self._pass_rows, options)
        finally:
            for p, gradient in zip(self._trained, before, strict=True):
                p.grad = gradient
            replies = [worker.receive() for worker in self._workers]  # an unread one would be the next step's
        total = TreeSum(self.shares.count, _add_sums)
        for node in nodes + [node for reply in replies for node in _nodes(reply)]:
            total.add(*node)
        ((_, _, value),) = total.nodes
        if value is None:
            return xp.zeros((), dtype=dtype)
        in_shared_memory = all(own is None for _, _, own in nodes)  # where the next step puts its own
        for p, gradient in zip(self._trained, value.gradients, strict=True):
            if gradient is not None:
                gradient = gradient.copy() if in_shared_memory else gradient
                p.grad = gradient if p.grad is None else _add(p.grad, gradient)
        return value.loss

    def _share_parameters(self) -> None:
        """Keep the parameters' arrays, which may have been replaced, where other processes, if any, see them."""
        for p, shared in zip(self._parameters, self._shared, strict=False):
            if p.data is not shared:
                np.copyto(shared, p.data, casting="no")
                p.data = shared


class _Sum(NamedTuple):
    """What some shares have computed: their part of the loss, and a gradient, or None, for each parameter."""

    loss: Any
    gradients: list


def _add_sums(one: _Sum, other: _Sum) -> _Sum:
    """Their sum; may use the arrays of the first, and leaves those of the second."""
    pairs = zip(one.gradients, other.gradients, strict=True)
    return _Sum(one.loss + other.loss, parallel_map(lambda pair: _add(*pair), pairs))


def _add(one: Any, other: Any) -> Any:
    if one is None or other is None:
        return one if other is None else other.copy()
    one += other
    return one


class _Worker:
    """A forked process with a block of the shares, seen from the first process."""

    def __init__(self, model: Module, parameters: list[Parameter], shares: Shares, pass_rows: int | None):
        self.shares = shares
        self._gradients = [_shared_like(parameters) for _ in shares.nodes()]
        self._connection, theirs = Pipe()
        pid = os.fork()
        if pid == 0:
            try:
                self._connection.close()
                with no_nested_parallelism():
                    _serve(theirs, model, parameters, shares, pass_rows, self._gradients)
            finally:
                os._exit(0)  # without running what the first process registered for its own exit
        theirs.close()
        weakref.finalize(self, _kill, pid)

    def send(self, *task) -> None:
        with suppress(OSError):  # it was killed, as `receive` will find
            self._connection.send(task)

    def receive(self) -> Any:
        """Its nodes of the tree, or the exception that it ended with."""
        try:
            reply = self._connection.recv()
        except (EOFError, OSError):
            return ChildProcessError("a process that worked on a share of the batch was killed")
        if isinstance(reply, Exception):
            return reply
        return [(*span, self._sum(i, *value) if value else None) for i, (*span, value) in enumerate(reply)]

    def _sum(self, node: int, loss: Any, present: list[bool]) -> _Sum:
        gradients = zip(self._gradients[node], present, strict=True)
        return _Sum(loss, [gradient if there else None for gradient, there in gradients])


def _nodes(reply: Any) -> list:
    """What a worker has computed; raises what it has raised."""
    if isinstance(reply, Exception):
        raise reply
    return reply


def _serve(
    connection: Any, model: Module, parameters: list, shares: Shares, pass_rows: int | None, gradients: list
) -> None:
    """The loop of a forked process, until the first one closes the connection or exits."""
    for number in (
        signal.SIGINT,
        signal.SIGTERM,
        signal.SIGHUP,
    ):  # they reach the whole process group; the parent decides
        signal.signal(number, signal.SIG_IGN)
    while True:
        try:
            ids, targets, options = connection.recv()
        except EOFError:
            return
        reply: list | Exception
        try:
            reply = _put_nodes(_backward(model, parameters, ids, targets, shares, pass_rows, options), gradients)
        except Exception as error:
            reply = error
        connection.send(reply)


def _put_nodes(nodes: list, places: list) -> list:
    """Copy the gradients of nodes into shared memory; returns for each its shares, loss, and which gradients it has."""
    reply = []
    for (first, stop, value), arrays in zip(nodes, places, strict=True):
        present = [gradient is not None for gradient in value.gradients] if value else []
        for there, gradient, place in zip(present, value.gradients if value else [], arrays, strict=False):
            if there:
                np.copyto(place, gradient)
        reply.append((first, stop, (value.loss, present) if value else None))
    return reply


def count_targets(targets: np.ndarray) -> int:
    """How many targets count in a mean loss."""
    return int((targets != IGNORE).sum())


@dataclass(frozen=True)
class _Options:
    """What is the same for all shares of a step."""

    whole: WholeBatch
    rng_state: tuple
    first_row: int  # of this batch in a larger one
    training: bool


def _backward(
    model: Module,
    parameters: list[Parameter],
    ids: np.ndarray,
    targets: np.ndarray,
    shares: Shares,
    pass_rows: int | None,
    options: _Options,
) -> list:
    """Backpropagate the rows of these shares, ids and targets (B, T); returns their nodes of the tree of _Sums."""
    if model.training != options.training:
        model.train(options.training)
    total = TreeSum(shares.count, _add_sums)
    offset = shares.rows(options.whole.rows).start
    for share in shares.split(len(shares)):
        for p in parameters:
            p.grad = None
        rows = share.rows(options.whole.rows)
        loss = None
        for part in _parts(rows, pass_rows or max(1, PART_TOKENS // max(1, ids.shape[1]))):
            here = slice(part.start - offset, part.stop - offset)
            count = count_targets(targets[here])
            if not count:
                continue  # the mean over no targets would be NaN
            set_rng_state(options.rng_state)  # every part draws what the whole batch would
            with batch_rows(options.first_row + part.start):
                part_loss = model(ids[here], targets[here])
            weight = part_loss.dtype.type(count / options.whole.targets)
            part_loss.backward(weight)
            part_of_mean = part_loss.data * weight
            loss = part_of_mean if loss is None else part_of_mean + loss
        value = None if loss is None else _Sum(loss, [p.grad for p in parameters])
        total.add(share.first, share.stop, value)
    for p in parameters:
        p.grad = None
    return total.nodes


def _parts(rows: slice, most: int) -> list[slice]:
    """`rows` split evenly into parts of at most `most` rows."""
    if rows.start == rows.stop:
        return []
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

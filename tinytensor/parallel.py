"""Spreads a training step over the cores of a CPU: a thread for each part of the batch.

Floor 4. NumPy lets go of Python's lock while it computes, so threads that each take some rows of the batch through
forward and backward keep all cores busy with everything, not only with what BLAS can split. Every thread works on a
replica of the model that shares the parameters' arrays but has gradients of its own; these are then added in a fixed
order, so the result for a given number of threads repeats to the bit. A part is also kept small, which bounds the
memory of a step and keeps more of it in the cache.
"""

from __future__ import annotations

import copy
import os

from kernels.cpu.blocks import spread, thread_count
from tinytensor.nn import Module, Parameter
from tinytensor.random import next_seed, seeded

PART_TOKENS = 2048  # enough rows for the matrix products to run at full speed


def available_cores() -> int:
    """The cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class BatchParallel:
    """Computes `model(ids, targets)` and its gradients with the batch split over the threads of `use_threads`."""

    def __init__(self, model: Module):
        self.model = model
        self._replicas = [model] + [_replica(model) for _ in range(thread_count() - 1)]

    def backward(self, ids, targets, scale: float = 1.0):
        """Add the gradients of scale * loss to each parameter's `grad`: ids, targets (B, T) -> loss, a raw () array."""
        seed = next_seed()
        threads = min(len(self._replicas), len(ids))
        self._share_parameters()

        def work(thread):
            return sum(
                _backward(self._replicas[thread], ids, targets, rows, scale, seed)
                for rows in _parts(ids.shape, threads, thread)
            )

        loss = sum(spread(work, range(threads)))
        self._collect_gradients()
        return loss

    def _share_parameters(self) -> None:
        """Let the replicas see the model's arrays and mode, which may have been replaced since."""
        for replica in self._replicas[1:]:
            replica.train(self.model.training)
            for own, shared in zip(replica.parameters(), self.model.parameters(), strict=True):
                own.data = shared.data

    def _collect_gradients(self) -> None:
        def collect(same):  # one parameter in all replicas, the model's first
            total, *others = same
            for own in others:
                if own.grad is not None:
                    total.grad += own.grad  # the model's own array: nobody else holds a leaf's gradient
                    own.grad = None

        spread(collect, zip(*(replica.parameters() for replica in self._replicas), strict=True))


def _replica(model: Module) -> Module:
    """A copy of the module tree whose Parameters are new but share the arrays."""
    return copy.deepcopy(model, {id(p): Parameter(p.data) for p in model.parameters()})


def _parts(shape, threads: int, thread: int) -> list[slice]:
    """The rows of a (B, T) batch that a thread takes: an equal share, in parts of about PART_TOKENS."""
    batch, time = shape
    start, stop = batch * thread // threads, batch * (thread + 1) // threads
    size = max(1, PART_TOKENS // max(1, time))
    return [slice(i, min(i + size, stop)) for i in range(start, stop, size)]


def _backward(model, ids, targets, rows, scale, seed):
    """Add the gradients of `rows`' share in scale * loss; returns their share in the loss."""
    with seeded(seed, rows.start):
        loss = model(ids[rows], targets[rows])
    share = loss.dtype.type((rows.stop - rows.start) / len(ids))
    loss.backward((share * loss.dtype.type(scale)).reshape(()))
    return share * loss.data

"""How processes of one run, its ranks, exchange arrays: the interface, and MPI behind it.

An MPI launcher (`mpiexec -n 4`, `srun`) starts one process per rank, on one machine or on several. Every rank makes the
same calls in the same order. Arrays are flat and contiguous; counts are numbers of values, one for each rank. A
communicator moves values and never adds them, so that it has no say in how sums are rounded.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np

from tinytensor.backend import array_module, device_of, to_numpy
from tinytensor.parallel.processes import available_cores
from tinytensor.parallel.shared_memory import SharedBuffers, have_room


class Communicator(ABC):
    """The ranks of a run, seen from one of them.

    rank, size: its number and how many there are; local_rank, local_size: the same among those of its machine.
    bytes_sent: what this rank has sent to others in all_to_all and all_gather, where what goes to each of them counts.
    """

    rank = 0
    size = 1
    local_rank = 0
    local_size = 1
    bytes_sent = 0

    def reserve(self, nbytes: int) -> None:  # noqa: B027  # most need not
        """Prepare to send up to so many bytes at once from arrays of `outgoing`; all ranks call it with one number."""

    def outgoing(self, count: int, like: Any) -> Any:
        """An array of `count` values to fill and to send next, of the device and dtype of `like`.

        Where the ranks share memory, the others read it where it is. It must not be used after it was sent.
        """
        return array_module(like).empty(count, dtype=like.dtype)

    def all_to_all(self, x: Any, send: Sequence[int], receive: Sequence[int]) -> list[Any]:
        """Send the first send[0] values of x to rank 0, the next send[1] to rank 1, ...; returns what came from each.

        That is valid until the next exchange, and not to be written into.
        """
        self.bytes_sent += (len(x) - send[self.rank]) * x.dtype.itemsize
        return self._all_to_all(x, send, receive)

    def all_gather(self, x: Any, counts: Sequence[int]) -> list[Any]:
        """The arrays of all ranks; counts are their lengths. Valid as those of `all_to_all`."""
        self.bytes_sent += len(x) * (self.size - 1) * x.dtype.itemsize
        return self._all_gather(x, counts)

    @abstractmethod
    def _all_to_all(self, x: Any, send: Sequence[int], receive: Sequence[int]) -> list[Any]: ...

    @abstractmethod
    def _all_gather(self, x: Any, counts: Sequence[int]) -> list[Any]: ...

    @abstractmethod
    def broadcast(self, x: Any) -> None:
        """Replace the values of x by those that it has in rank 0."""

    @abstractmethod
    def barrier(self) -> None:
        """Wait until every rank has come here."""

    def exchange(self, text: str) -> list[str]:
        """The texts of all ranks."""
        data = np.frombuffer(text.encode(), np.uint8)
        sizes = [int(size[0]) for size in self._all_gather(np.array([data.size]), [1] * self.size)]
        return [text.tobytes().decode() for text in self._all_gather(data, sizes)]

    def any(self, flag: bool) -> bool:
        """Whether the flag is true in at least one rank."""
        return any(self._all_gather(np.array([flag]), [1] * self.size))


def split(values: Any, counts: Sequence[int]) -> list[Any]:
    """Views of the first counts[0] values, the next counts[1], ..."""
    return [values[end - count : end] for count, end in zip(counts, accumulate(counts), strict=True)]


def own_cores(processes: int, ranks: Communicator) -> int:
    """How many cores a rank uses: `processes`, or if that is 0, its part of those that are available."""
    return processes or max(1, available_cores() // ranks.local_size)


class OneRank(Communicator):
    """A process alone."""

    def _all_to_all(self, x, send, receive):
        return [x]

    def _all_gather(self, x, counts):
        return [x]

    def broadcast(self, x: Any) -> None:
        """Nothing to replace."""

    def barrier(self) -> None:
        """Nothing to wait for."""


ONE_RANK = OneRank()


class MPIRanks(Communicator):
    """The processes of an mpi4py communicator. Arrays of a GPU, emulated or not, go through the host's memory.

    Those of the host that `outgoing` returned are not copied if all ranks are on one machine.
    """

    def __init__(self, comm: Any):
        self._comm = comm
        self.rank, self.size = comm.Get_rank(), comm.Get_size()
        machine = comm.Split_type(_mpi().COMM_TYPE_SHARED)
        self.local_rank, self.local_size = machine.Get_rank(), machine.Get_size()
        self._shared: SharedBuffers | None = None

    def reserve(self, nbytes: int) -> None:
        """Make buffers in memory that all ranks share, if they are on one machine that has room for them."""
        self._shared = None
        if self.local_size == self.size and not self.any(not have_room(2 * self.size * nbytes)):
            self._shared = SharedBuffers(_mpi(), self._comm, nbytes)

    def outgoing(self, count: int, like: Any) -> Any:
        """An array of `count` values to fill and to send next, of the device and dtype of `like`."""
        if self._shared is None or array_module(like) is not np:
            return super().outgoing(count, like)
        return self._shared.next(count, like.dtype)

    def _all_to_all(self, x, send, receive):
        if self._shared is not None and self._shared.holds(x):
            return self._shared.exchange([0, *accumulate(send[:-1])], receive, x.dtype)
        received = np.empty(sum(receive), x.dtype)
        self._comm.Alltoallv([to_numpy(x), list(send)], [received, list(receive)])
        return split(device_of(x).put(received), receive)

    def _all_gather(self, x, counts):
        if self._shared is not None and self._shared.holds(x):
            return self._shared.exchange([0] * self.size, counts, x.dtype)
        received = np.empty(sum(counts), x.dtype)
        self._comm.Allgatherv(to_numpy(x), [received, list(counts)])
        return split(device_of(x).put(received), counts)

    def broadcast(self, x: Any) -> None:
        """Replace the values of x by those that it has in rank 0."""
        values = to_numpy(x)
        self._comm.Bcast(values)
        if array_module(x) is not np and self.rank:
            x[...] = device_of(x).put(values)

    def barrier(self) -> None:
        """Wait until every rank has come here."""
        self._comm.Barrier()

    def abort(self, code: int) -> None:
        """End all ranks at once, wherever they are, with this exit code."""
        self._comm.Abort(code)


def world() -> MPIRanks:
    """All processes that the launcher started; initializes MPI. ImportError without mpi4py or an MPI library."""
    return MPIRanks(_mpi().COMM_WORLD)


def _mpi() -> Any:
    from mpi4py import MPI  # optional, and initializes MPI

    return MPI

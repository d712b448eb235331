"""How processes of one run, its ranks, exchange arrays: the interface, and MPI behind it.

An MPI launcher (`mpiexec -n 4`, `srun`) starts one process per rank, on one machine or on several. Every rank makes the
same calls in the same order. Arrays are flat and contiguous; counts are numbers of values, one for each rank. A
communicator moves values and never adds them, so that it has no say in how sums are rounded.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np

from tinytensor.backend import array_module, device_of, to_numpy
from tinytensor.parallel.processes import available_cores


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

    def all_to_all(self, x: Any, send: Sequence[int], receive: Sequence[int]) -> Any:
        """Send the first send[0] values of x to rank 0, the next send[1] to rank 1, ...; returns what came, by rank."""
        self.bytes_sent += (len(x) - send[self.rank]) * x.dtype.itemsize
        return self._all_to_all(x, send, receive)

    def all_gather(self, x: Any, counts: Sequence[int]) -> Any:
        """The arrays of all ranks, one behind the other; counts are their lengths."""
        self.bytes_sent += len(x) * (self.size - 1) * x.dtype.itemsize
        return self._all_gather(x, counts)

    @abstractmethod
    def _all_to_all(self, x: Any, send: Sequence[int], receive: Sequence[int]) -> Any: ...

    @abstractmethod
    def _all_gather(self, x: Any, counts: Sequence[int]) -> Any: ...

    @abstractmethod
    def broadcast(self, x: Any) -> None:
        """Replace the values of x by those that it has in rank 0."""

    @abstractmethod
    def barrier(self) -> None:
        """Wait until every rank has come here."""

    def exchange(self, text: str) -> list[str]:
        """The texts of all ranks."""
        data = np.frombuffer(text.encode(), np.uint8)
        sizes = self._all_gather(np.array([data.size]), [1] * self.size).tolist()
        everything = self._all_gather(data, sizes).tobytes()
        ends = np.cumsum(sizes).tolist()
        return [everything[end - size : end].decode() for size, end in zip(sizes, ends, strict=True)]

    def any(self, flag: bool) -> bool:
        """Whether the flag is true in at least one rank."""
        return bool(self._all_gather(np.array([flag]), [1] * self.size).any())


def own_cores(processes: int, ranks: Communicator) -> int:
    """How many cores a rank uses: `processes`, or if that is 0, its part of those that are available."""
    return processes or max(1, available_cores() // ranks.local_size)


class OneRank(Communicator):
    """A process alone."""

    def _all_to_all(self, x, send, receive):
        return x

    def _all_gather(self, x, counts):
        return x

    def broadcast(self, x: Any) -> None:
        """Nothing to replace."""

    def barrier(self) -> None:
        """Nothing to wait for."""


ONE_RANK = OneRank()


class MPIRanks(Communicator):
    """The processes of an mpi4py communicator. Arrays of a GPU, emulated or not, go through the host's memory."""

    def __init__(self, comm: Any):
        self._comm = comm
        self.rank, self.size = comm.Get_rank(), comm.Get_size()
        machine = comm.Split_type(_mpi().COMM_TYPE_SHARED)
        self.local_rank, self.local_size = machine.Get_rank(), machine.Get_size()

    def _all_to_all(self, x, send, receive):
        received = np.empty(sum(receive), x.dtype)
        self._comm.Alltoallv([to_numpy(x), list(send)], [received, list(receive)])
        return device_of(x).put(received)

    def _all_gather(self, x, counts):
        received = np.empty(sum(counts), x.dtype)
        self._comm.Allgatherv(to_numpy(x), [received, list(counts)])
        return device_of(x).put(received)

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

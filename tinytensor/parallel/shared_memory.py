"""Memory that the ranks of one machine share: what one writes there, the others read where it is."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

PLACE = "/dev/shm"  # where MPI libraries on Linux have it; writing to more than fits there is a SIGBUS
PART = 4  # so at most a quarter of what is free there
LINE = 64  # bytes of a line of the cache


def have_room(nbytes: int) -> bool:
    """Whether that much memory can be shared."""
    try:
        free = os.statvfs(PLACE)
    except OSError:
        return False
    return nbytes <= free.f_bavail * free.f_frsize // PART


class SharedBuffers:
    """Two buffers of `nbytes` for each rank of an mpi4py communicator on one machine; all ranks make them together.

    A rank fills one, waits at a barrier, and reads those of the others. Meanwhile it may fill its second one; to fill
    the first again is safe after the second barrier, to which no rank comes before it has read the first. So an
    exchange takes one barrier, and copies nothing.
    """

    def __init__(self, mpi: Any, comm: Any, nbytes: int):
        size, self._comm, self._rank, self._turn = comm.Get_size(), comm, comm.Get_rank(), 0
        self._header = _whole_lines(8 * size)  # where each rank finds its values
        self._bytes = self._header + _whole_lines(nbytes)
        self._window = mpi.Win.Allocate_shared(2 * self._bytes, 1, comm=comm)
        self._window.Lock_all(mpi.MODE_NOCHECK)  # `Sync` is allowed between this and `Unlock_all`
        memory = [np.frombuffer(self._window.Shared_query(rank)[0], np.uint8) for rank in range(size)]
        self._buffers = [(one[: self._bytes], one[self._bytes : 2 * self._bytes]) for one in memory]

    def next(self, count: int, dtype: Any) -> np.ndarray:
        """The buffer to fill, as `count` values. ValueError if they do not fit."""
        values, size = self._buffers[self._rank][self._turn][self._header :], count * np.dtype(dtype).itemsize
        if size > len(values):
            raise ValueError(f"{size} bytes do not fit into a buffer of {len(values)}")
        return values[:size].view(dtype)

    def holds(self, x: Any) -> bool:
        """Whether x is what `next` returned."""
        return isinstance(x, np.ndarray) and x.ctypes.data == self.next(0, np.uint8).ctypes.data

    def exchange(self, starts: Sequence[int], counts: Sequence[int], dtype: Any) -> list[np.ndarray]:
        """Let rank r read the filled buffer from value starts[r] on; returns counts[r] values of each rank r.

        They are read-only, and valid until the next exchange.
        """
        self._header_of(self._rank)[...] = starts
        self._window.Sync()
        self._comm.Barrier()
        self._window.Sync()
        received = []
        for rank, count in enumerate(counts):
            values = self._buffers[rank][self._turn][self._header :].view(dtype)
            start = self._header_of(rank)[self._rank]
            received.append(values[start : start + count])
            received[-1].flags.writeable = False
        self._turn = 1 - self._turn
        return received

    def _header_of(self, rank: int) -> np.ndarray:
        return self._buffers[rank][self._turn][: 8 * len(self._buffers)].view(np.int64)


def _whole_lines(nbytes: int) -> int:
    return -(-nbytes // LINE) * LINE

"""Ranks with a GPU each, whose arrays NCCL moves from GPU to GPU.

CuPy's binding of NCCL takes addresses, counts and streams. MPI carries NCCL's identifier to all ranks at the start, and
arrays of the host (texts, flags, counts) later on. Calls are enqueued on the current stream, like any kernel, and do
not synchronize the device.
"""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import numpy as np

from tinytensor.backend import array_module
from tinytensor.parallel.ranks import Communicator, MPIRanks, split

DTYPES = {"float16": "NCCL_FLOAT16", "float32": "NCCL_FLOAT32", "float64": "NCCL_FLOAT64", "int64": "NCCL_INT64"}


class NCCLRanks(Communicator):
    """The ranks of `host`, each with another GPU, which is the current one.

    nccl: the module `cupy.cuda.nccl`. Its identifier of 128 signed bytes comes from rank 0.
    """

    def __init__(self, host: MPIRanks, nccl: Any):
        self.host, self._nccl = host, nccl
        self.rank, self.size = host.rank, host.size
        self.local_rank, self.local_size = host.local_rank, host.local_size
        self._made: Any = None

    @property
    def _comm(self) -> Any:
        """NCCL's communicator, which all ranks make together when they first need it."""
        if self._made is None:
            identifier = np.array(self._nccl.get_unique_id() if self.rank == 0 else [0] * 128, np.int8)
            self.host.broadcast(identifier)
            self._made = self._nccl.NcclCommunicator(self.size, tuple(identifier.tolist()), self.rank)
        return self._made

    def _all_to_all(self, x, send, receive):
        if array_module(x) is np:
            return self.host._all_to_all(x, send, receive)
        xp, size = array_module(x), x.dtype.itemsize
        received = xp.empty(sum(receive), dtype=x.dtype)
        kind, stream = self._kind(x), xp.cuda.get_current_stream().ptr
        outgoing, incoming = (list(accumulate(counts, initial=0)) for counts in (send, receive))
        comm = self._comm
        # grouped, as a send waits for its recv: one after the other, the ranks would wait for each other forever
        self._nccl.groupStart()
        for peer in range(self.size):
            if send[peer]:
                comm.send(x.data.ptr + outgoing[peer] * size, send[peer], kind, peer, stream)
            if receive[peer]:
                comm.recv(received.data.ptr + incoming[peer] * size, receive[peer], kind, peer, stream)
        self._nccl.groupEnd()
        return split(received, receive)

    def _all_gather(self, x, counts):
        if array_module(x) is np:
            return self.host._all_gather(x, counts)
        xp = array_module(x)
        received = xp.empty(sum(counts), dtype=x.dtype)
        kind, stream = self._kind(x), xp.cuda.get_current_stream().ptr
        if len(set(counts)) == 1 and counts[0]:
            self._comm.allGather(x.data.ptr, received.data.ptr, counts[0], kind, stream)
            return split(received, counts)
        # NCCL's own takes equal counts only; a broadcast from every rank, grouped, moves the same bytes
        starts, comm = accumulate(counts, initial=0), self._comm
        self._nccl.groupStart()
        for root, (count, start) in enumerate(zip(counts, starts, strict=False)):
            if count:
                target = received.data.ptr + start * x.dtype.itemsize
                source = x.data.ptr if root == self.rank else target
                comm.broadcast(source, target, count, kind, root, stream)
        self._nccl.groupEnd()
        return split(received, counts)

    def broadcast(self, x: Any) -> None:
        """Replace the values of x by those that it has in rank 0."""
        if array_module(x) is np:
            self.host.broadcast(x)
        elif x.size:
            stream = array_module(x).cuda.get_current_stream().ptr
            self._comm.broadcast(x.data.ptr, x.data.ptr, x.size, self._kind(x), 0, stream)

    def barrier(self) -> None:
        """Wait until every rank has come here; what was enqueued on the GPUs may still run."""
        self.host.barrier()

    def abort(self, code: int) -> None:
        """End all ranks at once, wherever they are, with this exit code."""
        self.host.abort(code)

    def _kind(self, x: Any) -> int:
        return getattr(self._nccl, DTYPES[str(x.dtype)])

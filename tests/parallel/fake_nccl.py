"""NCCL for ranks that are threads, on emulated devices: it moves the bytes, and is strict about how it is called.

It does what NCCL's user guide says, as CuPy passes it on (`cupy.cuda.nccl`): a send needs a recv of the same count and
type in its peer, and both wait for each other, so those that depend on one another must be in one group; collective
calls come in the same order in all ranks, with the same count, type and root; addresses, counts and streams are plain
integers. What would hang or be undefined there is an AssertionError here.
"""

import ctypes
import threading

import numpy as np

TYPES = {2: np.int32, 4: np.int64, 6: np.float16, 7: np.float32, 8: np.float64}  # ncclDataType_t


class World:
    """What the ranks of one communicator share."""

    def __init__(self, size: int):
        self.size = size
        self.identifier = tuple((np.arange(128) - 64).tolist())
        self.barrier = threading.Barrier(size)
        self.board: list = [None] * size

    def post(self, rank: int, message) -> list:
        """The messages of all ranks, once each has one."""
        self.board[rank] = message
        self.barrier.wait(timeout=30)
        messages = list(self.board)
        self.barrier.wait(timeout=30)
        return messages


class FakeNccl:
    """The module, seen from one rank; `calls` records what it was asked for, as (name, arguments)."""

    available = True
    NCCL_INT64, NCCL_FLOAT16, NCCL_FLOAT32, NCCL_FLOAT64 = 4, 6, 7, 8

    def __init__(self, world: World, stream: int):
        self.world, self.stream = world, stream
        self.calls: list[tuple] = []
        self.group: list | None = None
        self.rank: int | None = None

    def get_unique_id(self) -> tuple:
        return self.world.identifier

    def NcclCommunicator(self, size, identifier, rank):
        assert type(identifier) is tuple
        assert all(type(byte) is int and -128 <= byte < 128 for byte in identifier)
        assert len(identifier) == 128
        assert self.world.post(rank, (size, identifier)) == [(self.world.size, self.world.identifier)] * size
        self.rank = rank
        return Communicator(self)

    def groupStart(self) -> None:
        assert self.group is None, "a group in a group"
        self.calls.append(("groupStart",))
        self.group = []

    def groupEnd(self) -> None:
        assert self.group is not None
        self.calls.append(("groupEnd",))
        group, self.group = self.group, None
        self.run(group)

    def submit(self, name, *operation) -> None:
        self.calls.append((name, *operation))
        if self.group is None:
            assert name not in ("send", "recv"), f"a {name} without a group waits for its peer forever"
            self.run([(name, *operation)])
        else:
            self.group.append((name, *operation))

    def run(self, group) -> None:
        """Do all operations of a group, together with those of the other ranks."""
        sent = []
        for name, source, _, count, kind, peer in group:
            if name == "send" or (name == "broadcast" and peer == self.rank) or name == "allGather":
                sent.append((name, peer, count, kind, memory(source, count, kind).copy()))
        everyone = self.world.post(self.rank, (sent, [(op[0], *op[3:]) for op in group]))
        collective = [[op for op in ops if op[0] in ("broadcast", "allGather")] for _, ops in everyone]
        assert all(ops == collective[0] for ops in collective), "collective calls differ between ranks"
        queues = [list(messages) for messages, _ in everyone]
        for name, _, target, count, kind, peer in group:
            if name == "recv":
                message = take(queues[peer], "send", self.rank)
                assert message[2:4] == (count, kind), "send and recv differ in count or type"
                memory(target, count, kind)[...] = message[4]
            elif name == "broadcast":
                memory(target, count, kind)[...] = take(queues[peer], "broadcast", peer)[4]
            elif name == "allGather":
                values = [take(queue, "allGather", None)[4] for queue in queues]
                memory(target, count * len(values), kind)[...] = np.concatenate(values)
        left = [message for queue in queues for message in queue if message[0] == "send" and message[1] == self.rank]
        assert not left, "a send without a recv"
        self.world.post(self.rank, None)


class Communicator:
    """`cupy.cuda.nccl.NcclCommunicator`, as far as it is used."""

    def __init__(self, nccl: FakeNccl):
        self._nccl = nccl

    def _submit(self, name, source, target, count, kind, peer, stream) -> None:
        assert kind in TYPES
        assert stream == self._nccl.stream, "not the current stream"
        for number in (source, target, count, kind, stream):
            assert isinstance(number, int)
        assert count > 0
        self._nccl.submit(name, source, target, count, kind, peer)

    def send(self, source, count, kind, peer, stream):
        assert 0 <= peer < self._nccl.world.size
        self._submit("send", source, 0, count, kind, peer, stream)

    def recv(self, target, count, kind, peer, stream):
        assert 0 <= peer < self._nccl.world.size
        self._submit("recv", 0, target, count, kind, peer, stream)

    def broadcast(self, source, target, count, kind, root, stream):
        self._submit("broadcast", source, target, count, kind, root, stream)

    def allGather(self, source, target, count, kind, stream):
        self._submit("allGather", source, target, count, kind, None, stream)


def take(queue: list, name: str, peer):
    """Remove and return the first message of this kind for this peer."""
    found = next((message for message in queue if message[:2] == (name, peer)), None)
    assert found, f"a recv or collective call without its {name}"
    queue.remove(found) if name == "send" else None
    return found


def memory(address: int, count: int, kind: int) -> np.ndarray:
    """The values at an address."""
    dtype = np.dtype(TYPES[kind])
    assert address % dtype.itemsize == 0
    return np.frombuffer((ctypes.c_char * (count * dtype.itemsize)).from_address(address), dtype)

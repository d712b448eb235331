"""Ranks that are threads of one process: as many as a test wants, without a launcher."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from tinytensor.backend import device_of, to_numpy
from tinytensor.parallel.ranks import Communicator


class ThreadRanks(Communicator):
    """One of the ranks that `run` starts; what it sends lies in a list that all threads see."""

    def __init__(self, rank: int, size: int, board: list, barrier: threading.Barrier):
        self.rank, self.size = rank, size
        self.local_rank, self.local_size = rank, size
        self._board, self._barrier = board, barrier

    def _post(self, message) -> list:
        self._board[self.rank] = message
        self._barrier.wait(timeout=30)
        messages = list(self._board)
        self._barrier.wait(timeout=30)
        return messages

    def _all_to_all(self, x, send, receive):
        assert x.size == sum(send)
        starts = np.cumsum([0, *send])
        parts = [to_numpy(x)[start : start + count].copy() for start, count in zip(starts, send, strict=False)]
        received = [messages[self.rank] for messages in self._post(parts)]
        assert [part.size for part in received] == list(receive)
        return [device_of(x).put(part) for part in received]

    def _all_gather(self, x, counts):
        received = self._post(to_numpy(x).copy())
        assert [part.size for part in received] == list(counts)
        return [device_of(x).put(part) for part in received]

    def broadcast(self, x) -> None:
        x[...] = device_of(x).put(self._post(to_numpy(x).copy())[0])

    def barrier(self) -> None:
        self._barrier.wait(timeout=30)


def run(size: int, work) -> list:
    """[work(ranks) of each rank]; the first exception of a rank is raised."""
    barrier, board = threading.Barrier(size), [None] * size

    def of_rank(rank):
        try:
            return work(ThreadRanks(rank, size, board, barrier))
        except BaseException:
            barrier.abort()
            raise

    with ThreadPoolExecutor(size) as pool:
        futures = [pool.submit(of_rank, rank) for rank in range(size)]
    errors = [future.exception() for future in futures]
    for error in sorted(filter(None, errors), key=lambda error: isinstance(error, threading.BrokenBarrierError)):
        raise error
    return [future.result() for future in futures]

"""`cupy.cuda` of the emulated device: one device, one stream on which everything has always finished.

Floor 0. Only the names that our code uses. Memory is counted as arrays come and go, and `track_peak` tells the most
that was ever in use. Read `arrays.py` next.
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import contextmanager
from types import SimpleNamespace

from kernels.emulator.module import SHARED_MEMORY_PER_BLOCK_OPTIN

__all__ = [
    "Device",
    "Event",
    "MemoryPointer",
    "MemoryPool",
    "Stream",
    "get_current_stream",
    "get_elapsed_time",
    "runtime",
]

ATTRIBUTES = {  # of compute capability 8.6, like the limits in module.py
    "MaxSharedMemoryPerBlockOptin": SHARED_MEMORY_PER_BLOCK_OPTIN,
    "MaxSharedMemoryPerMultiprocessor": 100 << 10,
    "MultiProcessorCount": os.cpu_count() or 1,
    "ReservedSharedMemoryPerBlock": 1 << 10,
    "WarpSize": 32,
}


class MemoryPool:
    """Counts the bytes of all live arrays."""

    def __init__(self):
        # reentrant: the garbage collector may free an array in the middle of `_take`
        self._lock = threading.RLock()
        self._used = self._peak = 0

    def _take(self, size: int) -> None:
        with self._lock:
            self._used += size
            self._peak = max(self._peak, self._used)

    def _give(self, size: int) -> None:
        with self._lock:
            self._used -= size

    def used_bytes(self) -> int:
        return self._used

    def total_bytes(self) -> int:
        return self._used

    def free_all_blocks(self) -> None:
        """Nothing: this pool keeps no memory back."""


POOL = MemoryPool()


@contextmanager
def track_peak():
    """Inside and after `with track_peak() as peak:`, `peak()` is the most bytes that arrays held at once inside."""
    with POOL._lock:
        POOL._peak = POOL._used
    last = None
    yield lambda: POOL._peak if last is None else last
    last = POOL._peak


class MemoryPointer:
    """Where an array's first element lies."""

    def __init__(self, ptr: int):
        self.ptr = ptr
        self.device = Device(0)
        self.device_id = 0


class Flags:
    """Memory layout of an array: c_contiguous, f_contiguous, owndata."""

    def __init__(self, flags, owndata: bool):
        self.c_contiguous, self.f_contiguous, self.owndata = flags.c_contiguous, flags.f_contiguous, owndata


class Device:
    """The only device there is, number 0; `with Device(0):` as in CuPy."""

    compute_capability = "86"

    def __init__(self, device=0):
        if int(device):
            raise ValueError(f"device {int(device)}: the emulated device is the only one and has number 0")
        self.id = 0
        self.attributes = ATTRIBUTES

    def __int__(self):
        return self.id

    def __eq__(self, other):
        return isinstance(other, Device)

    def __hash__(self):
        return hash(Device)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        pass

    def use(self):
        return self

    def synchronize(self) -> None:
        """Nothing to wait for."""

    @property
    def mem_info(self) -> tuple[int, int]:
        return _mem_get_info()


class Stream:
    """The one stream."""

    def __init__(self, null=False, non_blocking=False, ptds=False):
        self.ptr = 0

    def synchronize(self) -> None:
        """Nothing to wait for."""


class Event:
    """A moment on the stream, which here is the moment of `record`."""

    def __init__(self, block=False, disable_timing=False, interprocess=False):
        self._time = 0.0

    def record(self, stream=None) -> None:
        self._time = time.perf_counter()

    def synchronize(self) -> None:
        """Nothing to wait for."""


def get_elapsed_time(start_event: Event, end_event: Event) -> float:
    """Milliseconds between two events."""
    return 1e3 * (end_event._time - start_event._time)


_stream = Stream(null=True)


def get_current_stream() -> Stream:
    return _stream


def _mem_get_info() -> tuple[int, int]:
    """(free, total) bytes: the machine's memory, of which only live arrays count as taken."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return total - POOL.used_bytes(), total


runtime = SimpleNamespace(
    memGetInfo=_mem_get_info,
    getDeviceCount=lambda: 1,
    getDevice=lambda: 0,
    getDeviceProperties=lambda device: {"name": b"emulated device", "totalGlobalMem": _mem_get_info()[1]},
    deviceSynchronize=lambda: None,
)

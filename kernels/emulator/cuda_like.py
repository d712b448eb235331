"""`cupy.cuda` of the emulated device: two devices, and one stream on which all work has always finished.

Only the names that our code uses. As in CUDA, each thread has a current device, number 0 at first, on which arrays are
allocated. Memory is counted as arrays come and go, and `track_peak` reports the peak. Read
`arrays.py` next.
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from kernels.emulator import cublas_like, module

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

# KiB of a multiprocessor, by compute capability; a block may opt in to all but one of them, on 7.5 to all
SHARED_MEMORY = {
    "75": 64,
    "80": 164,
    "86": 100,
    "89": 100,
    "90": 228,
}
ATTRIBUTES = {  # of compute capability 8.6, like the limits in module.py
    "MaxSharedMemoryPerBlockOptin": module.SHARED_MEMORY_PER_BLOCK_OPTIN,
    "MaxSharedMemoryPerMultiprocessor": SHARED_MEMORY["86"] << 10,
    "MultiProcessorCount": os.cpu_count() or 1,
    "ReservedSharedMemoryPerBlock": 1 << 10,
    "WarpSize": 32,
}
DEVICES = 2  # so that code for several GPUs can be tested: they have no peer access


class _Current(threading.local):
    """This thread's current device, and those that `with Device(i)` will return to."""

    def __init__(self):
        self.device, self.outer = 0, []


_current = _Current()


def check_current(device: int) -> None:
    """Raise ValueError, as CuPy does where there is no peer access, unless `device` is this thread's current one."""
    if device != _current.device:
        raise ValueError(
            f"The device where the array resides ({device}) is different from the current device ({_current.device}). "
            "Peer access is unavailable between these devices."
        )


class MemoryPool:
    """Counts the bytes of all live arrays, for each device separately as CuPy does."""

    def __init__(self):
        # reentrant: the garbage collector may free an array in the middle of `_take`
        self._lock = threading.RLock()
        self._used, self._peak = [0] * DEVICES, 0

    def _take(self, size: int, device: int) -> None:
        with self._lock:
            self._used[device] += size
            self._peak = max(self._peak, sum(self._used))

    def _give(self, size: int, device: int) -> None:
        with self._lock:
            self._used[device] -= size

    def used_bytes(self) -> int:
        """Of the current device."""
        return self._used[_current.device]

    def total_bytes(self) -> int:
        return self.used_bytes()

    def free_all_blocks(self) -> None:
        """Nothing to do: this pool caches no memory."""


POOL = MemoryPool()


@contextmanager
def compute_capability(name: str):
    """Inside, the emulated devices report the shared memory of a GPU of this compute capability, "75" to "90"."""
    before = dict(ATTRIBUTES)
    kib = SHARED_MEMORY[name]
    module.SHARED_MEMORY_PER_BLOCK_OPTIN = (kib if name == "75" else kib - 1) << 10
    ATTRIBUTES["MaxSharedMemoryPerBlockOptin"] = module.SHARED_MEMORY_PER_BLOCK_OPTIN
    ATTRIBUTES["MaxSharedMemoryPerMultiprocessor"] = kib << 10
    ATTRIBUTES["ReservedSharedMemoryPerBlock"] = 0 if name == "75" else 1 << 10
    try:
        yield
    finally:
        ATTRIBUTES.update(before)
        module.SHARED_MEMORY_PER_BLOCK_OPTIN = before["MaxSharedMemoryPerBlockOptin"]


@contextmanager
def track_peak():
    """Inside and after `with track_peak() as peak:`, `peak()` is the most bytes that arrays held at once inside.

    The arrays of both devices count.
    """
    with POOL._lock:
        POOL._peak = sum(POOL._used)
    last = None
    yield lambda: POOL._peak if last is None else last
    last = POOL._peak


class Address(int):
    """An address that remembers the array there, so that what is given addresses can check them."""

    array: Any


class MemoryPointer:
    """The address of an array's first element."""

    def __init__(self, array: Any, device: int):
        self._array, self.device_id = array, device

    @property
    def ptr(self) -> Address:
        address = Address(self._array.host.ctypes.data)
        address.array = self._array
        return address

    @property
    def device(self) -> Device:
        return Device(self.device_id)


class Flags:
    """Memory layout of an array: c_contiguous, f_contiguous, owndata; `flags["C_CONTIGUOUS"]` as well."""

    def __init__(self, flags, owndata: bool):
        self.c_contiguous, self.f_contiguous, self.owndata = flags.c_contiguous, flags.f_contiguous, owndata

    def __getitem__(self, name: str) -> bool:
        return {"C_CONTIGUOUS": self.c_contiguous, "F_CONTIGUOUS": self.f_contiguous, "OWNDATA": self.owndata}[name]


class Device:
    """One of the devices, by default the current one; `with Device(1):` makes it current inside, as in CuPy."""

    compute_capability = "86"

    def __init__(self, device=None):
        self.id = _current.device if device is None else int(device)
        if not 0 <= self.id < DEVICES:
            raise ValueError(f"device {self.id}: there are {DEVICES} emulated devices, numbered from 0")
        self.attributes = ATTRIBUTES

    def __int__(self):
        return self.id

    def __eq__(self, other):
        return isinstance(other, Device) and self.id == other.id

    def __hash__(self):
        return hash((Device, self.id))

    def __enter__(self):
        _current.outer.append(_current.device)
        return self.use()

    def __exit__(self, *exception):
        _current.device = _current.outer.pop()

    def use(self):
        _current.device = self.id
        return self

    cublas_handle = 0  # the emulated cuBLAS has no state

    def synchronize(self) -> None:
        """Nothing to wait for."""

    @property
    def mem_info(self) -> tuple[int, int]:
        return _mem_get_info()


class Stream:
    """The only stream."""

    def __init__(self, null=False, non_blocking=False, ptds=False):
        self.ptr = 0

    def synchronize(self) -> None:
        """Nothing to wait for."""


class Event:
    """A point on the stream, which here is the time of `record`."""

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
cublas = cublas_like


def get_current_stream() -> Stream:
    """The only stream there is."""
    return _stream


def _mem_get_info() -> tuple[int, int]:
    """(free, total) bytes: the machine's memory, of which only the current device's live arrays count as in use."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return total - POOL.used_bytes(), total


runtime = SimpleNamespace(
    memGetInfo=_mem_get_info,
    getDeviceCount=lambda: DEVICES,
    getDevice=lambda: _current.device,
    getDeviceProperties=lambda device: {"name": b"emulated device", "totalGlobalMem": _mem_get_info()[1]},
    deviceSynchronize=lambda: None,
)

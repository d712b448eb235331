"""Devices, and the two switches that let one source run on NumPy and CuPy.

`xp = array_module(x)` is the namespace that made `x` (numpy, cupy, or the emulated device's substitute for cupy);
`k = kernels_for(x)` holds the fused primitives for it. The array decides, so no operation ever asks which device it
runs on.

Several GPUs follow CuPy's rule of a current device per thread, number 0 at first. `Device.put` works for any GPU; to
compute on another than the first, make it current with `device("cuda:1").use()`. An operation on an array of a GPU
that is not current is refused, because CuPy would leave its result on the wrong one. Read `tensor.py` next.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import warnings
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

try:
    from kernels.namespace import EMULATED, DeviceError, array_module, device_name
except ImportError:
    found = importlib.util.find_spec("kernels")  # Hugging Face has a package of this name too
    if found is None or any(Path(p, "namespace.py").exists() for p in found.submodule_search_locations or ()):
        raise
    raise ImportError(
        f"tinytensor needs its own package 'kernels', but Python finds a different one first ({found.origin}): "
        "pip uninstall kernels and install tinytensor again, or run from tinytensor's clone"
    ) from None

MAX_DIGITS = 9  # of a device's number


@functools.cache
def _kernels_on(xp: ModuleType) -> ModuleType:
    return importlib.import_module("kernels.cpu" if xp is np else "kernels.cuda")


def kernels_for(x: Any) -> ModuleType:
    """The fused primitives for `x`: `kernels.cpu` or `kernels.cuda`."""
    return _kernels_on(array_module(x))


def to_numpy(x: Any) -> np.ndarray:
    """`x` as a NumPy array, copied from the device if need be (which waits for the device)."""
    xp = array_module(x)
    return np.asarray(x) if xp is np else xp.asnumpy(x)


@dataclass(frozen=True)
class Device:
    """A place where arrays live. name: "cpu", "cuda:0", "emulated"; xp: its array namespace; index: of the GPU."""

    name: str
    xp: ModuleType
    index: int = 0

    def use(self) -> Device:
        """Make this GPU the current one of this thread, on which operations run; nothing on the CPU. Returns self."""
        if self.xp is not np:
            self.xp.cuda.Device(self.index).use()
        return self

    def _current(self) -> AbstractContextManager:
        return nullcontext() if self.xp is np else self.xp.cuda.Device(self.index)

    def put(self, array):
        """`array`, from any device, as an array of this device (no copy if it is there already).

        Another GPU's array is copied from GPU to GPU, a NumPy array of any dtype through pinned memory, neither of
        which synchronizes the device. On its way to the CPU an array does.
        """
        if device_of(array) == self:
            return array
        with self._current():
            if array_module(array) is self.xp:
                return self.xp.asarray(array, order="C")  # CuPy copies between GPUs only what is contiguous
            return self.xp.asarray(to_numpy(array))

    def synchronize(self) -> None:
        """Wait until the device has finished everything it was given; at once on the CPU."""
        if self.xp is not np:
            with self._current():
                self.xp.cuda.get_current_stream().synchronize()

    def memory(self) -> tuple[int, int] | None:
        """(bytes in use by this process's arrays, bytes in all) of a GPU; None on the CPU."""
        if self.xp is np:
            return None
        with self._current():
            return self.xp.get_default_memory_pool().used_bytes(), self.xp.cuda.runtime.memGetInfo()[1]


def device(name: str | Device = "cpu") -> Device:
    """Find a device by name: "auto", "cpu", "cuda", "cuda:N", "emulated" or "emulated:1".

    A GPU is tried first (`kernels/cuda/probe.py`), and the current device stays what it is. "auto" is the first GPU,
    or the CPU where there is none; where there is one that cannot be used, it warns. Raises DeviceError when the
    device is missing or unusable.
    """
    if isinstance(name, Device):
        return name
    kind, _, index = str(name).partition(":")
    if name == "cpu":
        return Device("cpu", np)
    if name == "auto":
        return _automatic()
    if kind in ("cuda", "emulated") and (not index or (index.isdecimal() and len(index) <= MAX_DIGITS)):
        number = int(index or 0)
        xp = _gpu(number) if kind == "cuda" else _emulated(number)
        return Device(device_name(xp, number), xp, number)
    raise DeviceError(f"device {name!r}: must be auto, cpu, cuda, cuda:N or emulated")


def device_of(x: Any) -> Device:
    """The device on which the array `x` lies."""
    xp = array_module(x)
    if xp is np:
        return Device("cpu", np)
    return Device(device_name(xp, x.device.id), xp, x.device.id)


def find_nccl() -> ModuleType | None:
    """CuPy's binding of NCCL, which moves arrays between GPUs; None where that library is not installed."""
    nccl = importlib.import_module("cupy.cuda.nccl")
    return nccl if nccl.available else None


def _automatic() -> Device:
    """The first GPU, or the CPU; a warning where a GPU is present, or may be, but cannot be used."""
    probe = importlib.import_module("kernels.cuda.probe")
    found = 0
    try:
        found = probe.gpu_count()
        return device("cuda")
    except DeviceError as error:
        # without CuPy, a driver or a GPU there is nothing to warn of; an OSError leaves open whether there is one
        if found or isinstance(error.__cause__, OSError):
            warnings.warn(f"{error} (the CPU is used instead)", stacklevel=3)
        return device("cpu")


def _gpu(index: int) -> ModuleType:
    """cupy, once GPU `index` has been found usable."""
    return importlib.import_module("kernels.cuda.probe").usable_gpu(index)


def _emulated(index: int) -> ModuleType:
    """The emulated device's namespace, or a DeviceError where its kernels cannot be compiled or loaded."""
    emulator = importlib.import_module("kernels.emulator")
    if not emulator.available():
        raise DeviceError(f"device 'emulated': {emulator.MISSING}")
    try:
        emulator.runtime()
    except (OSError, RuntimeError, emulator.CompileError) as error:  # RuntimeError: there is no home directory
        remedy = "set TINYTENSOR_CACHE to a folder that can be written, CXX to another compiler, or use --device cpu"
        raise DeviceError(f"device 'emulated': cannot be used ({error}); {remedy}") from error
    xp = importlib.import_module(EMULATED)
    count = xp.cuda.runtime.getDeviceCount()
    if index >= count:
        raise DeviceError(f"device 'emulated:{index}': there are {count} emulated devices, numbered from 0")
    return xp

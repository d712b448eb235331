"""Devices, and the two switches that let one source run on NumPy and CuPy.

Floor 1, beside `tensor.py`. `xp = array_module(x)` is the namespace that made `x` (numpy, cupy, or the emulated
device's look-alike of cupy); `k = kernels_for(x)` holds the fused primitives for it. The array decides, so no op
ever asks which device it runs on. Read `tensor.py` next.
"""

from __future__ import annotations

import functools
import importlib
from dataclasses import dataclass
from types import ModuleType

import numpy as np

from kernels.namespace import EMULATED, array_module


class DeviceError(RuntimeError):
    """A device was asked for that this machine does not have; the message says what is missing."""


@functools.cache
def _kernels_on(xp: ModuleType) -> ModuleType:
    return importlib.import_module("kernels.cpu" if xp is np else "kernels.cuda")


def kernels_for(x) -> ModuleType:
    """The fused primitives for `x`: `kernels.cpu` or `kernels.cuda`."""
    return _kernels_on(array_module(x))


def to_numpy(x) -> np.ndarray:
    """`x` as a NumPy array, copied from the device if need be (which waits for the device)."""
    xp = array_module(x)
    return np.asarray(x) if xp is np else xp.asnumpy(x)


@dataclass(frozen=True)
class Device:
    """A place where arrays live. name: "cpu", "cuda:0", "emulated"; xp: its array namespace."""

    name: str
    xp: ModuleType

    def put(self, array):
        """`array`, from NumPy or from this device, as an array of this device (no copy if it is there already)."""
        if array_module(array) is self.xp:
            return array
        # CuPy copies by way of pinned memory, without waiting for the device
        return self.xp.asarray(to_numpy(array))

    def synchronize(self) -> None:
        """Wait until the device has finished everything it was given; at once on the CPU."""
        if self.xp is not np:
            self.xp.cuda.get_current_stream().synchronize()

    def memory(self) -> str:
        """Device memory in use for the progress bar, e.g. "1.2/2.0 GiB"; empty on the CPU."""
        if self.xp is np:
            return ""
        used = self.xp.get_default_memory_pool().used_bytes()
        total = self.xp.cuda.runtime.memGetInfo()[1]
        return f"{used / 2**30:.1f}/{total / 2**30:.1f} GiB"


def device(name: str | Device = "cpu") -> Device:
    """Find a device by name: "auto", "cpu", "cuda", "cuda:N" or "emulated".

    "auto" is the first GPU if there is a usable one, else the CPU. Raises DeviceError when the device is not there.
    """
    if isinstance(name, Device):
        return name
    kind, _, index = name.partition(":")
    if name == "cpu":
        return Device("cpu", np)
    if name == "emulated":
        return Device("emulated", _emulated())
    if kind == "cuda" and (index or "0").isdigit():
        return Device(f"cuda:{index or 0}", _cuda(int(index or 0)))
    if name == "auto":
        try:
            return device("cuda")
        except DeviceError:
            return device("cpu")
    raise DeviceError(f"device {name!r}: must be auto, cpu, cuda, cuda:N or emulated")


def device_of(x) -> Device:
    """The device on which the array `x` lies."""
    xp = array_module(x)
    if xp is np:
        return Device("cpu", np)
    return Device("emulated" if xp.__name__ == EMULATED else f"cuda:{x.device.id}", xp)


def _cuda(index: int) -> ModuleType:
    """cupy with GPU `index` made current, or a DeviceError that says what is missing."""
    try:
        import cupy
    except ImportError as error:
        raise DeviceError(
            f"device 'cuda': CuPy is missing; install it with pip install 'tinytensor[gpu]' ({error})"
        ) from None
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise DeviceError(f"device 'cuda': no usable NVIDIA GPU or driver here ({error}); use --device cpu") from None
    if index >= count:
        raise DeviceError(f"device 'cuda:{index}': this machine has {count} GPU(s), numbered from 0")
    cupy.cuda.Device(index).use()
    return cupy


def _emulated() -> ModuleType:
    """The emulated device's namespace, or a DeviceError where there is no compiler for its kernels."""
    emulator = importlib.import_module("kernels.emulator")
    if not emulator.available():
        raise DeviceError(f"device 'emulated': {emulator.MISSING}")
    return importlib.import_module(EMULATED)

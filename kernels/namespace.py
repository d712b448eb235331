"""Which library an array comes from, which device it is on, and the dtypes by name.

Shared by both kinds of kernels and by `tinytensor/backend.py`.
"""

from __future__ import annotations

import functools
import importlib
from types import ModuleType
from typing import Any

import numpy as np

from kernels.dtypes import BFLOAT16

EMULATED = "kernels.emulator.cupy_like"


class DeviceError(RuntimeError):
    """A device that is missing, unusable or not current; the message says what to do."""


@functools.cache
def _module_of(kind: type) -> ModuleType:
    root = kind.__module__.partition(".")[0]
    if root == "cupy":
        return importlib.import_module("cupy")
    if root == "kernels":
        return importlib.import_module(EMULATED)
    return np


def array_module(x: object) -> ModuleType:
    """The namespace `x` belongs to: cupy, the emulated device's substitute for it, or numpy (Python scalars too)."""
    return _module_of(type(x))  # type: ignore[arg-type]  # mypy takes classes for unhashable


def device_name(xp: ModuleType, index: int = 0) -> str:
    """What a device is called: "cpu", "cuda:0", "emulated", "emulated:1"."""
    if xp is np:
        return "cpu"
    if xp.__name__ == EMULATED:
        return f"emulated:{index}" if index else "emulated"
    return f"cuda:{index}"


@functools.cache
def _has_several_gpus(xp: ModuleType) -> bool:
    return xp.cuda.runtime.getDeviceCount() > 1


def require_current(*arrays) -> None:
    """Raise DeviceError if one of the arrays, all of one namespace, is on a GPU that is not this thread's current one.

    CuPy allocates results on the current GPU, wherever the operands are, so an operation on such an array would fail
    or leave its result on the wrong GPU. NumPy arrays and numbers always pass.
    """
    xp = array_module(arrays[0])
    if xp is np or not _has_several_gpus(xp):
        return
    current = xp.cuda.runtime.getDevice()
    for x in arrays:
        if x.device.id != current:
            own, used = device_name(xp, x.device.id), device_name(xp, current)
            raise DeviceError(
                f"an array of shape {x.shape} is on {own!r} while {used!r} is this thread's current device: "
                f"call tt.device({own!r}).use() first, or move the array"
            )


@functools.cache
def named_dtype(name: str) -> Any:
    """NumPy's dtype of that name, or ml_dtypes' bfloat16. DeviceError where that is not installed."""
    if name != BFLOAT16:
        return np.dtype(name)
    try:
        return np.dtype(importlib.import_module("ml_dtypes").bfloat16)
    except ImportError:
        raise DeviceError("bfloat16 needs the package ml_dtypes: pip install ml_dtypes, or use float32") from None

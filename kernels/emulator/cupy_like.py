"""The part of CuPy's namespace that our code uses, for the emulated device: `xp` where `xp` is not NumPy or CuPy.

Every name here exists in CuPy with the parameters listed, which a test checks against an installed CuPy, and there is
no other: `xp.NAME` that works here works on a GPU. The values are computed by NumPy; what makes them CuPy's is
`arrays.py`. CUDA kernels come from `RawModule`, the emulator's own. Importing needs no compiler, launching does.
"""

from __future__ import annotations

import numpy as np

from kernels.emulator import cuda_like as cuda
from kernels.emulator.arrays import (
    UFUNCS,
    call,
    call_ufunc,
    check_arguments,
    from_host,
    ndarray,
    parameters,
    to_host,
)
from kernels.emulator.dry_run import current_recorder
from kernels.emulator.module import RawModule as RawModule  # a name of CuPy's

FUNCTIONS = {  # of arrays: parameters as in arrays.METHODS
    "allclose": "a b rtol atol equal_nan",
    "argmax": "a axis * keepdims",
    "argsort": "a axis kind",
    "broadcast_to": "array shape",
    "clip": "a a_min a_max out",
    "concatenate": "tup axis out",
    "dot": "a b out",
    "expand_dims": "a axis",
    "flatnonzero": "a",
    "max": "a axis out keepdims",
    "ones_like": "a dtype order",
    "roll": "a shift axis",
    "searchsorted": "a v side sorter",
    "stack": "tup axis out",
    "sum": "a axis dtype out keepdims",
    "tril": "m k",
    "triu": "m k",
    "where": "condition x y",
    "zeros_like": "a dtype order",
}
CREATION = {  # of numbers
    "arange": "start stop step dtype",
    "eye": "N M k dtype order",
    "full": "shape fill_value dtype order",
    "ones": "shape dtype order",
    "tri": "N M k dtype",
    "zeros": "shape dtype order",
}
OTHERS = [
    "RawModule",
    "array",
    "asarray",
    "ascontiguousarray",
    "asnumpy",
    "cuda",
    "empty",
    "empty_like",
    "get_default_memory_pool",
    "ndarray",
]
__all__ = [*UFUNCS, *FUNCTIONS, *CREATION, *OTHERS]


def array(obj, dtype=None, copy=True, order="K"):
    """A copy of numbers, nested lists, a NumPy array or an array of any device, as an array of the current device."""
    if isinstance(obj, ndarray) and obj.device != cuda.Device():
        return from_host(np.array(obj.host, dtype=dtype, order=order))
    if isinstance(obj, ndarray):
        return obj.astype(obj.dtype if dtype is None else dtype, copy=copy)
    if not isinstance(obj, np.ndarray):
        obj = to_host(obj, [], "array")
    if recorder := current_recorder():
        recorder.transfer(np.asarray(obj))
    return from_host(np.array(obj, dtype=dtype, order=order))


def asarray(a, dtype=None, order="K"):
    """`a` itself if it is an array of the current device and of that dtype, else `array`."""
    return array(a, dtype, copy=False, order=order)


def ascontiguousarray(a, dtype=None):
    """`a` itself if it is C-contiguous, else a copy that is."""
    a = asarray(a, dtype)
    return a if a.flags.c_contiguous else a.copy()


def asnumpy(a, stream=None, order="C", out=None):
    """A copy as a NumPy array, which synchronizes the device; anything else is passed to NumPy."""
    return a.get(order=order, out=out) if isinstance(a, ndarray) else np.asarray(a, order=order)


def empty(shape, dtype=float, order="C"):
    """Uninitialized memory, poisoned so that reading it shows."""
    return ndarray(shape, dtype, order=order)


def empty_like(prototype, dtype=None, order="K"):
    """`empty` with the shape, dtype and order of axes of `prototype`."""
    flags = prototype.flags
    order = "F" if order == "K" and flags.f_contiguous and not flags.c_contiguous else "C"
    return ndarray(prototype.shape, prototype.dtype if dtype is None else dtype, order=order)


def get_default_memory_pool() -> cuda.MemoryPool:
    """Counts the bytes of live arrays."""
    return cuda.POOL


def __getattr__(name: str):
    raise AttributeError(f"{name}: not on the emulated device; if CuPy has it, add it to a table in cupy_like.py")


def _ufunc(name: str):
    ufunc = getattr(np, name)

    def apply(*args, **kwargs):
        return call_ufunc(ufunc, *args, **kwargs)

    return apply


def _function(name: str, signature: str):
    function = getattr(np, name)
    positional, keywords = parameters(signature)

    def apply(*args, **kwargs):
        check_arguments(name, keywords, len(positional), args, kwargs)
        return call(function, name, *args, needs_array=True, **kwargs)

    return apply


def _creation(name: str, signature: str):
    function = getattr(np, name)
    positional, keywords = parameters(signature)

    def apply(*args, **kwargs):
        check_arguments(name, keywords, len(positional), args, kwargs)
        return call(function, name, *args, **kwargs)

    return apply


for _name in UFUNCS:
    globals()[_name] = _ufunc(_name)
for _name, _signature in FUNCTIONS.items():
    globals()[_name] = _function(_name, _signature)
for _name, _signature in CREATION.items():
    globals()[_name] = _creation(_name, _signature)

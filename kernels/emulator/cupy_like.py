"""The part of CuPy's namespace that our code uses, for the emulated device: `xp` where `xp` is not NumPy or CuPy.

Floor 0. Every name here exists in CuPy with the parameters listed, which a test checks against an installed CuPy, and
there is no other: `xp.NAME` that works here works on a GPU. The values are computed by NumPy; what makes them CuPy's
is `arrays.py`. CUDA kernels come from `RawModule`, the emulator's own. Importing needs no compiler, launching does.
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
    synchronized,
    to_host,
)
from kernels.emulator.module import RawModule

FUNCTIONS = {  # of arrays: parameters as in arrays.METHODS
    "all": "a axis out keepdims",
    "any": "a axis out keepdims",
    "argmax": "a axis * keepdims",
    "argmin": "a axis * keepdims",
    "argsort": "a axis kind",
    "broadcast_to": "array shape",
    "clip": "a a_min a_max out",
    "concatenate": "tup axis out",
    "cumsum": "a axis dtype out",
    "dot": "a b out",
    "einsum": "subscripts a b c",
    "expand_dims": "a axis",
    "flatnonzero": "a",
    "full_like": "a fill_value dtype order",
    "max": "a axis out keepdims",
    "mean": "a axis dtype out keepdims",
    "min": "a axis out keepdims",
    "moveaxis": "a source destination",
    "nonzero": "a",
    "ones_like": "a dtype order",
    "outer": "a b out",
    "prod": "a axis dtype out keepdims",
    "ravel": "a order",
    "repeat": "a repeats axis",
    "reshape": "a newshape order",
    "searchsorted": "a v side sorter",
    "squeeze": "a axis",
    "stack": "tup axis out",
    "sum": "a axis dtype out keepdims",
    "swapaxes": "a axis1 axis2",
    "take": "a indices axis out",
    "take_along_axis": "a indices axis",
    "tril": "m k",
    "triu": "m k",
    "transpose": "a axes",
    "var": "a axis dtype out ddof keepdims",
    "where": "condition x y",
    "zeros_like": "a dtype order",
}
CREATION = {  # of numbers
    "arange": "start stop step dtype",
    "eye": "N M k dtype order",
    "full": "shape fill_value dtype order",
    "linspace": "start stop num endpoint retstep dtype axis",
    "ones": "shape dtype order",
    "tri": "N M k dtype",
    "zeros": "shape dtype order",
}
CONSTANTS = (
    "bool_ e float16 float32 float64 inf int8 int16 int32 int64 nan newaxis pi uint8 uint16 uint32 uint64".split()
)
SYNCHRONIZING = frozenset(("flatnonzero", "nonzero"))  # their result's shape depends on values


def array(obj, dtype=None, copy=True, order="K"):
    """A copy of numbers, nested lists, a NumPy array or an array of the device, as an array of the device."""
    if isinstance(obj, ndarray):
        return obj.astype(obj.dtype if dtype is None else dtype, copy=copy)
    if not isinstance(obj, np.ndarray):
        obj = to_host(obj, [], "array")
    return from_host(np.array(obj, dtype=dtype, order=order))


def asarray(a, dtype=None, order="K"):
    """`a` itself if it is an array of the device and of that dtype, else `array`."""
    return array(a, dtype, copy=False, order=order)


def ascontiguousarray(a, dtype=None):
    """`a` itself if it lies in C order, else a copy that does."""
    a = asarray(a, dtype)
    return a if a.flags.c_contiguous else a.copy()


def asnumpy(a, stream=None, order="C", out=None):
    """A copy as a NumPy array, which waits for the device; what is no array of the device goes through NumPy."""
    return a.get(order=order, out=out) if isinstance(a, ndarray) else np.asarray(a, order=order)


def empty(shape, dtype=float, order="C"):
    """Memory that nobody wrote: poisoned, so that reading it shows."""
    return ndarray(shape, dtype, order=order)


def empty_like(a, dtype=None, order="K"):
    """`empty` with the shape, dtype and order of axes of `a`."""
    order = "F" if order == "K" and a.flags.f_contiguous and not a.flags.c_contiguous else "C"
    return ndarray(a.shape, a.dtype if dtype is None else dtype, order=order)


def get_default_memory_pool() -> cuda.MemoryPool:
    """Counts the bytes of live arrays."""
    return cuda.POOL


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
        if name in SYNCHRONIZING:
            synchronized(name)
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
for _name in CONSTANTS:
    globals()[_name] = getattr(np, _name)

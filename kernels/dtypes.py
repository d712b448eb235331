"""Floating-point dtypes, of which NumPy itself lacks bfloat16.

bfloat16 is the dtype of the package ml_dtypes, which is imported when it is first asked for. CuPy has it from version
14 on: arrays, elementwise functions, reductions (summed in float32) and products of matrices.
"""

from __future__ import annotations

import functools
import importlib
from typing import Any

import numpy as np

from kernels.namespace import DeviceError

BFLOAT16 = "bfloat16"


def is_floating(dtype: Any) -> bool:
    """Whether the dtype of an array is one of floats; the kind of bfloat16 is not NumPy's for them."""
    return dtype.kind == "f" or dtype.name == BFLOAT16


def is_sixteen_bit(dtype: Any) -> bool:
    """Whether the dtype of an array is float16 or bfloat16."""
    return dtype.itemsize == 2 and is_floating(dtype)


def sum_dtype(x: Any) -> Any:
    """The dtype of sums over many elements of an array of floats: float32 where they have 16 bits, else their own."""
    return np.dtype(np.float32) if x.dtype.itemsize == 2 else x.dtype


@functools.cache
def named_dtype(name: str) -> Any:
    """NumPy's dtype of that name, or ml_dtypes' bfloat16. DeviceError where that is not installed."""
    if name != BFLOAT16:
        return np.dtype(name)
    try:
        return np.dtype(importlib.import_module("ml_dtypes").bfloat16)
    except ImportError:
        raise DeviceError("bfloat16 needs the package ml_dtypes: pip install ml_dtypes, or use float32") from None

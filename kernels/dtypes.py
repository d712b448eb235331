"""Floating-point dtypes, of which NumPy itself lacks bfloat16.

bfloat16 is the dtype of the package ml_dtypes, which `namespace.named_dtype` imports when it is first asked for. CuPy
has it from version 14 on: arrays, elementwise functions, reductions (summed in float32) and products of matrices.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

BFLOAT16 = "bfloat16"


@functools.cache  # a dtype's name takes a microsecond to find
def is_floating(dtype: Any) -> bool:
    """Whether the dtype of an array is one of floats; the kind of bfloat16 is not NumPy's for them."""
    return dtype.kind == "f" or dtype.name == BFLOAT16


def is_sixteen_bit(dtype: Any) -> bool:
    """Whether the dtype of an array is float16 or bfloat16."""
    return dtype.itemsize == 2 and is_floating(dtype)


def sum_dtype(x: Any) -> Any:
    """The dtype of sums over many elements of an array of floats: float32 where they have 16 bits, else their own."""
    return np.dtype(np.float32) if x.dtype.itemsize == 2 else x.dtype

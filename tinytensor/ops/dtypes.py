"""Which dtype an operation computes in: NumPy's rules, but nothing becomes float64 unasked.

As in PyTorch, integers and booleans that meet floats take the floats' dtype, functions such as exp and division make
float32 of them, and their sums are int64. Functions that add up or exponentiate take float16 by way of float32
(`float16_as_float32`). Used by all other files of `tinytensor.ops`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from kernels import dtypes
from tinytensor.backend import array_module
from tinytensor.tensor import DEFAULT_DTYPE, TensorLike, as_array


def is_floating(x: Any) -> bool:
    """Whether x is an array of floats, or a Python float."""
    return dtypes.is_floating(x.dtype) if hasattr(x, "dtype") else isinstance(x, float)


def floating(x):
    """x, or if it is an array of integers or booleans, that array in float32."""
    return x.astype(DEFAULT_DTYPE) if hasattr(x, "dtype") and not dtypes.is_floating(x.dtype) else x


def as_factor(x, weight):
    """x, or if it is float32 and the weight of a product has 16 bits, x rounded to those."""
    narrows = dtypes.is_sixteen_bit(weight.dtype) and x.dtype == DEFAULT_DTYPE
    return x.astype(weight.dtype) if narrows else x


def promoted(a, b):
    """a and b, with an array of integers that meets floats cast to their dtype; float32 if it meets a Python float."""
    if is_floating(a) and not is_floating(b) and hasattr(b, "dtype"):
        return a, b.astype(getattr(a, "dtype", DEFAULT_DTYPE))
    if is_floating(b) and not is_floating(a) and hasattr(a, "dtype"):
        return a.astype(getattr(b, "dtype", DEFAULT_DTYPE)), b
    return a, b


def sum_dtype(x: Any) -> type | None:
    """The dtype of sums and products of x: int64 for integers and booleans; None, meaning its own, for floats."""
    return None if is_floating(x) else np.int64


def module_of(*operands):
    """The namespace of the first operand that is an array; the others are numbers, or on the same device."""
    return array_module(next((x for x in operands if hasattr(x, "dtype")), 0))


def boolean(name: str, argument: str, mask: TensorLike) -> TensorLike:
    """`mask` if it is boolean (a Tensor, array, list or bool). Raises TypeError otherwise."""
    mask = as_array(mask) if isinstance(mask, (bool, list, tuple)) else mask
    dtype = getattr(mask, "dtype", type(mask).__name__)
    if dtype != np.bool_:
        raise TypeError(f"{name}: {argument} of dtype {dtype}: must be boolean, such as x > 0")
    return mask

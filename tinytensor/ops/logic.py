"""Elementwise operations without a gradient: on bits, on truth values, and questions about floats.

Their results are constants, whatever their inputs require.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinytensor.backend import array_module
from tinytensor.ops.dtypes import is_floating, module_of, promoted
from tinytensor.tensor import Tensor, TensorLike, as_array, is_array


def floor_divide(a: TensorLike, b: TensorLike) -> Tensor:
    """floor(a / b), elementwise."""
    a, b = promoted(*_operands(a, b))
    return Tensor(module_of(a, b).floor_divide(a, b))


def bitwise_and(a: TensorLike, b: TensorLike) -> Tensor:
    """a & b, elementwise: of the bits of integers, of booleans. Raises TypeError for floats."""
    return _bitwise("bitwise_and", a, b)


def bitwise_or(a: TensorLike, b: TensorLike) -> Tensor:
    """a | b, elementwise: of the bits of integers, of booleans. Raises TypeError for floats."""
    return _bitwise("bitwise_or", a, b)


def bitwise_xor(a: TensorLike, b: TensorLike) -> Tensor:
    """a ^ b, elementwise: of the bits of integers, of booleans. Raises TypeError for floats."""
    return _bitwise("bitwise_xor", a, b)


def bitwise_not(x: TensorLike) -> Tensor:
    """~x, elementwise: of the bits of integers, of booleans. Raises TypeError for floats."""
    return _bitwise("bitwise_not", x)


def isnan(x: TensorLike) -> Tensor:
    """Where x is NaN."""
    array = as_array(x)
    return Tensor(array_module(array).isnan(array))


def isfinite(x: TensorLike) -> Tensor:
    """Where x is neither infinite nor NaN."""
    array = as_array(x)
    return Tensor(array_module(array).isfinite(array))


def allclose(a: TensorLike, b: TensorLike, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> bool:
    """Whether |a - b| <= atol + rtol |b| everywhere, as a Python bool (synchronizes the device)."""
    a, b = promoted(*_operands(a, b))
    return bool(module_of(a, b).allclose(a, b, rtol, atol, equal_nan))


def _bitwise(name: str, *inputs: TensorLike) -> Tensor:
    operands = _operands(*inputs)
    if any(map(is_floating, operands)):
        kinds = " and ".join(str(getattr(x, "dtype", type(x).__name__)) for x in operands)
        raise TypeError(f"{name}: operands of dtype {kinds}: must be integers or booleans")
    xp = module_of(*operands)
    return Tensor(xp.invert(*operands) if name == "bitwise_not" else getattr(xp, name)(*operands))


def _operands(*inputs: TensorLike) -> list[Any]:
    """Raw arrays; a number with an array stays a number, so that it takes the array's dtype."""
    plain = [x.item() if isinstance(x, np.generic) else x for x in inputs]
    arrays = [x if isinstance(x, (bool, int, float)) else as_array(x) for x in plain]
    return arrays if any(map(is_array, arrays)) else [as_array(x) for x in arrays]

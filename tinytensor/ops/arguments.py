"""How arguments may be spelled: anything for a tensor, axes from either end, shapes with or without parentheses, `dim`.

Used by all other files of `tinytensor.ops`; there is no operation in here.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import numpy as np

from tinytensor.tensor import Tensor, TensorLike

F = TypeVar("F", bound=Callable[..., Any])
TORCH_NAMES = {"dim": "axis", "dims": "axis", "keepdim": "keepdims"}


def torch_names(function: F) -> F:
    """`function`, which also takes PyTorch's `dim` (or `dims`) and `keepdim` for `axis` and `keepdims`."""

    @functools.wraps(function)
    def call(*args, **kwargs):
        for theirs, ours in TORCH_NAMES.items():
            if theirs in kwargs:
                if ours in kwargs:
                    raise TypeError(f"{function.__name__}: {theirs} and {ours} are the same; give one of them")
                kwargs[ours] = kwargs.pop(theirs)
        return function(*args, **kwargs)

    return call  # type: ignore[return-value]


def as_tensor(x: TensorLike) -> Tensor:
    """x itself if it is a Tensor; an array, list or number as a constant."""
    return x if isinstance(x, Tensor) else Tensor(x)


def normalize_axis(name: str, axis: Any, ndim: int) -> int:
    """`axis`, counted from either end, as 0 ... ndim - 1 (0-d tensors have an axis 0, as in PyTorch).

    Raises numpy.exceptions.AxisError, an IndexError and a ValueError, where it is out of range, and TypeError where it
    is not an integer.
    """
    try:
        axis = operator.index(axis)
    except TypeError:
        raise TypeError(f"{name}: axis {axis!r}: must be an integer") from None
    if not -max(ndim, 1) <= axis < max(ndim, 1):
        raise np.exceptions.AxisError(f"{name}: axis {axis} is out of range for a tensor with {ndim} axes")
    return axis % max(ndim, 1)


def normalize_axes(name: str, axis: Any, ndim: int) -> tuple[int, ...]:
    """The axes that None (all), an integer or a sequence of integers means, each once; none of a 0-d tensor."""
    if axis is None:
        return tuple(range(ndim))
    given = axis if isinstance(axis, Iterable) and not isinstance(axis, str) else (axis,)
    axes = [normalize_axis(name, a, ndim) for a in given]
    if len(set(axes)) != len(axes):
        raise ValueError(f"{name}: axis {axis} names an axis twice")
    return tuple(axes) if ndim else ()


def as_ints(name: str, arguments: tuple) -> tuple[int, ...]:
    """Lengths or axes given as f(x, 2, 3) or f(x, (2, 3)), as integers."""
    one = arguments[0] if len(arguments) == 1 else None
    given = one if isinstance(one, (tuple, list, Iterable)) else arguments
    try:
        return tuple(operator.index(n) for n in given)
    except TypeError:
        raise TypeError(f"{name}: {given!r}: must be integers") from None

"""Sorting, and where the extremes are. Positions have no gradient; the values at them have.

All take PyTorch's `dim` and `keepdim` as well.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tinytensor.backend import array_module
from tinytensor.ops.arguments import as_tensor, normalize_axis, torch_names
from tinytensor.ops.indexing import take
from tinytensor.tensor import Array, Tensor, TensorLike, as_array


class Ordered(NamedTuple):
    """What `sort` and `topk` return: the elements, and where they were along the axis."""

    values: Tensor
    indices: Tensor


@torch_names
def argmax(x: TensorLike, axis: int | None = None, keepdims: bool = False) -> Tensor:
    """Where the maximum is along `axis` (the first of several), or in the flattened x if None."""
    return _position("argmax", x, axis, keepdims)


@torch_names
def argmin(x: TensorLike, axis: int | None = None, keepdims: bool = False) -> Tensor:
    """Where the minimum is along `axis` (the first of several), or in the flattened x if None."""
    return _position("argmin", x, axis, keepdims)


@torch_names
def argsort(x: TensorLike, axis: int = -1, descending: bool = False) -> Tensor:
    """The order that sorts the elements along `axis`, equal ones kept in their order; NaN is the largest."""
    array = as_array(x)
    return Tensor(_order(array, normalize_axis("argsort", axis, array.ndim), descending))


@torch_names
def sort(x: TensorLike, axis: int = -1, descending: bool = False) -> Ordered:
    """(values, indices): x sorted along `axis`, and where each element was, as `argsort`."""
    x = as_tensor(x)
    axis = normalize_axis("sort", axis, x.ndim)
    indices = Tensor(_order(x.data, axis, descending))
    return Ordered(take(x, axis, indices), indices)


@torch_names
def topk(x: TensorLike, k: int, axis: int = -1, largest: bool = True) -> Ordered:
    """(values, indices) of the k largest elements along `axis`, or the smallest; the most extreme comes first.

    Of equal elements the first are taken. Raises ValueError for a k that is negative or beyond the length of the axis.
    """
    x = as_tensor(x)
    axis = normalize_axis("topk", axis, x.ndim)
    length = x.shape[axis] if x.ndim else 1
    if not 0 <= k <= length:
        raise ValueError(f"topk: k {k}: must be from 0 to {length}, the length of axis {axis} of {x.shape}")
    order = _order(x.data, axis, largest)
    indices = Tensor(order[(slice(None),) * axis + (slice(k),)] if x.ndim else order)
    return Ordered(take(x, axis, indices), indices)


def _position(name: str, x: TensorLike, axis: int | None, keepdims: bool) -> Tensor:
    array = as_array(x)
    axis = None if axis is None else normalize_axis(name, axis, array.ndim)
    return Tensor(getattr(array, name)(axis=axis if array.ndim else None, keepdims=keepdims))


def _order(array: Array, axis: int, descending: bool):
    """The positions that sort an array, equal elements in their order in either direction."""
    if not array.ndim:
        return array_module(array).zeros((), dtype=np.int64)
    if not descending:
        return array.argsort(axis=axis, kind="stable")
    # sorting the reversed axis puts equal elements in reverse; reversing the result restores their order
    backwards = (slice(None),) * axis + (slice(None, None, -1),)
    return array.shape[axis] - 1 - array[backwards].argsort(axis=axis, kind="stable")[backwards]

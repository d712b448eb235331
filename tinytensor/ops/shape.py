"""Operations that move, select or join elements without computing on them.

Most forwards and VJPs are views and cost nothing. Read `linalg.py` next.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import accumulate
from typing import Any

import numpy as np

from tinytensor.backend import array_module, device_of, kernels_for
from tinytensor.ops.arguments import all_axes, flat, one_axis, torch_names
from tinytensor.ops.elementwise import where
from tinytensor.tensor import Array, Function, ScatterAdd, Tensor, TensorLike, as_array, raw


class Reshape(Function):
    """y = x with another shape;  gx = g with x's shape"""

    def __init__(self, shape):
        self.to = shape

    def forward(self, x):
        self.shape = x.shape
        return x.reshape(self.to)

    def vjp(self, g):
        return (g.reshape(self.shape),)


class Transpose(Function):
    """y = x with its axes permuted;  gx = g with them permuted back"""

    def __init__(self, axes):
        self.axes = axes

    def forward(self, x):
        return x.transpose(self.axes)

    def vjp(self, g):
        # the inverse permutation lists where each axis went
        return (g.transpose(sorted(range(g.ndim), key=self.axes.__getitem__)),)


class Expand(Function):
    """y = x repeated along axes of length 1, and new leading ones;  gx = g, which the engine sums down"""

    def __init__(self, shape):
        self.to = shape

    def forward(self, x):
        return array_module(x).broadcast_to(x, self.to)

    def vjp(self, g):
        return (g,)


class Concat(Function):
    """y = the inputs one after the other along `axis`;  each gx is its slice of g"""

    def __init__(self, axis):
        self.axis = axis

    def forward(self, *xs):
        self.sizes = [x.shape[self.axis] for x in xs]
        return array_module(xs[0]).concatenate(xs, axis=self.axis)

    def vjp(self, g):
        before = (slice(None),) * self.axis
        stops = accumulate(self.sizes)
        return tuple(g[(*before, slice(stop - n, stop))] for n, stop in zip(self.sizes, stops, strict=True))


class GetItem(Function):
    """y = x[index];  gx = 0, with g added at index (an element selected twice gets both gradients)

    The arrays of an index are inputs, so that a change of them is noticed; `index` has ARRAY in their places.
    """

    ARRAY = object()

    def __init__(self, index: tuple):
        self.index = index

    def forward(self, x, *arrays):
        rest = iter(self.save(x.shape, *arrays)[1:])
        self.selected = tuple([next(rest) if part is GetItem.ARRAY else part for part in self.index])
        return x[self.selected]

    def vjp(self, g):
        return (ScatterAdd(partial(self._add_into, g)), *[None] * (len(self.needs_grad) - 1))

    def _add_into(self, g, gx):
        if GetItem.ARRAY not in self.index:  # numbers and slices select no element twice
            gx[self.selected] += g
        else:  # number the elements, select the numbers, and add g there: one scatter serves every kind of index
            positions = array_module(g).arange(gx.size).reshape(gx.shape)[self.selected]
            kernels_for(g).embedding_backward(g[..., None], positions, gx.reshape(gx.size, 1))


def reshape(x: TensorLike, *shape) -> Tensor:
    """x with another shape of the same size: reshape(x, 2, 3) or reshape(x, (2, 3)); one length may be -1."""
    return Reshape(flat("reshape", shape))(x)


def flatten(x: TensorLike, start: int = 0, end: int = -1) -> Tensor:
    """x with the axes `start` to `end`, both included, made one."""
    x = x if isinstance(x, Tensor) else Tensor(x)
    if x.ndim == 0:
        return reshape(x, 1)
    start, end = one_axis("flatten", start, x.ndim), one_axis("flatten", end, x.ndim)
    if start > end:
        raise ValueError(f"flatten: start {start} comes after end {end}")
    return reshape(x, *x.shape[:start], int(np.prod(x.shape[start : end + 1])), *x.shape[end + 1 :])


def permute(x: TensorLike, *axes) -> Tensor:
    """x with its axes in the order `axes`: permute(x, 0, 2, 1) or permute(x, (0, 2, 1))."""
    order, ndim = flat("permute", axes), raw(x).ndim
    if len(order) != ndim:
        raise ValueError(f"permute: axes {order}: must name each of the {ndim} axes once")
    return Transpose(all_axes("permute", order, ndim))(x)


def transpose(x: TensorLike, axis1: int | None = None, axis2: int | None = None) -> Tensor:
    """x with two axes exchanged; without axes, all of them reversed."""
    if axis1 is None or axis2 is None:
        if axis1 is not axis2:
            raise TypeError("transpose: give both axes to exchange, or none to reverse all; permute takes an order")
        return permute(x, *range(raw(x).ndim)[::-1])
    return swapaxes(x, axis1, axis2)


def swapaxes(x: TensorLike, axis1: int, axis2: int) -> Tensor:
    """x with two axes exchanged."""
    ndim = raw(x).ndim
    first, second = one_axis("swapaxes", axis1, ndim), one_axis("swapaxes", axis2, ndim)
    axes = list(range(ndim))
    if ndim:
        axes[first], axes[second] = axes[second], axes[first]
    return Transpose(tuple(axes))(x)


def expand(x: TensorLike, *shape) -> Tensor:
    """x broadcast to `shape`; -1 keeps a length."""
    lengths, own = flat("expand", shape), raw(x).shape
    if len(lengths) < len(own):
        raise ValueError(f"expand: {lengths} has fewer axes than {own}")
    own = (1,) * (len(lengths) - len(own)) + own
    return Expand(tuple(n if length == -1 else length for n, length in zip(own, lengths, strict=True)))(x)


@torch_names
def squeeze(x: TensorLike, axis: Any = None) -> Tensor:
    """x without `axis` (one or several), which must have length 1; without all axes of length 1 if None."""
    shape = raw(x).shape
    if axis is None:
        return Reshape(tuple(n for n in shape if n != 1))(x)
    axes = all_axes("squeeze", axis, len(shape))
    if wrong := [a for a in axes if shape[a] != 1]:
        raise ValueError(f"squeeze: axis {wrong[0]} of {shape} has length {shape[wrong[0]]}: must be 1")
    return Reshape(tuple(n for a, n in enumerate(shape) if a not in axes))(x)


@torch_names
def unsqueeze(x: TensorLike, axis: int) -> Tensor:
    """x with a new axis of length 1 at `axis`."""
    shape = raw(x).shape
    place = one_axis("unsqueeze", axis, len(shape) + 1)
    return Reshape((*shape[:place], 1, *shape[place:]))(x)


@torch_names
def concat(xs: Sequence[TensorLike], axis: int = 0) -> Tensor:
    """The tensors `xs`, at least one, in a row along `axis`; other lengths must agree."""
    if not xs:
        raise ValueError("concat: no tensors given; it needs at least one")
    if not (ndim := raw(xs[0]).ndim):
        raise ValueError("concat: 0-d tensors have no axis to be joined along; use stack")
    return Concat(one_axis("concat", axis, ndim))(*xs)


@torch_names
def stack(xs: Sequence[TensorLike], axis: int = 0) -> Tensor:
    """The tensors `xs`, of one shape, along a new axis."""
    return concat([unsqueeze(x, axis) for x in xs], axis)


@torch_names
def split(x: TensorLike, size: int | Sequence[int], axis: int = 0) -> tuple[Tensor, ...]:
    """Pieces of x along `axis`: of `size` each (the last may be smaller), or of the sizes listed."""
    shape = raw(x).shape
    axis = one_axis("split", axis, len(shape))
    length = shape[axis] if shape else 0
    if isinstance(size, (int, np.integer)):
        if size < 1:
            raise ValueError(f"split: size {size}: must be at least 1")
        sizes = [min(int(size), length - start) for start in range(0, length, int(size))] or [0]
    else:
        sizes = list(flat("split", (tuple(size),)))
    if sum(sizes) != length or min(sizes, default=0) < 0:
        raise ValueError(f"split: sizes {sizes} must not be negative and add up to {length}, the length of axis {axis}")
    before = (slice(None),) * axis
    return tuple(getitem(x, (*before, slice(stop - n, stop))) for n, stop in zip(sizes, accumulate(sizes), strict=True))


def getitem(x: TensorLike, index: Any) -> Tensor:
    """x[index] for integers, slices, integer arrays and boolean masks (raw or Tensors), as in NumPy.

    Raises IndexError for an index out of range, also where CuPy would wrap it round; looking at an index that is on the
    GPU already synchronizes.
    """
    parts = index if isinstance(index, tuple) else (index,)
    plain, arrays = [], []
    for part in map(_index_part, parts):
        is_plain = part is None or part is Ellipsis or type(part) in (int, slice)
        plain.append(part if is_plain else GetItem.ARRAY)
        if not is_plain:
            arrays.append(part)
    _require_in_range(raw(x), plain, arrays)
    return GetItem(tuple(plain))(x, *[_beside(x, part) for part in arrays])


def tril(x: TensorLike, diagonal: int = 0) -> Tensor:
    """The lower triangle of the last two axes: 0 above the given diagonal."""
    return where(_triangle("tril", x, diagonal), x, raw(x).dtype.type(0))


def triu(x: TensorLike, diagonal: int = 0) -> Tensor:
    """The upper triangle of the last two axes: 0 below the given diagonal."""
    return where(_triangle("triu", x, diagonal - 1), raw(x).dtype.type(0), x)


def _triangle(name: str, x: TensorLike, diagonal: int):
    array = raw(x)
    if array.ndim < 2:
        raise ValueError(f"{name}: a tensor of shape {array.shape} has no two last axes")
    return array_module(array).tri(*array.shape[-2:], k=diagonal, dtype=bool)


def _index_part(part):
    """A part of an index: None, Ellipsis, an int, a slice, or an array (raw or a Tensor) of integers or booleans."""
    if part is None or part is Ellipsis or isinstance(part, slice):
        return part
    if isinstance(part, (int, np.integer)) and not isinstance(part, bool):
        return int(part)
    if isinstance(part, (list, tuple, bool, range)):
        part = np.asarray(part) if np.size(part) else np.zeros(np.shape(part), np.int64)
    kind = raw(part).dtype.kind if hasattr(raw(part), "dtype") else None
    if kind not in ("i", "u", "b"):
        raise IndexError(f"an index of {part!r:.40}: must be integers, slices, None, ..., integer arrays or masks")
    return part


def _require_in_range(x: Array, plain: list, arrays: list) -> None:
    """Raise IndexError for an integer array that goes beyond its axis (NumPy raises, CuPy wraps round)."""
    taken = sum(raw(a).ndim if raw(a).dtype.kind == "b" else 1 for a in arrays)
    taken += sum(part is not None and part is not Ellipsis and part is not GetItem.ARRAY for part in plain)
    rest, axis = iter(arrays), 0
    for part in plain:
        if part is Ellipsis:
            axis += x.ndim - taken
        elif part is GetItem.ARRAY:
            array = raw(next(rest))
            if array.dtype.kind != "b" and array.size and axis < x.ndim:
                low, high, n = int(array.min()), int(array.max()), x.shape[axis]
                if low < -n or high >= n:
                    raise IndexError(f"index {low if low < -n else high} is out of range for axis {axis} of length {n}")
            axis += array.ndim if array.dtype.kind == "b" else 1
        elif part is not None:
            axis += 1


def _beside(x: TensorLike, part: TensorLike) -> TensorLike:
    """An index on x's device; a Tensor that is there already stays itself, so that its changes are noticed."""
    array = device_of(raw(x)).put(raw(part))
    return part if array is raw(part) else as_array(array)

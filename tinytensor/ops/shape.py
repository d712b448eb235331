"""Operations that move, select or join elements without computing on them.

Most forwards and VJPs are views and cost nothing. Read `linalg.py` next.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Any

import numpy as np

from kernels.dtypes import is_floating
from tinytensor.backend import array_module
from tinytensor.ops.arguments import as_ints, as_tensor, normalize_axes, normalize_axis, torch_names
from tinytensor.ops.elementwise import where
from tinytensor.ops.indexing import getitem
from tinytensor.tensor import Function, Tensor, TensorLike


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
        # the inverse permutation: argsort of the axes, without an array
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
    """y = the inputs joined along `axis`;  each gx is its slice of g"""

    def __init__(self, axis):
        self.axis = axis

    def forward(self, *xs):
        self.sizes = [x.shape[self.axis] for x in xs]
        floats = [x.dtype for x in xs if is_floating(x.dtype)]
        if 0 < len(floats) < len(xs):  # integers take the floats' dtype
            xs = [x if is_floating(x.dtype) else x.astype(np.result_type(*floats)) for x in xs]
        return array_module(xs[0]).concatenate(xs, axis=self.axis)

    def vjp(self, g):
        before = (slice(None),) * self.axis
        stops = accumulate(self.sizes)
        return tuple(g[(*before, slice(stop - n, stop))] for n, stop in zip(self.sizes, stops, strict=True))


class Roll(Function):
    """y = x shifted along `axis`, wrapping around;  gx = g shifted back"""

    def __init__(self, shift, axis):
        self.shift, self.axis = shift, axis

    def forward(self, x):
        return array_module(x).roll(x, self.shift, self.axis)

    def vjp(self, g):
        return (array_module(g).roll(g, tuple([-n for n in self.shift]), self.axis),)


class Pad(Function):
    """y = x padded with a constant;  gx = the slice of g that holds x"""

    def __init__(self, widths, value):
        self.widths, self.value = widths, value

    def forward(self, x):
        self.inner = tuple([slice(before, before + n) for (before, _), n in zip(self.widths, x.shape, strict=True)])
        shape = tuple([before + n + after for (before, after), n in zip(self.widths, x.shape, strict=True)])
        y = array_module(x).full(shape, self.value, dtype=x.dtype)
        y[self.inner] = x
        return y

    def vjp(self, g):
        return (g[self.inner],)


class Contiguous(Function):
    """y = x in C-contiguous memory;  gx = g"""

    def forward(self, x):
        return array_module(x).ascontiguousarray(x)

    def vjp(self, g):
        return (g,)


def reshape(x: TensorLike, *shape: Any) -> Tensor:
    """x with another shape of the same size: reshape(x, 2, 3) or reshape(x, (2, 3)); one length may be -1."""
    return Reshape(as_ints("reshape", shape))(x)


def flatten(x: TensorLike, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    """x with the axes `start_dim` to `end_dim`, both included, merged into one."""
    x = as_tensor(x)
    if x.ndim == 0:
        return reshape(x, 1)
    start, end = normalize_axis("flatten", start_dim, x.ndim), normalize_axis("flatten", end_dim, x.ndim)
    if start > end:
        raise ValueError(f"flatten: start_dim {start_dim} comes after end_dim {end_dim}")
    return reshape(x, *x.shape[:start], int(np.prod(x.shape[start : end + 1])), *x.shape[end + 1 :])


def permute(x: TensorLike, *axes: Any) -> Tensor:
    """x with its axes in the order `axes`: permute(x, 0, 2, 1) or permute(x, (0, 2, 1))."""
    x = as_tensor(x)
    order, ndim = as_ints("permute", axes), x.ndim
    if len(order) != ndim:
        raise ValueError(f"permute: axes {order}: must name each of the {ndim} axes once")
    return Transpose(normalize_axes("permute", order, ndim))(x)


def transpose(x: TensorLike, axis1: int | None = None, axis2: int | None = None) -> Tensor:
    """x with two axes swapped; without axes, all of them reversed."""
    if axis1 is None or axis2 is None:
        if (axis1 is None) != (axis2 is None):
            raise TypeError("transpose: give both axes to swap, or none to reverse all; permute takes an order")
        return permute(x, *range(as_tensor(x).ndim)[::-1])
    return _swapped("transpose", x, axis1, axis2)


def swapaxes(x: TensorLike, axis1: int, axis2: int) -> Tensor:
    """x with two axes swapped."""
    return _swapped("swapaxes", x, axis1, axis2)


def _swapped(name: str, x: TensorLike, axis1: int, axis2: int) -> Tensor:
    x = as_tensor(x)
    ndim = x.ndim
    first, second = normalize_axis(name, axis1, ndim), normalize_axis(name, axis2, ndim)
    axes = list(range(ndim))
    if ndim:
        axes[first], axes[second] = axes[second], axes[first]
    return Transpose(tuple(axes))(x)


def expand(x: TensorLike, *shape: Any) -> Tensor:
    """x broadcast to `shape`; -1 keeps a length."""
    x = as_tensor(x)
    lengths, own = as_ints("expand", shape), x.shape
    if len(lengths) < len(own):
        raise ValueError(f"expand: {lengths} has fewer axes than {own}")
    own = (1,) * (len(lengths) - len(own)) + own
    return Expand(tuple(n if length == -1 else length for n, length in zip(own, lengths, strict=True)))(x)


@torch_names
def squeeze(x: TensorLike, axis: Any = None) -> Tensor:
    """x without `axis` (one or several), which must have length 1; without all axes of length 1 if None."""
    x = as_tensor(x)
    shape = x.shape
    if axis is None:
        return Reshape(tuple(n for n in shape if n != 1))(x)
    axes = normalize_axes("squeeze", axis, len(shape))
    if wrong := [a for a in axes if shape[a] != 1]:
        raise ValueError(f"squeeze: axis {wrong[0]} of {shape} has length {shape[wrong[0]]}: must be 1")
    return Reshape(tuple(n for a, n in enumerate(shape) if a not in axes))(x)


@torch_names
def unsqueeze(x: TensorLike, axis: int) -> Tensor:
    """x with a new axis of length 1 at `axis`."""
    x = as_tensor(x)
    shape = x.shape
    axis = normalize_axis("unsqueeze", axis, len(shape) + 1)
    return Reshape((*shape[:axis], 1, *shape[axis:]))(x)


@torch_names
def concat(xs: Sequence[TensorLike], axis: int = 0) -> Tensor:
    """The tensors `xs`, at least one, joined along `axis`; the other axes must agree."""
    xs = list(map(as_tensor, xs))
    if not xs:
        raise ValueError("concat: no tensors given; it needs at least one")
    if not (ndim := xs[0].ndim):
        raise ValueError("concat: 0-d tensors have no axis to be joined along; use stack")
    return Concat(normalize_axis("concat", axis, ndim))(*xs)


@torch_names
def stack(xs: Sequence[TensorLike], axis: int = 0) -> Tensor:
    """The tensors `xs`, at least one and of one shape, joined along a new axis."""
    xs = list(map(as_tensor, xs))
    if not xs:
        raise ValueError("stack: no tensors given; it needs at least one")
    axis = normalize_axis("stack", axis, xs[0].ndim + 1)
    return concat([unsqueeze(x, axis) for x in xs], axis)


@torch_names
def split(x: TensorLike, size: int | Sequence[int], axis: int = 0) -> tuple[Tensor, ...]:
    """Pieces of x along `axis`: of `size` each (the last may be smaller), or of the sizes listed."""
    x = as_tensor(x)
    shape = x.shape
    if not shape:
        raise ValueError("split: a 0-d tensor has no axis to be split along")
    axis = normalize_axis("split", axis, len(shape))
    length = shape[axis]
    sizes = list(as_ints("split", (size,)))
    if not isinstance(size, Iterable):
        if size < 1:
            raise ValueError(f"split: size {size}: must be at least 1")
        sizes = [min(sizes[0], length - start) for start in range(0, length, sizes[0])] or [0]
    if sum(sizes) != length or min(sizes, default=0) < 0:
        raise ValueError(f"split: sizes {sizes} must not be negative and add up to {length}, the length of axis {axis}")
    before = (slice(None),) * axis
    return tuple(getitem(x, (*before, slice(stop - n, stop))) for n, stop in zip(sizes, accumulate(sizes), strict=True))


@torch_names
def chunk(x: TensorLike, chunks: int, axis: int = 0) -> tuple[Tensor, ...]:
    """At most `chunks` pieces of x along `axis`, all of one size but the last, which may be smaller, as in PyTorch."""
    if chunks < 1:
        raise ValueError(f"chunk: chunks {chunks}: must be at least 1")
    x = as_tensor(x)
    shape = x.shape
    if not shape:
        raise ValueError("chunk: a 0-d tensor has no axis to be split along")
    axis = normalize_axis("chunk", axis, len(shape))
    return split(x, max(1, -(-shape[axis] // chunks)), axis)


@torch_names
def unbind(x: TensorLike, axis: int = 0) -> tuple[Tensor, ...]:
    """The slices of x along `axis`, without that axis."""
    x = as_tensor(x)
    shape = x.shape
    if not shape:
        raise ValueError("unbind: a 0-d tensor has no axis to unbind")
    before = (slice(None),) * normalize_axis("unbind", axis, len(shape))
    return tuple(getitem(x, (*before, i)) for i in range(shape[len(before)]))


def repeat(x: TensorLike, *counts: Any) -> Tensor:
    """x tiled along each axis: repeat(x, 2, 3) or repeat(x, (2, 3)), as PyTorch's `repeat`, NumPy's `tile`.

    One count per axis, aligned with the last; extra counts add leading axes. Raises ValueError for fewer.
    """
    x = as_tensor(x)
    times, shape = as_ints("repeat", counts), x.shape
    if len(times) < len(shape) or min(times, default=0) < 0:
        raise ValueError(
            f"repeat: counts {times}: must be at least one for each axis of {shape}, none of them negative"
        )
    shape = (1,) * (len(times) - len(shape)) + shape
    # (n, m) -> (1, n, 1, m) -> (count, n, count, m) -> (count n, count m)
    apart = reshape(x, [length for n in shape for length in (1, n)])
    repeated = expand(apart, [length for count, n in zip(times, shape, strict=True) for length in (count, n)])
    return reshape(repeated, [count * n for count, n in zip(times, shape, strict=True)])


def pad(x: TensorLike, pad_width: Sequence[tuple[int, int]], value: float = 0) -> Tensor:
    """x padded with `value`: a pair of widths (before, after) for each axis of x, as NumPy's `pad`.

    Raises ValueError for anything else, such as PyTorch's flat list of widths, which starts with the last axis.
    """
    x = as_tensor(x)
    shape = x.shape
    pairs = list(pad_width)
    if len(pairs) != len(shape) or not all(isinstance(w, Sequence) and len(w) == 2 for w in pairs):
        raise ValueError(f"pad: pad_width {pad_width!r}: must be a pair (before, after) for each axis of {shape}")
    widths = [as_ints("pad", tuple(pair)) for pair in pairs]
    if any(n < 0 for pair in widths for n in pair):
        raise ValueError(f"pad: pad_width {pad_width!r}: must not be negative; slice x instead")
    return Pad(widths, value)(x)


@torch_names
def flip(x: TensorLike, axis: Any = None) -> Tensor:
    """x reversed along `axis`: one, several, or all if None."""
    x = as_tensor(x)
    ndim = x.ndim
    axes = normalize_axes("flip", axis, ndim)
    return getitem(x, tuple(slice(None, None, -1 if i in axes else 1) for i in range(ndim)))


@torch_names
def roll(x: TensorLike, shift: int | Sequence[int], axis: Any = None) -> Tensor:
    """x shifted by `shift` along `axis`, wrapping around.

    Both may be sequences of one length; without an axis, x is shifted as if it were flat.
    """
    x = as_tensor(x)
    shifts = as_ints("roll", (shift,))
    if axis is None:
        return reshape(Roll(shifts, (0,))(reshape(x, x.numel())), x.shape)
    axes = tuple([normalize_axis("roll", a, x.ndim) for a in as_ints("roll", (axis,))])
    if len(axes) != len(shifts):
        raise ValueError(f"roll: shift {shift} and axis {axis}: must be as many of one as of the other")
    return Roll(shifts, axes)(x) if x.ndim else x


def contiguous(x: TensorLike) -> Tensor:
    """x in C-contiguous memory: x itself if it is, else a copy."""
    x = as_tensor(x)
    return x if x.data.flags.c_contiguous else Contiguous()(x)


def tril(x: TensorLike, diagonal: int = 0) -> Tensor:
    """The lower triangle of the last two axes: 0 above the given diagonal."""
    x = as_tensor(x)
    return where(_triangle("tril", x, diagonal), x, x.dtype.type(0))


def triu(x: TensorLike, diagonal: int = 0) -> Tensor:
    """The upper triangle of the last two axes: 0 below the given diagonal."""
    x = as_tensor(x)
    return where(_triangle("triu", x, diagonal - 1), x.dtype.type(0), x)


def _triangle(name: str, x: Tensor, diagonal: int):
    if x.ndim < 2:
        raise ValueError(f"{name}: a tensor of shape {x.shape}: needs at least 2 axes")
    return array_module(x.data).tri(*x.shape[-2:], k=diagonal, dtype=bool)

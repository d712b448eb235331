"""Reductions over one, several or all axes, with NumPy's meaning of `axis` and `keepdims`.

Every VJP first gives g its reduced axes back with length 1 (`_keep`), after which the rest is broadcasting. All take
PyTorch's `dim` and `keepdim` as well. Read `shape.py` next.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinytensor.backend import array_module
from tinytensor.ops.arguments import all_axes, one_axis, torch_names
from tinytensor.ops.elementwise import cast, floating, sqrt
from tinytensor.tensor import Function, Tensor, TensorLike, as_array, raw


class _Reduction(Function):
    """Options common to all reductions. axis: None (all axes), an int or a sequence of ints."""

    def __init__(self, axis=None, keepdims=False):
        self.axis, self.keepdims = axis, keepdims

    def axes(self, shape: tuple[int, ...]) -> tuple[int, ...] | None:
        """The axes that are reduced, of an array of `shape`: each counted from the front, or None for all."""
        return None if self.axis is None else all_axes(type(self).__name__.lower(), self.axis, len(shape))

    def keep(self, g, shape):
        """g with the reduced axes of `shape` as axes of length 1."""
        axes = self.axes(shape) if self.axis is not None else range(len(shape))
        return g.reshape([1 if i in axes else n for i, n in enumerate(shape)])


class Sum(_Reduction):
    """y = sum_i x_i;  gx_i = g"""

    def forward(self, x):
        self.shape = x.shape
        return x.sum(axis=self.axes(x.shape), keepdims=self.keepdims)

    def vjp(self, g):
        return (array_module(g).broadcast_to(self.keep(g, self.shape), self.shape),)


class Max(_Reduction):
    """y = max_i x_i;  g goes to the largest x_i, in equal parts where several are, and to a NaN, which y is then"""

    def forward(self, x):
        y = x.max(axis=self.axes(x.shape), keepdims=self.keepdims)
        self.x, self.y = self.save(x, as_array(y))
        return y

    def vjp(self, g):
        x, y = self.x, self.keep(self.y, self.x.shape)
        selected = (x == y) | (x != x)  # NaN is the only number that differs from itself
        count = selected.sum(axis=self.axes(x.shape), keepdims=True).astype(g.dtype)
        return (selected * (self.keep(g, x.shape) / count),)


class Min(Max):
    """y = min_i x_i;  g goes to the smallest x_i, in equal parts where several are, and to a NaN, which y is then"""

    def forward(self, x):
        y = x.min(axis=self.axes(x.shape), keepdims=self.keepdims)
        self.x, self.y = self.save(x, as_array(y))
        return y


class LogSumExp(_Reduction):
    """y = log sum_i exp(x_i);  gx_i = g exp(x_i - y)"""

    def forward(self, x):
        xp, x, axes = array_module(x), floating(x), self.axes(x.shape)
        # subtract the maximum first: exp overflows float32 above 88; if it is infinite there is nothing to subtract
        top = x.max(axis=axes, keepdims=True)
        top = xp.where(xp.isfinite(top), top, 0).astype(x.dtype)
        self.x, self.y = self.save(x, xp.log(xp.exp(x - top).sum(axis=axes, keepdims=True)) + top)
        return self.y if self.keepdims else self.y.squeeze(axes)

    def vjp(self, g):
        return (self.keep(g, self.x.shape) * array_module(g).exp(self.x - self.y),)


@torch_names
def sum(x: TensorLike, axis: Any = None, keepdims: bool = False) -> Tensor:
    """The sum over `axis` (None: over everything)."""
    return Sum(axis, keepdims)(x)


@torch_names
def mean(x: TensorLike, axis: Any = None, keepdims: bool = False) -> Tensor:
    """The mean over `axis`; integers give float32, float16 is added up in float32."""
    wide = _wide(x)
    total = sum(wide, axis, keepdims)
    return _narrow(total / _count(wide, total), x)


@torch_names
def max(x: TensorLike, axis: Any = None, keepdims: bool = False) -> Tensor:
    """The maximum over `axis`, NaN where there is one."""
    return Max(axis, keepdims)(x)


@torch_names
def min(x: TensorLike, axis: Any = None, keepdims: bool = False) -> Tensor:
    """The minimum over `axis`, NaN where there is one."""
    return Min(axis, keepdims)(x)


@torch_names
def var(x: TensorLike, axis: Any = None, keepdims: bool = False, ddof: int = 0) -> Tensor:
    """The variance over `axis`: the sum of squared deviations divided by n - ddof.

    The default is NumPy's, ddof = 0; PyTorch's is 1. With n <= ddof the result is infinite or NaN, as in both.
    """
    wide = _wide(x)
    centered = wide - mean(wide, axis, keepdims=True)
    total = sum(centered * centered, axis, keepdims)
    count = _count(wide, total)
    return _narrow(total / (count - ddof if count > ddof else 0), x)


@torch_names
def std(x: TensorLike, axis: Any = None, keepdims: bool = False, ddof: int = 0) -> Tensor:
    """The standard deviation over `axis`, the square root of `var`; the default is NumPy's, ddof = 0."""
    return sqrt(var(x, axis, keepdims, ddof))


@torch_names
def logsumexp(x: TensorLike, axis: Any = None, keepdims: bool = False) -> Tensor:
    """log(sum(exp(x))) over `axis`, without overflow."""
    return LogSumExp(axis, keepdims)(x)


def _wide(x: TensorLike) -> Tensor:
    """x in a dtype that sums do not overflow: float32 for float16 and integers."""
    x = x if isinstance(x, Tensor) else Tensor(x)
    return cast(x, np.float32) if x.dtype == np.float16 or x.dtype.kind != "f" else x


def _narrow(y: Tensor, x: TensorLike) -> Tensor:
    """y in float16 if x is."""
    return cast(y, np.float16) if getattr(raw(x), "dtype", None) == np.float16 else y


def _count(x: Tensor, total: Tensor) -> int:
    """How many elements of x each element of `total` is the sum of."""
    return x.data.size // (total.data.size or 1)


# ---- without a gradient ----


@torch_names
def argmax(x: TensorLike, axis: int | None = None, keepdims: bool = False) -> Tensor:
    """Where the maximum is along `axis` (the first of several), or in the flattened x if None."""
    return _without_gradient("argmax", x, axis, keepdims)


@torch_names
def argmin(x: TensorLike, axis: int | None = None, keepdims: bool = False) -> Tensor:
    """Where the minimum is along `axis` (the first of several), or in the flattened x if None."""
    return _without_gradient("argmin", x, axis, keepdims)


@torch_names
def argsort(x: TensorLike, axis: int = -1) -> Tensor:
    """The order that sorts the elements along `axis`, equal ones kept in their order."""
    array = as_array(x)
    if not array.ndim:
        return Tensor(array_module(array).zeros((), dtype=np.int64))
    return Tensor(array.argsort(axis=one_axis("argsort", axis, array.ndim), kind="stable"))


@torch_names
def all(x: TensorLike, axis: Any = None, keepdims: bool = False) -> Tensor:
    """Whether all elements over `axis` are true (not zero)."""
    return _without_gradient("all", x, axis, keepdims)


@torch_names
def any(x: TensorLike, axis: Any = None, keepdims: bool = False) -> Tensor:
    """Whether any element over `axis` is true (not zero)."""
    return _without_gradient("any", x, axis, keepdims)


def _without_gradient(name: str, x: TensorLike, axis: Any, keepdims: bool) -> Tensor:
    array = as_array(x)
    if axis is not None:
        axis = one_axis(name, axis, array.ndim) if name.startswith("arg") else all_axes(name, axis, array.ndim)
    return Tensor(getattr(array, name)(axis=axis if array.ndim else None, keepdims=keepdims))

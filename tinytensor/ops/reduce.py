"""Reductions over one, several or all axes, with NumPy's meaning of `axis` and `keepdims`.

Every VJP first restores the reduced axes of g with length 1 (`keep`); broadcasting does the rest. All take PyTorch's
`dim` and `keepdim` as well. Read `shape.py` next.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinytensor.backend import array_module
from tinytensor.ops.arguments import as_tensor, normalize_axes, torch_names
from tinytensor.ops.dtypes import floating, sum_dtype
from tinytensor.ops.elementwise import cast, float16_as_float32
from tinytensor.tensor import Function, Tensor, TensorLike, accurate_sum, as_array, raw


class _Reduction(Function):
    """Options common to all reductions. axes: those that are reduced, counted from the front."""

    def __init__(self, axes, keepdims):
        self.axes, self.keepdims = axes, keepdims

    def keep(self, g, shape):
        """g with the reduced axes of `shape` as axes of length 1."""
        return g.reshape([1 if i in self.axes else n for i, n in enumerate(shape)])


class Sum(_Reduction):
    """y = sum_i x_i;  gx_i = g"""

    def forward(self, x):
        self.shape = x.shape
        return accurate_sum(x, self.axes, self.keepdims, sum_dtype(x))

    def vjp(self, g):
        return (array_module(g).broadcast_to(self.keep(g, self.shape), self.shape),)


class Prod(_Reduction):
    """y = prod_i x_i;  gx_i = g prod_{j != i} x_j, which is g y / x_i unless there is a 0"""

    def forward(self, x):
        self.x = self.save(x)
        return x.prod(axis=self.axes, dtype=sum_dtype(x), keepdims=self.keepdims)

    def vjp(self, g):
        x, xp, axes = self.x, array_module(g), self.axes
        is_zero = xp.equal(x, 0)
        nonzero = xp.where(is_zero, 1, x)
        # the product of the other elements is nonzero only where no other element is 0
        others_nonzero = xp.equal(is_zero.sum(axis=axes, keepdims=True), is_zero)
        gx = self.keep(g, x.shape) * (nonzero.prod(axis=axes, keepdims=True) / nonzero)
        return (xp.where(others_nonzero, gx, g.dtype.type(0)),)  # not gx * 0, which is NaN where gx is infinite


class Max(_Reduction):
    """y = max_i x_i;  g goes to the largest x_i, split equally on ties; an x_i that is NaN makes y NaN and gets g"""

    method = "max"

    def forward(self, x):
        y = getattr(x, self.method)(axis=self.axes, keepdims=self.keepdims)
        self.x, self.y = self.save(x, as_array(y))
        return y

    def vjp(self, g):
        x, y = self.x, self.keep(self.y, self.x.shape)
        selected = (x == y) | (x != x)  # NaN is the only number that differs from itself
        count = selected.sum(axis=self.axes, keepdims=True).astype(g.dtype)
        # not selected * g, which is NaN where g is infinite
        return (array_module(g).where(selected, self.keep(g, x.shape) / count, g.dtype.type(0)),)


class Min(Max):
    """y = min_i x_i;  g goes to the smallest x_i, split equally on ties; an x_i that is NaN makes y NaN and gets g"""

    method = "min"


class Norm(_Reduction):
    """y = sqrt(sum_i x_i^2);  gx_i = g x_i / y, and 0 where y = 0"""

    def forward(self, x):
        y = array_module(x).sqrt((x * x).sum(axis=self.axes, keepdims=self.keepdims))
        self.x, self.y = self.save(x, as_array(y))
        return y

    def vjp(self, g):
        xp, y = array_module(g), self.keep(self.y, self.x.shape)
        return (self.x * (self.keep(g, self.x.shape) / xp.where(xp.equal(y, 0), 1, y)),)


class LogSumExp(_Reduction):
    """y = log sum_i exp(x_i);  gx_i = g exp(x_i - y)"""

    def forward(self, x):
        xp, x, axes = array_module(x), floating(x), self.axes
        # subtract the maximum first: exp overflows float32 above 88; but not an infinite one: inf - inf is NaN
        top = x.max(axis=axes, keepdims=True)
        top = xp.where(xp.isfinite(top), top, 0).astype(x.dtype)
        self.x, self.y = self.save(x, xp.log(xp.exp(x - top).sum(axis=axes, keepdims=True)) + top)
        return self.y if self.keepdims else self.y.squeeze(axes)

    def vjp(self, g):
        return (self.keep(g, self.x.shape) * array_module(g).exp(self.x - self.y),)


@torch_names
def sum(x: TensorLike, axis: Any = None, keepdims: bool = False) -> Tensor:
    """The sum over `axis` (None: over everything); integers give int64."""
    return _reduced("sum", Sum, x, axis, keepdims)


@torch_names
def prod(x: TensorLike, axis: Any = None, keepdims: bool = False) -> Tensor:
    """The product over `axis`; integers give int64."""
    return _reduced("prod", Prod, x, axis, keepdims)


@torch_names
def mean(x: TensorLike, axis: Any = None, keepdims: bool = False) -> Tensor:
    """The mean over `axis`; integers give float32, float16 is accumulated in float32."""
    wide = _wide(x)
    total = _reduced("mean", Sum, wide, axis, keepdims)
    return _narrow(total / _count(wide, total), x)


@torch_names
def max(x: TensorLike, axis: Any = None, keepdims: bool = False) -> Tensor:
    """The maximum over `axis`, NaN where there is one."""
    _require_no_tensor("max", axis)
    return _reduced("max", Max, x, axis, keepdims)


@torch_names
def min(x: TensorLike, axis: Any = None, keepdims: bool = False) -> Tensor:
    """The minimum over `axis`, NaN where there is one."""
    _require_no_tensor("min", axis)
    return _reduced("min", Min, x, axis, keepdims)


@torch_names
def var(x: TensorLike, axis: Any = None, keepdims: bool = False, ddof: int = 0) -> Tensor:
    """The variance over `axis`: the sum of squared deviations divided by n - ddof.

    The default is NumPy's, ddof = 0; PyTorch's is 1. With n <= ddof the result is infinite or NaN, as in both.
    """
    wide = _wide(x)
    axis = normalize_axes("var", axis, wide.ndim)
    centered = wide - mean(wide, axis, keepdims=True)
    total = sum(centered * centered, axis, keepdims)
    count = _count(wide, total)
    return _narrow(total / (count - ddof if count > ddof else 0), x)


@torch_names
def std(x: TensorLike, axis: Any = None, keepdims: bool = False, ddof: int = 0) -> Tensor:
    """The standard deviation over `axis`, the square root of `var`; the default is NumPy's, ddof = 0.

    The gradient where it is 0 is 0.
    """
    wide = _wide(x)
    axis = normalize_axes("std", axis, wide.ndim)
    deviation = _reduced("std", Norm, wide - mean(wide, axis, keepdims=True), axis, keepdims)
    count = _count(wide, deviation)
    return _narrow(deviation / (math.sqrt(count - ddof) if count > ddof else 0), x)


@torch_names
def norm(x: TensorLike, p: float = 2, axis: Any = None, keepdims: bool = False) -> Tensor:
    """The p-norm over `axis`: 2, the root of the sum of squares; 1, the sum of |x|; or infinity, the largest |x|.

    The gradient of a norm that is 0 is 0. Raises ValueError for another p.
    """
    if p not in (1, 2, np.inf):
        raise ValueError(f"norm: p {p!r}: must be 1, 2 or math.inf")
    wide = _wide(x)
    if p == 2:
        y = _reduced("norm", Norm, wide, axis, keepdims)
    elif p == 1:
        y = _reduced("norm", Sum, abs(wide), axis, keepdims)
    else:
        y = _reduced("norm", Max, abs(wide), axis, keepdims)
    return _narrow(y, x)


@torch_names
@float16_as_float32
def logsumexp(x: TensorLike, axis: Any = None, keepdims: bool = False) -> Tensor:
    """log(sum(exp(x))) over `axis`, without overflow."""
    return _reduced("logsumexp", LogSumExp, x, axis, keepdims)


@torch_names
def all(x: TensorLike, axis: Any = None, keepdims: bool = False) -> Tensor:
    """Whether all elements over `axis` are true (not zero); it has no gradient."""
    return _truth("all", x, axis, keepdims)


@torch_names
def any(x: TensorLike, axis: Any = None, keepdims: bool = False) -> Tensor:
    """Whether any element over `axis` is true (not zero); it has no gradient."""
    return _truth("any", x, axis, keepdims)


def _reduced(name: str, operation: type[_Reduction], x: TensorLike, axis: Any, keepdims: bool) -> Tensor:
    """Apply a reduction over the axes that `axis` names: all if None, an integer or a sequence of integers."""
    x = as_tensor(x)
    return operation(normalize_axes(name, axis, x.ndim), keepdims)(x)


def _require_no_tensor(name: str, axis: Any) -> None:
    """Raise TypeError for f(a, b) of two tensors, which in PyTorch is elementwise."""
    if isinstance(axis, Tensor):
        raise TypeError(
            f"{name}: axis is a tensor of shape {axis.shape}: must be integers; for two tensors use {name}imum"
        )


def _truth(name: str, x: TensorLike, axis: Any, keepdims: bool) -> Tensor:
    array = as_array(x)
    return Tensor(getattr(array, name)(axis=normalize_axes(name, axis, array.ndim), keepdims=keepdims))


def _wide(x: TensorLike) -> Tensor:
    """x in the dtype that its sums are accumulated in: float32 for float16 and integers, else its own."""
    x = as_tensor(x)
    return cast(x, np.float32) if x.dtype == np.float16 or x.dtype.kind != "f" else x


def _narrow(y: Tensor, x: TensorLike) -> Tensor:
    """y, cast back to float16 if x is float16."""
    return cast(y, np.float16) if getattr(raw(x), "dtype", None) == np.float16 else y


def _count(x: Tensor, total: Tensor) -> int:
    """The number of elements of x that are summed in each element of `total`."""
    return x.data.size // (total.data.size or 1)

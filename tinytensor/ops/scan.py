"""Running sums and products along an axis.

As y_i depends on the elements up to i, gx_i depends on g from i on: VJPs accumulate from the end.
"""

from __future__ import annotations

from typing import Any

from tinytensor.backend import array_module
from tinytensor.ops.arguments import as_tensor, normalize_axis, torch_names
from tinytensor.ops.dtypes import sum_dtype
from tinytensor.ops.shape import reshape
from tinytensor.tensor import Function, Tensor, TensorLike


class CumSum(Function):
    """y_i = sum_{j <= i} x_j;  gx_i = sum_{j >= i} g_j"""

    def __init__(self, axis):
        self.axis = axis

    def forward(self, x):
        return x.cumsum(axis=self.axis, dtype=sum_dtype(x))

    def vjp(self, g):
        return (_sum_from_the_back(g, self.axis),)


class CumProd(Function):
    """y_i = prod_{j <= i} x_j;  gx_i = sum_{j >= i} g_j y_j / x_i

    y_j / x_i is the product without x_i. Where x_i is the first 0 along the axis, that is the running product with a 1
    in its place, and beyond the first 0 it is 0.
    """

    def __init__(self, axis):
        self.axis = axis

    def forward(self, x):
        self.x, self.y = self.save(x, x.cumprod(axis=self.axis, dtype=sum_dtype(x)))
        return self.y

    def vjp(self, g):
        x, xp = self.x, array_module(g)
        is_zero = xp.equal(x, 0)
        zeros_so_far = is_zero.cumsum(axis=self.axis)
        is_first_zero = is_zero & xp.equal(zeros_so_far, 1)
        without_first = xp.where(is_first_zero, 1, x).cumprod(axis=self.axis)
        before = _sum_from_the_back(g * self.y, self.axis) / xp.where(is_zero, 1, x)
        at_first = _sum_from_the_back(g * without_first, self.axis)
        return (xp.where(xp.equal(zeros_so_far, 0), before, xp.where(is_first_zero, at_first, 0)),)


@torch_names
def cumsum(x: TensorLike, axis: int | None = None) -> Tensor:
    """The sums of the elements so far along `axis`, or of the flattened x if None; integers give int64."""
    return _along("cumsum", CumSum, x, axis)


@torch_names
def cumprod(x: TensorLike, axis: int | None = None) -> Tensor:
    """The products of the elements so far along `axis`, or of the flattened x if None; integers give int64."""
    return _along("cumprod", CumProd, x, axis)


def _along(name: str, operation: type, x: TensorLike, axis: int | None) -> Tensor:
    x = as_tensor(x)
    if axis is None:
        return operation(0)(reshape(x, x.numel()))
    axis = normalize_axis(name, axis, x.ndim)
    return operation(axis)(x) if x.ndim else reshape(operation(0)(reshape(x, 1)), ())


def _sum_from_the_back(g: Any, axis: int):
    """The sums of g from each element on along `axis`."""
    backwards = (slice(None),) * axis + (slice(None, None, -1),)
    return g[backwards].cumsum(axis=axis)[backwards]

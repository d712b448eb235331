"""Reductions over one, several or all axes, with NumPy's meaning of `axis` and `keepdims`.

Floor 2, beside `elementwise.py`. Every VJP first gives g its reduced axes back with length 1 (`_keep`), after which
the rest is broadcasting. Read `shape.py` next.
"""

from __future__ import annotations

from tinytensor.backend import array_module
from tinytensor.tensor import Function, Tensor


class _Reduction(Function):
    """Options common to all reductions. axis: None (all axes), an int or a tuple of ints."""

    def __init__(self, axis=None, keepdims=False):
        self.axis, self.keepdims = axis, keepdims

    def _axes(self, shape) -> tuple[int, ...]:
        axes = self.axis if isinstance(self.axis, tuple) else (self.axis,)
        return tuple(range(len(shape))) if self.axis is None else tuple(axis % len(shape) for axis in axes)

    def _keep(self, g, shape):
        """g with the reduced axes of `shape` as axes of length 1."""
        axes = self._axes(shape)
        return g.reshape([1 if i in axes else n for i, n in enumerate(shape)])


class Sum(_Reduction):
    """y = sum_i x_i;  gx_i = g"""

    def forward(self, x):
        self.shape = x.shape
        return x.sum(axis=self.axis, keepdims=self.keepdims)

    def vjp(self, g):
        return (array_module(g).broadcast_to(self._keep(g, self.shape), self.shape),)


class Max(_Reduction):
    """y = max_i x_i;  g goes to the largest x_i, in equal parts where several are"""

    def forward(self, x):
        self.x, self.y = x, x.max(axis=self.axis, keepdims=self.keepdims)
        return self.y

    def vjp(self, g):
        largest = self.x == self._keep(self.y, self.x.shape)
        ties = largest.sum(axis=self._axes(self.x.shape), keepdims=True).astype(g.dtype)
        return (largest * (self._keep(g, self.x.shape) / ties),)


class LogSumExp(_Reduction):
    """y = log sum_i exp(x_i);  gx_i = g exp(x_i - y)"""

    def forward(self, x):
        xp = array_module(x)
        # subtract the maximum first: exp overflows float32 above 88; if it is infinite there is nothing to subtract
        top = x.max(axis=self.axis, keepdims=True)
        top = xp.where(xp.isfinite(top), top, 0).astype(x.dtype)
        self.x, self.y = x, xp.log(xp.exp(x - top).sum(axis=self.axis, keepdims=True)) + top
        return self.y if self.keepdims else self.y.squeeze(self._axes(x.shape))

    def vjp(self, g):
        return (self._keep(g, self.x.shape) * array_module(g).exp(self.x - self.y),)


def sum(x, axis=None, keepdims=False) -> Tensor:
    """The sum over `axis` (None: over everything)."""
    return Sum(axis, keepdims)(x)


def mean(x, axis=None, keepdims=False) -> Tensor:
    """The mean over `axis`."""
    total = sum(x, axis, keepdims)
    return total / _summands(x, total)


def max(x, axis=None, keepdims=False) -> Tensor:
    """The maximum over `axis`."""
    return Max(axis, keepdims)(x)


def min(x, axis=None, keepdims=False) -> Tensor:
    """The minimum over `axis`."""
    return -max(-x, axis, keepdims)


def var(x, axis=None, keepdims=False, ddof=0) -> Tensor:
    """The variance over `axis`: the mean squared deviation, with n - ddof as divisor."""
    centred = x - mean(x, axis, keepdims=True)
    total = sum(centred * centred, axis, keepdims)
    return total / (_summands(x, total) - ddof)


def logsumexp(x, axis=None, keepdims=False) -> Tensor:
    """log(sum(exp(x))) over `axis`, without overflow."""
    return LogSumExp(axis, keepdims)(x)


def _summands(x, total) -> int:
    """How many elements of x each element of `total` is the sum of."""
    return x.data.size // (total.data.size or 1)

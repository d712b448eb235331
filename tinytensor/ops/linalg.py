"""The matrix product, in all of NumPy's forms.

Read `composed.py` next, then `fused.py`.
"""

from __future__ import annotations

import math

from tinytensor.ops.dtypes import promoted
from tinytensor.tensor import Function, Tensor, TensorLike, unbroadcast


class MatMul(Function):
    """y = a @ b;  ga = g @ b^T,  gb = a^T @ g

    Vectors are taken as a one-row or one-column matrix, and batch axes broadcast.
    """

    def forward(self, a, b):
        a, b = promoted(a, b)
        self.shapes = tuple(getattr(x, "shape", ()) for x in (a, b))  # a number has no axes
        # each serves the gradient of the other
        self.a = self.save(a) if self.needs_grad[1] else None
        self.b = self.save(b) if self.needs_grad[0] else None
        try:
            return a @ b
        except ValueError:
            raise ValueError(_mismatch(*self.shapes)) from None

    def vjp(self, g):
        (a_shape, b_shape), ga, gb = self.shapes, None, None
        row, column = len(a_shape) == 1, len(b_shape) == 1
        g = g[..., None] if column else g
        g = g[..., None, :] if row else g  # (..., M, N)
        if self.needs_grad[0]:
            b = self.b[:, None] if column else self.b  # (..., K, N)
            ga = g @ b.swapaxes(-1, -2)  # (..., M, N) @ (..., N, K) -> (..., M, K)
            ga = unbroadcast(ga[..., 0, :] if row else ga, a_shape)
        if self.needs_grad[1]:
            a = self.a[None, :] if row else self.a  # (..., M, K)
            if len(b_shape) <= 2:  # one product over all batches, instead of one for each to be summed later
                rows = math.prod(a.shape[:-1])  # not -1, which an empty array leaves undefined
                gb = a.reshape(rows, a.shape[-1]).T @ g.reshape(rows, g.shape[-1])  # (K, ...M) @ (...M, N) -> (K, N)
            else:
                gb = a.swapaxes(-1, -2) @ g  # (..., K, M) @ (..., M, N) -> (..., K, N)
            gb = unbroadcast(gb[..., 0] if column else gb, b_shape)
        return ga, gb


def matmul(a: TensorLike, b: TensorLike) -> Tensor:
    """a @ b: vectors, matrices and batches of matrices, (..., M, K) @ (..., K, N) -> (..., M, N)."""
    return MatMul()(a, b)


def _mismatch(a: tuple[int, ...], b: tuple[int, ...]) -> str:
    """Why arrays of these shapes have no product."""
    if not a or not b:
        return "each must have at least one axis"
    if a[-1] != b[-2:][0]:
        which = "second-last" if len(b) > 1 else "only"
        return f"the last axis of a, {a[-1]}, must equal the {which} axis of b, {b[-2:][0]}"
    return f"the leading axes of a, {a[:-2]}, and b, {b[:-2]}, must broadcast"

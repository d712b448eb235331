"""Softmax and its logarithm over the last axis.

Both subtract each row's maximum before exponentiating, since exp overflows float32 above 88.
"""

from __future__ import annotations

import numpy as np

from kernels import shapes
from kernels.cpu.blocks import as_rows, for_blocks
from kernels.cpu.compiled import compiled


def softmax_forward(x, scale=1.0, causal=False):
    """softmax(scale * x) over the last axis: x (..., R, S) -> (..., R, S).

    causal: row i sees only columns j <= i + S - R; the others get probability 0.
    """
    shapes.check_softmax(x, causal)
    y = np.empty(x.shape, x.dtype)
    rows, out = as_rows(x), as_rows(y)
    mask = _causal_mask(x.shape) if causal else None

    def work(block):
        p = np.multiply(rows[block], scale, out=out[block], dtype=x.dtype)
        if causal:
            p[mask[np.arange(block.start, block.stop) % len(mask)]] = -np.inf
        softmax_pass(p, p.max(axis=1))

    for_blocks(work, *_extent(rows))
    return y


@compiled
def softmax_pass(x, row_max):
    """Turn x (N, S) into its softmax; returns the log-sum-exp of each row (N,).

    row_max (N,) is what to subtract before exponentiating, or None where exp(x) cannot overflow.
    """
    if row_max is not None:
        x -= row_max[:, None]
    np.exp(x, out=x)
    total = x @ np.ones(x.shape[1], x.dtype)  # BLAS sums rows faster than `sum` does
    x /= total[:, None]
    return np.log(total) if row_max is None else np.log(total) + row_max


def softmax_backward(g, y, scale=1.0):
    """gx = scale * y * (g - sum_j g_j y_j), for g and y = softmax(scale * x) of one shape."""
    shapes.check_softmax_backward(g, y)
    gx = np.empty(y.shape, y.dtype)
    g, y, out = as_rows(g), as_rows(y), as_rows(gx)

    def work(block):
        dot = np.einsum("ij,ij->i", g[block], y[block])
        d = np.subtract(g[block], dot[:, None], out=out[block])
        d *= y[block]
        d *= scale

    for_blocks(work, *_extent(y))
    return gx


def log_softmax_forward(x):
    """x - log(sum(exp(x))) over the last axis."""
    shapes.check_log_softmax(x)
    y = np.empty(x.shape, x.dtype)
    rows, out = as_rows(x), as_rows(y)

    def work(block):
        shifted = np.subtract(rows[block], rows[block].max(axis=1, keepdims=True), out=out[block])
        shifted -= np.log(np.exp(shifted).sum(axis=1, keepdims=True))

    for_blocks(work, *_extent(rows))
    return y


def log_softmax_backward(g, y):
    """gx = g - exp(y) * sum_j g_j, for y = log_softmax(x)."""
    shapes.check_softmax_backward(g, y, "log_softmax_backward")
    gx = np.empty(y.shape, y.dtype)
    g, y, out = as_rows(g), as_rows(y), as_rows(gx)

    def work(block):
        p = np.exp(y[block], out=out[block])
        p *= g[block].sum(axis=1, keepdims=True)
        np.subtract(g[block], p, out=p)

    for_blocks(work, *_extent(y))
    return gx


def _extent(rows):
    """(number of rows, bytes per row)."""
    return len(rows) if rows.size else 0, rows.shape[1] * rows.itemsize


def _causal_mask(shape):
    """(R, S): True where row i must not see column j."""
    rows, columns = shape[-2:]
    return ~np.tri(rows, columns, k=columns - rows, dtype=bool)

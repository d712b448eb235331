"""The affine map y = x @ weight + bias, with weight (in, out).

Floor 0. All leading axes of x are taken together, so that each product is one large call to BLAS, or one for each
thread, on rows of the result.
"""

from __future__ import annotations

import numpy as np

from kernels.cpu.blocks import as_rows, row_blocks, spread, thread_count

SPREAD_FLOPS = 2e7  # a product smaller than this is over before another thread is awake
SUM_BYTES = 4 * 2**20  # of a product that is to be added to something: small enough to be still in the cache


def linear_forward(x, weight, bias):
    """x (..., I), weight (I, O), bias (O,) or None -> (..., O)."""
    y = np.empty((*x.shape[:-1], weight.shape[1]), x.dtype)
    rows = as_rows(y)
    matmul(as_rows(x), weight, rows)  # (N, I) @ (I, O) -> (N, O)
    if bias is not None:
        rows += bias
    return y


def linear_backward(g, x, weight):
    """g (..., O) -> gx = g @ weight^T (..., I), gweight = x^T @ g (I, O), gbias = sum of g's rows (O,)."""
    g, inputs = as_rows(g), as_rows(x)
    gx, gweight = np.empty(x.shape, x.dtype), np.empty(weight.shape, weight.dtype)
    matmul(g, weight.T, as_rows(gx))  # (N, O) @ (O, I) -> (N, I)
    matmul(inputs.T, g, gweight)  # (I, N) @ (N, O) -> (I, O)
    return gx, gweight, g.sum(axis=0)


def matmul(a, b, out):
    """out = a @ b, its rows spread over threads: (M, K) @ (K, N) -> (M, N)."""
    parts = thread_count() if 2.0 * a.size * b.shape[1] >= SPREAD_FLOPS else 1
    bounds = [len(a) * i // parts for i in range(parts + 1)]
    spread(lambda rows: np.matmul(a[rows], b, out=out[rows]), map(slice, bounds[:-1], bounds[1:]))


def add_matmul(a, b, out):
    """out += a @ b, in pieces, since NumPy cannot ask BLAS to add."""

    def work(rows):
        out[rows] += a[rows] @ b

    spread(work, row_blocks(len(out), out.shape[1] * out.itemsize, SUM_BYTES))

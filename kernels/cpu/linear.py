"""The affine map y = x @ weight + bias, with weight (in, out).

Floor 0. All leading axes of x are taken together, so that each product is one large call to BLAS, or one for each
thread, on rows or columns of the result.
"""

from __future__ import annotations

import numpy as np

from kernels.cpu.blocks import as_rows, row_blocks, spread, thread_count

SPREAD_FLOPS = 2e7  # a product smaller than this is over before another thread is awake
VECTOR_BYTES = 2**20  # a smaller matrix may still be in the cache, where BLAS is faster
READ_BYTES = 32 * 2**20  # a smaller matrix is read by one thread before another is of use
SUM_BYTES = 4 * 2**20  # of a product that is to be added to something: small enough to be still in the cache


def linear_forward(x, weight, bias):
    """x (..., I), weight (I, O), bias (O,) or None -> (..., O)."""
    y = np.empty((*x.shape[:-1], weight.shape[1]), x.dtype)
    rows = as_rows(y)
    matmul(as_rows(x), weight, rows)  # (N, I) @ (I, O) -> (N, O)
    if bias is not None:
        rows += bias
    return y


def linear_backward(g, x, weight, with_bias):
    """g (..., O) -> gx = g @ weight^T (..., I), gweight = x^T @ g (I, O), gbias = sum of g's rows (O,) or None."""
    g, inputs = as_rows(g), as_rows(x)
    gx, gweight = np.empty(x.shape, x.dtype), np.empty(weight.shape, weight.dtype)
    matmul(g, weight.T, as_rows(gx))  # (N, O) @ (O, I) -> (N, I)
    matmul(inputs.T, g, gweight)  # (I, N) @ (N, O) -> (I, O)
    return gx, gweight, np.ones(len(g), g.dtype) @ g if with_bias else None


def matmul(a, b, out):
    """out = a @ b, spread over threads: (M, K) @ (K, N) -> (M, N).

    The larger of a and b is divided among the threads, since BLAS has each of them copy all of the other.
    """
    spreads = 2.0 * a.size * b.shape[1] >= SPREAD_FLOPS
    if len(a) == 1 and b.nbytes >= VECTOR_BYTES:
        _vector_product(a[0], b, out[0])
    elif a.size >= b.size:
        spread(lambda rows: np.matmul(a[rows], b, out=out[rows]), _cut(len(a), spreads))
    else:
        spread(lambda cols: np.matmul(a, b[:, cols], out=out[:, cols]), _cut(b.shape[1], spreads))


def _vector_product(x, b, out):
    """out = x @ b for a matrix that has to come from main memory: (K,) @ (K, N) -> (N,).

    Each thread runs through a part of the matrix in the order it lies in, which keeps the memory busier than BLAS does.
    """
    spreads = b.nbytes >= READ_BYTES
    if b.strides[0] < b.strides[1]:  # a transposed matrix, as the output layer's
        spread(lambda part: np.vecdot(b.T[part], x, out=out[part]), _cut(b.shape[1], spreads))
    else:
        sums = spread(lambda part: np.einsum("k,kn->n", x[part], b[part]), _cut(b.shape[0], spreads))
        np.sum(sums, axis=0, out=out)


def _cut(length, worthwhile):
    """Slices of range(length): one for each thread if that is worthwhile, else one."""
    parts = thread_count() if worthwhile else 1
    bounds = [length * i // parts for i in range(parts + 1)]
    return list(map(slice, bounds[:-1], bounds[1:]))


def add_matmul(a, b, out):
    """out += a @ b, in pieces, since NumPy cannot ask BLAS to add."""

    def work(rows):
        out[rows] += a[rows] @ b

    spread(work, row_blocks(len(out), out.shape[1] * out.itemsize, SUM_BYTES))

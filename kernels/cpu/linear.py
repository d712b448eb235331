"""The affine map y = x @ weight + bias, with weight (in, out).

All leading axes of x are taken together, so that each product is one large call to BLAS, or one for each
thread, on rows or columns of the result; or a loop of small calls, where BLAS is faster at those (`loops/products.py`).
"""

from __future__ import annotations

import numpy as np

from kernels import shapes
from kernels.cpu.blas import has_small_kernels
from kernels.cpu.blocks import as_rows, for_blocks, row_blocks
from kernels.cpu.compiled import compiled
from kernels.cpu.threads import get_splits, parallel_map, split_evenly

PARALLEL_FLOPS = 2e7  # a product smaller than this is over before another thread is awake
VECTOR_BYTES = 2**20  # a smaller matrix may still be in the cache, where BLAS is faster
READ_BYTES = 32 * 2**20  # a smaller matrix is read by one thread before another is of use
TILED_ROWS = 256  # with fewer, reordering the other matrix in tiles does not pay
TILED_BYTES = 4 * 2**20  # of the other matrix: a larger one does not stay in the cache
SUM_BYTES = 4 * 2**20  # of a product that is to be added to something: small enough to be still in the cache


def linear_forward(x, weight, bias):
    """x (..., I), weight (I, O), bias (O,) or None -> (..., O)."""
    shapes.check_linear(x, weight, bias)
    y = np.empty((*x.shape[:-1], weight.shape[1]), x.dtype)
    rows = as_rows(y)
    matmul(as_rows(x), weight, rows)  # (N, I) @ (I, O) -> (N, O)
    if bias is not None:
        rows += bias
    return y


def linear_backward(g, x, weight, with_bias):
    """g (..., O) -> gx = g @ weight^T (..., I), gweight = x^T @ g (I, O), gbias = sum of g's rows (O,) or None."""
    shapes.check_linear_backward(g, x, weight)
    g, inputs = as_rows(g), as_rows(x)
    gx, gweight = np.empty(x.shape, x.dtype), np.empty(weight.shape, weight.dtype)
    matmul(g, weight.T, as_rows(gx))  # (N, O) @ (O, I) -> (N, I)
    matmul(inputs.T, g, gweight)  # (I, N) @ (N, O) -> (I, O)
    return gx, gweight, sum_rows(g) if with_bias else None


def sum_rows(x):
    """The sum of the rows of x (..., C): (C,)."""
    shapes.check_sum_rows(x)
    rows = as_rows(x)
    return np.ones(len(rows), rows.dtype) @ rows


def bias_add(x, added, bias):
    """x + (added + bias): x, added (..., C), bias (C,) -> (..., C)."""
    shapes.check_bias_add(x, added, bias)
    y = np.empty(x.shape, x.dtype)
    rows, others, out = map(as_rows, (x, added, y))

    def work(block):
        np.add(others[block], bias, out=out[block])
        out[block] += rows[block]

    for_blocks(work, len(out), x.shape[-1] * x.itemsize)
    return y


def bias_add_backward(g, dtype, with_bias):
    """g (..., C) -> g in the dtype of the array that was added, and the sum of g's rows (C,) or None."""
    shapes.check_sum_rows(g, "bias_add_backward")
    return g.astype(dtype, copy=False), sum_rows(g) if with_bias else None


def matmul(a, b, out, add=False):
    """out = a @ b, or with `add` out += a @ b, by several threads: (M, K) @ (K, N) -> (M, N), all of one dtype.

    Nothing is checked here: the primitives that call this have done so (`kernels/shapes.py`).
    The larger of a and b is divided among the threads, since each of them reorders all of the other for its products.
    """
    parallel = 2.0 * a.size * b.shape[1] >= PARALLEL_FLOPS
    if len(a) == 1 and b.nbytes >= VECTOR_BYTES and not add:
        _vector_product(a[0], b, out[0])
    elif not parallel:
        _product(a, b, out, add)
    elif a.size >= b.size:
        parallel_map(lambda rows: _product(a[rows], b, out[rows], add), _cut(len(a), parallel))
    else:
        parallel_map(lambda cols: _product(a, b[:, cols], out[:, cols], add), _cut(b.shape[1], parallel))


def _product(a, b, out, add):
    """The same on this thread; tiled if BLAS has no threads of its own, is good at tiles, and reordering b pays."""
    tiled = get_splits() > 1 and len(a) >= TILED_ROWS and b.nbytes <= TILED_BYTES and has_small_kernels()
    blas_layout = _is_blas_layout(a) and _is_blas_layout(b) and _has_contiguous_rows(out)
    (product_pass if blas_layout else product_pass.__wrapped__)(a, b, out, add, tiled)


@compiled
def product_pass(a, b, out, add, tiled):
    """out = a @ b or out += a @ b for matrices in a layout of BLAS; a loop can do it in tiles."""
    if not add:
        np.matmul(a, b, out=out)
        return
    for rows in row_blocks(len(out), out.shape[1] * out.itemsize, SUM_BYTES):  # NumPy cannot ask BLAS to add
        out[rows] += a[rows] @ b


def _is_blas_layout(x):
    """Whether BLAS can be given x as it is: not empty, its rows or else its columns contiguous and not overlapping.

    Read-only ones are left out as well, since loops are compiled for others.
    """
    (down, across), item = x.strides, x.itemsize
    apart = down >= item * x.shape[1] if across == item else down == item and across >= item * x.shape[0]
    return apart and x.size > 0 and x.flags.writeable


def _has_contiguous_rows(x):
    """Whether BLAS can write x (M, N): rows contiguous, one behind the other."""
    return x.strides[1] == x.itemsize and x.strides[0] >= x.itemsize * x.shape[1]


def _vector_product(x, b, out):
    """out = x @ b for a matrix that has to come from main memory: (K,) @ (K, N) -> (N,).

    Each thread reads a part of the matrix in the order of its memory, which uses more of its bandwidth than BLAS does.
    """
    parallel = b.nbytes >= READ_BYTES
    if b.strides[0] < b.strides[1]:  # a transposed matrix, as the output layer's
        parallel_map(lambda part: np.vecdot(b.T[part], x, out=out[part]), _cut(b.shape[1], parallel))
    else:
        sums = parallel_map(lambda part: np.einsum("k,kn->n", x[part], b[part]), _cut(b.shape[0], parallel))
        np.sum(sums, axis=0, out=out)


def _cut(length, worthwhile):
    """Slices of range(length): one for each thread if that is worthwhile, else one."""
    return split_evenly(length, get_splits() if worthwhile else 1)

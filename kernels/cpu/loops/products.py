"""Matrix products by NumPy's own BLAS (`kernels/cpu/blas.py`), called from inside a loop; and in tiles.

Up to MAX_SMALL_PRODUCT multiplications, OpenBLAS has kernels that do not copy their operands first.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from llvmlite import binding
from numba import types

from kernels.cpu.blas import sgemm_address, ssyrk_address
from kernels.cpu.loops.fastmath import ONE, ZERO
from kernels.cpu.loops.jit import helper, loop

MAX_SMALL_PRODUCT = 10**6
BLOCK_M, BLOCK_N = 32, 64  # rows and columns of a tile of the result
BLOCK_K = MAX_SMALL_PRODUCT // (BLOCK_M * BLOCK_N) // 16 * 16  # the longest inner side of a tile, in whole vectors
GROUP_M = 8 * BLOCK_M  # rows that are worked on at a time: few enough for a and out to stay in the cache
SMALL_SQUARE = 64  # rows of a symmetric product up to which computing all of it is faster than one half
LARGE_SQUARE, STRIP = 256, 16  # rows from which on the other half is copied in strips, whose lines stay in the cache
PADDING = 16  # unused columns of scratch arrays: rows a power of two apart would alias to the same sets of the cache

ROW_MAJOR, NO_TRANSPOSE, TRANSPOSE, LOWER = np.int32(101), np.int32(111), np.int32(112), np.int32(122)  # from cblas.h

_enum, _size, _address = types.int32, types.int64, types.uintp
_operand = _address, _size  # of a matrix: its address and leading dimension
if sgemm_address():
    binding.add_symbol("tinytensor_sgemm", sgemm_address())
    binding.add_symbol("tinytensor_ssyrk", ssyrk_address())
sgemm = types.ExternalFunction(
    "tinytensor_sgemm",
    types.void(*[_enum] * 3, *[_size] * 3, types.float32, *_operand, *_operand, types.float32, *_operand),
)
ssyrk = types.ExternalFunction(
    "tinytensor_ssyrk",
    types.void(*[_enum] * 3, *[_size] * 2, types.float32, *_operand, types.float32, *_operand),
)


def with_blas(decorator):
    """`decorator`, or without BLAS one that leaves None in the loop's place, so that the NumPy pass runs."""
    return decorator if sgemm_address() else lambda function: None


@helper
def product(a, b, out, add):
    """out = a @ b or, with add, out += a @ b: (M, K) @ (K, N) -> (M, N).

    a and b are as `_is_blas_layout` of `kernels/cpu/linear.py` says; the rows of out are contiguous.
    """
    rows_a, rows_b = a.strides[1] == 4, b.strides[1] == 4
    sgemm(
        ROW_MAJOR,
        NO_TRANSPOSE if rows_a else TRANSPOSE,
        NO_TRANSPOSE if rows_b else TRANSPOSE,
        out.shape[0],
        out.shape[1],
        a.shape[1],
        ONE,
        a.ctypes.data,
        (a.strides[0] if rows_a else a.strides[1]) // 4,
        b.ctypes.data,
        (b.strides[0] if rows_b else b.strides[1]) // 4,
        ONE if add else ZERO,
        out.ctypes.data,
        out.strides[0] // 4,
    )


@helper
def self_product(x, out):
    """out = x @ x.T (M, K) -> (M, M), of which BLAS computes one half if that pays; x is as in `product`."""
    if len(x) <= SMALL_SQUARE:
        product(x, x.T, out, False)
        return
    rows = x.strides[1] == 4
    ssyrk(
        ROW_MAJOR,
        LOWER,
        NO_TRANSPOSE if rows else TRANSPOSE,
        x.shape[0],
        x.shape[1],
        ONE,
        x.ctypes.data,
        (x.strides[0] if rows else x.strides[1]) // 4,
        ZERO,
        out.ctypes.data,
        out.strides[0] // 4,
    )
    strip = len(x) if len(x) < LARGE_SQUARE else STRIP
    for first in range(0, len(x), strip):
        for i in range(first, len(x)):
            for j in range(first, min(i, first + strip)):
                out[j, i] = out[i, j]


@helper
def tile_size(length, limit):
    """The size of equal parts of `length`, each at most `limit`; both sizes are multiples of 16, a whole vector."""
    parts = max(1, -(-length // limit))
    return -(-length // (16 * parts)) * 16


@helper
def scaled_copy(x, scale, out):
    """out = scale x (M, N), reading x in the order of its memory."""
    if x.strides[1] == 4:
        for i in range(x.shape[0]):
            for j in range(x.shape[1]):
                out[i, j] = x[i, j] * scale
    else:
        for j in range(x.shape[1]):
            for i in range(x.shape[0]):
                out[i, j] = x[i, j] * scale


_matrix = types.float32[:, :]  # of any layout, which would otherwise be a specialization per layout


@with_blas(partial(loop, signature=types.void(_matrix, _matrix, _matrix, types.boolean, types.boolean)))
def product_pass(a, b, out, add, tiled):
    """out = a @ b or, with add, out += a @ b: (M, K) @ (K, N) -> (M, N); tiled: in products of MAX_SMALL_PRODUCT."""
    if not tiled:
        product(a, b, out, add)
        return
    (rows, columns), inner = out.shape, a.shape[1]
    block_n, block_k = tile_size(columns, BLOCK_N), tile_size(inner, BLOCK_K)
    across, down = -(-columns // block_n), -(-inner // block_k)
    packed = np.empty((across, down, block_k, block_n + PADDING), np.float32)  # the tiles of b
    for group in range(0, rows, GROUP_M):
        for n in range(across):
            for k in range(down):
                tile = b[k * block_k : (k + 1) * block_k, n * block_n : (n + 1) * block_n]
                tile_copy = packed[n, k, : tile.shape[0], : tile.shape[1]]
                if group == 0:
                    scaled_copy(tile, ONE, tile_copy)
                for m in range(group, min(group + GROUP_M, rows), BLOCK_M):
                    block_rows = slice(m, min(m + BLOCK_M, rows))
                    a_block = a[block_rows, k * block_k : (k + 1) * block_k]
                    product(a_block, tile_copy, out[block_rows, n * block_n : (n + 1) * block_n], add or k > 0)

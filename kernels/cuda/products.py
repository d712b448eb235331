"""Matrix products of 16-bit arrays, whose sums cuBLAS accumulates in float32, on tensor cores where there are any.

`xp.matmul` of two matrices is such a product: CuPy calls cublasGemmEx with the compute type CUBLAS_COMPUTE_32F, and the
result is rounded once, to 16 bits (with more than two axes CuPy 14 refuses bfloat16). Gradients of weights are to stay
float32 and to be added up in place, which `matmul` cannot do, so `product` calls cublasGemmEx itself.
"""

from __future__ import annotations

import functools

import numpy as np

from kernels.cuda.launch import FLOAT32, check, contiguous, device_namespace

# of library_types.h and cublas_api.h
KINDS = {"float16": 2, "bfloat16": 14}  # CUDA_R_16F, CUDA_R_16BF
FLOAT32_KIND, COMPUTE_32F = 0, 68  # CUDA_R_32F, CUBLAS_COMPUTE_32F
AS_STORED, TRANSPOSED = 0, 1  # CUBLAS_OP_N, CUBLAS_OP_T
DEFAULT_ALGORITHM = -1  # CUBLAS_GEMM_DEFAULT
_NUMBERS = np.array([0, 1], np.float32)  # which cuBLAS reads at their addresses
ZERO, ONE = (_NUMBERS[i:].ctypes.data for i in range(2))


def product(a, b, out=None, add=False):
    """a (N, K) @ b (K, M), both float16 or both bfloat16, in float32: a new array, or `out`, contiguous.

    add: to what `out` holds.
    """
    xp, (rows, inner), columns, kind = device_namespace(a), a.shape, b.shape[1], _kind(a.dtype)
    if out is None:
        out = xp.empty((rows, columns), dtype=np.float32)
    check(
        a.dtype == b.dtype and kind is not None and out.dtype == FLOAT32 and out.flags.c_contiguous,
        f"product of {a.dtype} and {b.dtype} into {out.dtype}: must be of two 16-bit arrays, into contiguous float32",
    )
    if not inner or not out.size:
        if not add:
            out.fill(0)
        return out
    # cuBLAS takes memory by columns, so it sees the transpose of each of our arrays, and makes out^T = b^T a^T
    (a, a_as, a_step), (b, b_as, b_step) = _operand(a), _operand(b)
    xp.cuda.cublas.gemmEx(
        *(xp.cuda.Device().cublas_handle, b_as, a_as, columns, rows, inner, ONE),
        *(b.data.ptr, kind, b_step, a.data.ptr, kind, a_step, ONE if add else ZERO),
        *(out.data.ptr, FLOAT32_KIND, columns, COMPUTE_32F, DEFAULT_ALGORITHM),
    )
    return out


@functools.cache
def _kind(dtype):
    """cuBLAS's number of a dtype of 16 bits, None of another."""
    return KINDS.get(dtype.name)


def _operand(x):
    """The matrix, or a copy in C order; how cuBLAS has to take it for x^T; the step to the next row, or column."""
    if x.flags.f_contiguous and not x.flags.c_contiguous:
        return x, TRANSPOSED, x.shape[0]
    (x,) = contiguous(x)
    return x, AS_STORED, x.shape[1]

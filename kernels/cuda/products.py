"""Matrix products of 16-bit arrays, whose sums cuBLAS accumulates in float32, on tensor cores where there are any.

`xp.matmul` makes such products as well, by cublasGemmEx with the compute type CUBLAS_COMPUTE_32F. `product` calls that
itself: gradients of weights are to stay float32 and to be added up in place, which `matmul` cannot do, and of a step's
many products the others begin sooner without CuPy's generality.
"""

from __future__ import annotations

import functools

import numpy as np

from kernels.cuda.launch import FLOAT32, check, contiguous, device_namespace
from kernels.dtypes import is_sixteen_bit

# of library_types.h and cublas_api.h
KINDS = {"float16": 2, "bfloat16": 14}  # CUDA_R_16F, CUDA_R_16BF
FLOAT32_KIND, COMPUTE_32F = 0, 68  # CUDA_R_32F, CUBLAS_COMPUTE_32F
AS_STORED, TRANSPOSED = 0, 1  # CUBLAS_OP_N, CUBLAS_OP_T
DEFAULT_ALGORITHM = -1  # CUBLAS_GEMM_DEFAULT
_NUMBERS = np.array([0, 1], np.float32)  # which cuBLAS reads at their addresses
ZERO, ONE = (_NUMBERS[i:].ctypes.data for i in range(2))


def multiply(a, b):
    """a (N, K) @ b (K, M), in their dtype."""
    return product(a, b, dtype=a.dtype) if is_sixteen_bit(a.dtype) else device_namespace(a).matmul(a, b)


def product(a, b, out=None, add=False, dtype=FLOAT32):
    """a (N, K) @ b (K, M), both float16 or both bfloat16: a new array, of float32 or of their dtype.

    out: an array for the result, contiguous, instead of `dtype`. add: to what it holds.
    """
    xp, (rows, inner), columns, kind = device_namespace(a), a.shape, b.shape[1], _kind(a.dtype)
    if out is None:
        out = xp.empty((rows, columns), dtype=dtype)
    check(
        a.dtype == b.dtype and kind and out.dtype in (FLOAT32, a.dtype) and out.flags.c_contiguous,
        f"product of {a.dtype} and {b.dtype} into {out.dtype}: must be of two 16-bit arrays, into contiguous "
        "float32 or what they are",
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
        *(out.data.ptr, FLOAT32_KIND if out.dtype == FLOAT32 else kind, columns, COMPUTE_32F, DEFAULT_ALGORITHM),
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

"""`cupy.cuda.cublas` of the emulated device: the one function that our code calls.

Where cuBLAS would read or write beyond an array, this raises.
"""

from __future__ import annotations

import ctypes

import numpy as np

from kernels.emulator.dry_run import current_recorder

DTYPES = {0: "float32", 2: "float16", 14: "bfloat16"}  # cudaDataType_t
COMPUTE_32F = 68


def gemmEx(
    handle, transa, transb, m, n, k, alpha, A, Atype, lda, B, Btype, ldb, beta, C, Ctype, ldc, computeType, algo
):
    """C = alpha op(A) op(B) + beta C, of matrices by columns, op(A) (m, k), op(B) (k, n), summed in float32.

    op is the transpose where trans is 1; lda, ldb, ldc are the steps from column to column, alpha and beta addresses of
    float32 numbers on the host.
    """
    if computeType != COMPUTE_32F:
        raise ValueError(f"gemmEx: computeType {computeType}: the emulated device has {COMPUTE_32F} alone")
    alpha, beta = (ctypes.c_float.from_address(address).value for address in (alpha, beta))
    if recorder := current_recorder():
        size = A.array.itemsize
        return recorder.product(size * k * (m + n), C.array.itemsize * m * n, (n, m, k), size, adds=bool(beta))
    left = _matrix("A", A, Atype, (k, m) if transa else (m, k), lda)
    right = _matrix("B", B, Btype, (n, k) if transb else (k, n), ldb)
    left, right = left.T if transa else left, right.T if transb else right
    result = _matrix("C", C, Ctype, (m, n), ldc)
    with np.errstate(all="ignore"):  # a GPU raises no floating-point warnings
        product = alpha * (left.astype(np.float32) @ right.astype(np.float32))
        result[...] = product + beta * result.astype(np.float32) if beta else product
    C.array._mark_written()


def _matrix(name, address, kind, shape, step):
    """The matrix by columns at the address of an array, `step` elements from column to column."""
    array = address.array
    if array.dtype.name != DTYPES[kind]:
        raise ValueError(f"gemmEx: {name} has dtype {array.dtype}, and the call says {DTYPES[kind]}")
    memory = array.host.reshape(-1, order="A")  # as it lies there
    rows, columns = shape
    if step < rows or not np.shares_memory(memory, array.host) or (columns - 1) * step + rows > memory.size:
        raise ValueError(f"gemmEx: {name} of shape {shape} with step {step} does not fit an array of {array.shape}")
    return np.lib.stride_tricks.as_strided(memory, shape, (memory.itemsize, step * memory.itemsize))

"""The affine map y = x @ weight + bias, with weight (in, out).

Floor 0. All leading axes of x are taken together, so that each product is one large call to BLAS.
"""

from __future__ import annotations

import numpy as np

from kernels.cpu.blocks import as_rows


def linear_forward(x, weight, bias):
    """x (..., I), weight (I, O), bias (O,) or None -> (..., O)."""
    y = as_rows(x) @ weight  # (N, I) @ (I, O) -> (N, O)
    if bias is not None:
        y += bias
    return y.reshape(*x.shape[:-1], weight.shape[1])


def linear_backward(g, x, weight):
    """g (..., O) -> gx = g @ weight^T (..., I), gweight = x^T @ g (I, O), gbias = sum of g's rows (O,)."""
    rows, inputs = as_rows(g), as_rows(x)
    gx = np.empty(x.shape, x.dtype)
    np.matmul(rows, weight.T, out=gx.reshape(inputs.shape))  # (N, O) @ (O, I) -> (N, I)
    return gx, inputs.T @ rows, rows.sum(axis=0)

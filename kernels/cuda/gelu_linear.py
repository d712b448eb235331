"""A linear layer behind GELU and a bias (`gelu_linear.cu`).

Same functions as `kernels/cpu/gelu_linear.py`. A bias costs no pass over memory of its own here: it is added by what
reads the product next.
"""

from __future__ import annotations

import numpy as np

from kernels import shapes
from kernels.cuda.gelu import gelu_backward, gelu_forward
from kernels.cuda.launch import STRIP_ROWS, contiguous, device_namespace, divide_rows, launch_columns
from kernels.cuda.linear import linear_backward, linear_forward, product_backward, sum_rows
from kernels.dtypes import is_sixteen_bit


def gelu_linear_forward(x, x_bias, weight, bias):
    """gelu(x + x_bias) @ weight + bias: x (..., I), x_bias (I,) or None, weight (I, O), bias (O,) or None -> (..., O).

    Also returns what backward needs besides the arguments.
    """
    shapes.check_gelu_linear(x, x_bias, weight, bias)
    if x_bias is None or not x.size:
        return linear_forward(gelu_forward(x if x_bias is None else x + x_bias), weight, bias), None
    (x, x_bias), xp = contiguous(x, x_bias), device_namespace(x)
    y, finished = xp.empty_like(x), xp.empty(-(-x.shape[-1] // 256), dtype=np.uint32)
    launch_columns("gelu_linear.cu", "bias_gelu_forward", (x, x_bias, y), finished)
    return linear_forward(y, weight, bias), finished


def gelu_linear_backward(g, x, x_bias, weight, saved, with_bias, frozen=False):
    """g (..., O) -> gx (..., I), gx_bias (I,) or None, gweight (I, O), gbias (O,) or None; gx alone if frozen."""
    shapes.check_gelu_linear_backward(g, x, x_bias, weight)
    if frozen or saved is None:
        before = x if x_bias is None else x + x_bias
        if frozen:
            return gelu_backward(linear_forward(g, weight.T, None), before), None, None, None
        gy, *rest = linear_backward(g, gelu_forward(before), weight, with_bias)
        gx = gelu_backward(gy, before)
        return gx, None if x_bias is None else sum_rows(gx), *rest
    xp, (x, x_bias) = device_namespace(x), contiguous(x, x_bias)
    columns = x.shape[-1]
    _, strips = divide_rows(x.size // columns, STRIP_ROWS)
    gy, gx, y = linear_forward(g, weight.T, None), xp.empty_like(x), xp.empty_like(x)
    partial, gx_bias = xp.empty((strips, columns), dtype=np.float32), xp.empty(columns, dtype=np.float32)
    arrays = (gy, x, x_bias, gx, y)
    launch_columns("gelu_linear.cu", "bias_gelu_backward", arrays, partial, gx_bias, saved)
    if not is_sixteen_bit(x.dtype):
        gx_bias = sum_rows(gx)  # in the order in which float32 has always been added
    return gx, gx_bias, *product_backward(g, y, with_bias)

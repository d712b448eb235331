"""A linear layer behind GELU and a bias, and the sum of a residual stream and a layer's result (`gelu_linear.cu`).

Same functions as `kernels/cpu/gelu_linear.py`. A bias costs no pass over memory of its own here: it is added by what
reads the product next.
"""

from __future__ import annotations

import numpy as np

from kernels import shapes
from kernels.cuda.gelu import gelu_backward, gelu_forward
from kernels.cuda.launch import contiguous, device_namespace, launch_columns, pack_width
from kernels.cuda.linear import linear_backward, linear_forward, product_backward, sum_rows
from kernels.dtypes import is_sixteen_bit

STRIP_ROWS = 16  # at least; there are STRIPS strips at most
STRIPS = 256


def gelu_linear_forward(x, x_bias, weight, bias):
    """gelu(x + x_bias) @ weight + bias: x (..., I), x_bias (I,) or None, weight (I, O), bias (O,) or None -> (..., O).

    Also returns what backward needs besides the arguments.
    """
    shapes.check_gelu_linear(x, x_bias, weight, bias)
    if x_bias is None or not x.size:
        return linear_forward(gelu_forward(x if x_bias is None else x + x_bias), weight, bias), None
    (x, x_bias), xp = contiguous(x, x_bias), device_namespace(x)
    y, finished = xp.empty_like(x), xp.empty(-(-x.shape[-1] // 256), dtype=np.uint32)
    _launch("bias_gelu_forward", (x, x_bias, y), finished)
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
    columns, (_, strips) = x.shape[-1], _strips(x)
    gy, gx, y = linear_forward(g, weight.T, None), xp.empty_like(x), xp.empty_like(x)
    partial, gx_bias = xp.empty((strips, columns), dtype=np.float32), xp.empty(columns, dtype=np.float32)
    _launch("bias_gelu_backward", (gy, x, x_bias, gx, y), partial, gx_bias, saved)
    if not is_sixteen_bit(x.dtype):
        gx_bias = sum_rows(gx)  # in the order in which float32 has always been added
    return gx, gx_bias, *product_backward(g, y, with_bias)


def bias_add(x, added, bias):
    """x + (added + bias): x, added (..., C), bias (C,) -> (..., C).

    added and bias may have 16 bits where x, the residual stream, is float32.
    """
    shapes.check_bias_add(x, added, bias)
    x, added, bias = contiguous(x, added, bias)
    y = device_namespace(x).empty_like(x)
    if x.size:
        _launch("bias_add", (x, added, bias, y))
    return y


def _strips(x):
    """How many rows a block has, and how many strips of so many rows there are."""
    rows = x.size // x.shape[-1]
    strip_rows = max(STRIP_ROWS, -(-rows // STRIPS))
    return strip_rows, -(-rows // strip_rows)


def _launch(kernel, arrays, *others):
    """arrays: of x's rows, the first of its shape."""
    x = arrays[0]
    columns, (strip_rows, strips) = x.shape[-1], _strips(x)
    args = (*arrays, *others, x.size // columns, columns, strip_rows)
    launch_columns("gelu_linear.cu", kernel, columns, strips, args, pack_width(columns, *arrays))

"""A linear layer behind GELU and a bias."""

from __future__ import annotations

import numpy as np

from kernels import shapes
from kernels.cpu.blocks import as_rows, for_blocks
from kernels.cpu.gelu import gelu_backward, gelu_backward_pass, gelu_forward, gelu_pass
from kernels.cpu.linear import linear_backward, linear_forward, sum_rows

COPIES = 4  # of a block are worked on at once: x + x_bias, and what GELU makes of it


def gelu_linear_forward(x, x_bias, weight, bias):
    """gelu(x + x_bias) @ weight + bias: x (..., I), x_bias (I,) or None, weight (I, O), bias (O,) or None -> (..., O).

    Also returns what backward needs besides the arguments.
    """
    shapes.check_gelu_linear(x, x_bias, weight, bias)
    return linear_forward(_gelu(x, x_bias), weight, bias), None


def gelu_linear_backward(g, x, x_bias, weight, saved, with_bias, frozen=False):
    """g (..., O) -> gx (..., I), gx_bias (I,) or None, gweight (I, O), gbias (O,) or None; gx alone if frozen."""
    shapes.check_gelu_linear_backward(g, x, x_bias, weight)
    if frozen:
        gy, rest = linear_forward(g, weight.T, None), (None, None)
    else:
        gy, *rest = linear_backward(g, _gelu(x, x_bias), weight, with_bias)
    if x_bias is None:
        return gelu_backward(gy, x), None, *rest
    gx = np.empty(x.shape, x.dtype)
    gs, rows, out = map(as_rows, (gy, x, gx))

    def work(block):
        before = rows[block] + x_bias
        gelu_backward_pass(gs[block].reshape(-1), before.reshape(-1), out[block].reshape(-1))

    for_blocks(work, len(rows), COPIES * x.shape[-1] * x.itemsize)
    return gx, None if frozen else sum_rows(gx), *rest


def _gelu(x, bias):
    """gelu(x + bias), where bias may be None."""
    if bias is None:
        return gelu_forward(x)
    y = np.empty(x.shape, x.dtype)
    rows, out = map(as_rows, (x, y))

    def work(block):
        gelu_pass((rows[block] + bias).reshape(-1), out[block].reshape(-1))

    for_blocks(work, len(rows), COPIES * x.shape[-1] * x.itemsize)
    return y

"""Softmax and its logarithm over the last axis, as `softmax.cu` computes them.

Same functions as `kernels/cpu/softmax.py`, on arrays of 32 or 16 bits of CuPy or the emulator.
"""

from __future__ import annotations

from kernels import shapes
from kernels.cuda.launch import contiguous, device_namespace, launch_rows


def softmax_forward(x, scale=1.0, causal=False):
    """softmax(scale * x) over the last axis: x (..., R, S) -> (..., R, S).

    causal: row i sees only columns j <= i + S - R; the others get probability 0.
    """
    shapes.check_softmax(x, causal)
    (x,) = contiguous(x)
    y = device_namespace(x).empty_like(x)
    if x.size:
        queries = x.shape[-2] if causal else 1
        launch_rows("softmax.cu", "softmax_forward", *_size(x), (x, y, *_size(x), scale, causal, queries))
    return y


def softmax_backward(g, y, scale=1.0):
    """gx = scale * y * (g - sum_j g_j y_j), for g and y = softmax(scale * x) of one shape."""
    shapes.check_softmax_backward(g, y)
    g, y = contiguous(g, y)
    gx = device_namespace(y).empty_like(y)
    if y.size:
        launch_rows("softmax.cu", "softmax_backward", *_size(y), (g, y, gx, *_size(y), scale))
    return gx


def log_softmax_forward(x):
    """x - log(sum(exp(x))) over the last axis."""
    shapes.check_log_softmax(x)
    (x,) = contiguous(x)
    y = device_namespace(x).empty_like(x)
    if x.size:
        launch_rows("softmax.cu", "log_softmax_forward", *_size(x), (x, y, *_size(x)))
    return y


def log_softmax_backward(g, y):
    """gx = g - exp(y) * sum_j g_j, for y = log_softmax(x)."""
    shapes.check_softmax_backward(g, y, "log_softmax_backward")
    g, y = contiguous(g, y)
    gx = device_namespace(y).empty_like(y)
    if y.size:
        launch_rows("softmax.cu", "log_softmax_backward", *_size(y), (g, y, gx, *_size(y)))
    return gx


def _size(x) -> tuple[int, int]:
    return x.size // x.shape[-1], x.shape[-1]  # rows, columns

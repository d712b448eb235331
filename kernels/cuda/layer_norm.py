"""Layer normalization over the last axis, as `layer_norm.cu` computes it.

Same functions as `kernels/cpu/layer_norm.py`; x, weight, bias, y and gx may have 16 bits, all else is float32.
"""

from __future__ import annotations

import numpy as np

from kernels import shapes
from kernels.cuda.launch import contiguous, device_namespace, launch, launch_rows

STRIP_ROWS = 64  # rows per strip at least, STRIPS strips at most: the two stages of the sum over rows
STRIPS = 256


def layer_norm_forward(x, weight, bias, eps):
    """x (..., C), weight (C,), bias (C,) or None -> y (..., C), saved: x, mean (..., 1), rstd (..., 1) for backward."""
    shapes.check_layer_norm(x, weight, bias)
    added = weight if bias is None else bias  # never read without a bias
    x, weight, added = contiguous(x, weight, added)
    xp, columns = device_namespace(x), x.shape[-1]
    y = xp.empty_like(x)
    mean, rstd = (xp.empty((*x.shape[:-1], 1), dtype=np.float32) for _ in range(2))
    if x.size:
        rows = x.size // columns
        args = (x, weight, added, y, mean, rstd, rows, columns, eps, bias is not None)
        launch_rows("layer_norm.cu", "layer_norm_forward", rows, columns, args)
    return y, (x, mean, rstd)


def layer_norm_backward(g, weight, saved):
    """With h = g * weight: gx = rstd (h - mean(h) - n mean(h n)), gweight = sum g n, gbias = sum g."""
    x, mean, rstd = saved
    shapes.check_layer_norm_backward(g, weight, x, mean, rstd)
    g, weight, x, mean, rstd = contiguous(g, weight, x, mean, rstd)
    xp, columns = device_namespace(x), x.shape[-1]
    gx = xp.empty_like(x)
    if not x.size:
        return gx, xp.zeros(columns, dtype=np.float32), xp.zeros(columns, dtype=np.float32)
    rows = x.size // columns
    args = (g, x, weight, mean, rstd, gx, rows, columns)
    launch_rows("layer_norm.cu", "layer_norm_backward", rows, columns, args)
    return gx, *sums_over_rows(g, x, mean, rstd)


def sums_over_rows(g, x, mean, rstd):
    """The sums over rows of g (x - mean) rstd and of g (C,): gweight and gbias."""
    xp, columns = device_namespace(x), x.shape[-1]
    rows = x.size // columns
    strip_rows = max(STRIP_ROWS, -(-rows // STRIPS))
    strips = -(-rows // strip_rows)
    gweight, gbias = (xp.empty(columns, dtype=np.float32) for _ in range(2))
    partial = xp.empty((2, strips, columns), dtype=np.float32)
    args = (g, x, mean, rstd, partial, rows, columns, strip_rows)
    launch("layer_norm.cu", "layer_norm_strips", (-(-columns // 32), strips), (32, 8), args, ROW_THREADS=32)
    args = (partial, gweight, gbias, strips, columns)
    launch("layer_norm.cu", "layer_norm_columns", (-(-columns // 128), 2), (128,), args, ROW_THREADS=32)
    return gweight, gbias

"""RMS normalization over the last axis, as `rms_norm.cu` computes it.

Same functions as `kernels/cpu/rms_norm.py`. weight and y may have 16 bits; then so may x and gx, or these are float32,
as the residual stream is in mixed precision. rstd and gweight are float32.
"""

from __future__ import annotations

import numpy as np

from kernels import shapes
from kernels.cuda.launch import contiguous, device_namespace, launch_rows
from kernels.cuda.layer_norm import sums_over_rows


def rms_norm_forward(x, weight, eps):
    """x (..., C), weight (C,) -> y (..., C), saved: x and rstd (..., 1) for backward."""
    shapes.check_rms_norm(x, weight)
    x, weight = contiguous(x, weight)
    xp, columns = device_namespace(x), x.shape[-1]
    y, rstd = xp.empty(x.shape, dtype=weight.dtype), xp.empty((*x.shape[:-1], 1), dtype=np.float32)
    if x.size:
        rows = x.size // columns
        launch_rows("rms_norm.cu", "rms_norm_forward", rows, columns, (x, weight, y, rstd, rows, columns, eps))
    return y, (x, rstd)


def rms_norm_backward(g, weight, saved):
    """With h = g * weight: gx = rstd (h - n mean(h n)), gweight = sum g n."""
    x, rstd = saved
    shapes.check_rms_norm_backward(g, weight, x, rstd)
    g, weight, x, rstd = contiguous(g, weight, x, rstd)
    xp, columns = device_namespace(x), x.shape[-1]
    gx = xp.empty_like(x)
    if not x.size:
        return gx, xp.zeros(columns, dtype=np.float32)
    rows = x.size // columns
    launch_rows("rms_norm.cu", "rms_norm_backward", rows, columns, (g, x, weight, rstd, gx, rows, columns))
    gweight, _ = sums_over_rows(g, x, xp.zeros_like(rstd), rstd)
    return gx, gweight

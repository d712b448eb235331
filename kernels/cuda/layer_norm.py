"""Layer normalisation over the last axis, as `layer_norm.cu` computes it.

Floor 0. Same functions as `kernels/cpu/layer_norm.py`.
"""

from __future__ import annotations

from kernels.cuda.launch import array_module, check, contiguous, launch, launch_rows

STRIP_ROWS = 64  # rows per strip at least, STRIPS strips at most: the two stages of the sum over rows
STRIPS = 256


def layer_norm_forward(x, weight, bias, eps):
    """x (..., C), weight (C,), bias (C,) or None -> y (..., C), saved: x, mean (..., 1), rstd (..., 1) for backward."""
    (x,) = contiguous(x)
    xp, columns = array_module(x), x.shape[-1]
    check(weight.shape == (columns,), f"layer_norm: weight has shape {weight.shape}: must be ({columns},)")
    check(bias is None or bias.shape == (columns,), f"layer_norm: bias must be None or of shape ({columns},)")
    y = xp.empty_like(x)
    mean, rstd = (xp.empty((*x.shape[:-1], 1), dtype=x.dtype) for _ in range(2))
    if x.size:
        rows = x.size // columns
        added = weight if bias is None else bias  # never read without a bias
        args = (x, weight, added, y, mean, rstd, rows, columns, eps, bias is not None)
        launch_rows("layer_norm.cu", "layer_norm_forward", rows, columns, args)
    return y, (x, mean, rstd)


def layer_norm_backward(g, weight, saved):
    """With h = g * weight: gx = rstd (h - mean(h) - n mean(h n)), gweight = sum g n, gbias = sum g."""
    x, mean, rstd = saved
    check(g.shape == x.shape, f"layer_norm_backward: g has shape {g.shape}, and x {x.shape}")
    g, x = contiguous(g, x)
    xp, columns = array_module(x), x.shape[-1]
    gx, gweight, gbias = xp.empty_like(x), xp.zeros_like(weight), xp.zeros_like(weight)
    if x.size:
        rows = x.size // columns
        args = (g, x, weight, mean, rstd, gx, rows, columns)
        launch_rows("layer_norm.cu", "layer_norm_backward", rows, columns, args)
        _sum_over_rows(g, x, mean, rstd, gweight, gbias, rows, columns)
    return gx, gweight, gbias


def _sum_over_rows(g, x, mean, rstd, gweight, gbias, rows: int, columns: int) -> None:
    strip_rows = max(STRIP_ROWS, -(-rows // STRIPS))
    strips = -(-rows // strip_rows)
    partial = array_module(x).empty((2, strips, columns), dtype=x.dtype)
    args = (g, x, mean, rstd, partial, rows, columns, strip_rows)
    launch("layer_norm.cu", "layer_norm_strips", (-(-columns // 32), strips), (32, 8), args, ROW_THREADS=32)
    args = (partial, gweight, gbias, strips, columns)
    launch("layer_norm.cu", "layer_norm_columns", (-(-columns // 128), 2), (128,), args, ROW_THREADS=32)

"""RMS normalization over the last axis (Zhang & Sennrich 2019, arXiv:1910.07467): layer norm without mean and bias.

With rstd = 1 / sqrt(mean(x^2) + eps) and n = x rstd, the result is y = n * weight. Backward reads x again.
"""

from __future__ import annotations

import numpy as np

from kernels import shapes
from kernels.cpu.blocks import as_rows, for_blocks
from kernels.cpu.compiled import compiled


def rms_norm_forward(x, weight, eps):
    """x (..., C), weight (C,) -> y (..., C), saved: x and rstd (..., 1) for backward."""
    shapes.check_rms_norm(x, weight)
    y, rstd = np.empty(x.shape, x.dtype), np.empty((*x.shape[:-1], 1), x.dtype)
    rows, out, rstds = map(as_rows, (x, y, rstd))

    def work(block):
        rstds[block] = rms_norm_pass(rows[block], weight, eps, out[block])

    for_blocks(work, len(rows), x.shape[-1] * x.itemsize)
    return y, (x, rstd)


@compiled
def rms_norm_pass(x, weight, eps, y):
    """x (N, C) -> rstd (N, 1), and written to y (N, C)."""
    rstd = 1 / np.sqrt(np.vecdot(x, x)[:, None] / x.shape[1] + eps)
    np.multiply(x, rstd, out=y)
    y *= weight
    return rstd


def rms_norm_backward(g, weight, saved):
    """With h = g * weight: gx = rstd (h - n mean(h n)), gweight = sum g n."""
    x, rstd = saved
    shapes.check_rms_norm_backward(g, weight, x, rstd)
    gx = np.empty(g.shape, g.dtype)
    gs, rows, rstds, out = map(as_rows, (g, x, rstd, gx))
    width = g.shape[-1]

    def work(block):
        return rms_norm_backward_pass(gs[block], weight, rows[block], rstds[block], out[block])

    sums = for_blocks(work, len(gs), width * g.itemsize)
    return gx, np.sum(sums, axis=0, dtype=g.dtype) if sums else np.zeros(width, g.dtype)


@compiled
def rms_norm_backward_pass(g, weight, x, rstd, gx):
    """g, x (N, C) -> written to gx (N, C); the block's gweight (C,)."""
    n = x * rstd
    gn = np.multiply(g, n, out=gx)
    gweight, mean_hn = np.ones(len(g), g.dtype) @ gn, gn @ weight[:, None] / g.shape[1]
    h = np.multiply(g, weight, out=gx)
    n *= mean_hn
    h -= n
    h *= rstd
    return gweight

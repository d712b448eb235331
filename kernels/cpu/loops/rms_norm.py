"""The loops of `kernels/cpu/rms_norm.py`."""

from __future__ import annotations

import math

import numpy as np

from kernels.cpu.loops.fastmath import ONE, ZERO, f
from kernels.cpu.loops.jit import loop


@loop
def rms_norm_pass(x, weight, eps, y):
    """x (N, C), weight (C,) -> rstd (N, 1); written to y (N, C)."""
    rows, width = x.shape
    rstd = np.empty((rows, 1), x.dtype)
    for i in range(rows):
        squares = ZERO
        for c in range(width):
            squares += x[i, c] * x[i, c]
        scale = ONE / math.sqrt(squares / f(width) + f(eps))
        rstd[i, 0] = scale
        for c in range(width):
            y[i, c] = x[i, c] * scale * weight[c]
    return rstd


@loop
def rms_norm_backward_pass(g, weight, x, rstd, gx):
    """g, x (N, C), rstd (N, 1), weight (C,) -> gweight (C,); written to gx (N, C)."""
    rows, width = g.shape
    gweight = np.zeros(width, g.dtype)
    for i in range(rows):
        scale, mean_hn = rstd[i, 0], ZERO
        for c in range(width):
            mean_hn += g[i, c] * weight[c] * x[i, c] * scale
        mean_hn /= f(width)
        for c in range(width):
            n = x[i, c] * scale
            gx[i, c] = scale * (g[i, c] * weight[c] - n * mean_hn)
            gweight[c] += g[i, c] * n
    return gweight

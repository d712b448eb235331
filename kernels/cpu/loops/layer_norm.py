"""The loops of `kernels/cpu/layer_norm.py`."""

from __future__ import annotations

import math

import numpy as np

from kernels.cpu.loops.fastmath import ONE, ZERO, f
from kernels.cpu.loops.jit import loop


@loop
def layer_norm_pass(x, weight, bias, eps, y, normed):
    """x (N, C), weight (C,), bias (C,) or None -> rstd (N, 1); written to y (N, C), and to normed (N, C) or None."""
    rows, width = x.shape
    rstd = np.empty((rows, 1), x.dtype)
    for i in range(rows):
        mean = variance = ZERO
        for c in range(width):
            mean += x[i, c]
        mean /= f(width)
        for c in range(width):
            variance += (x[i, c] - mean) * (x[i, c] - mean)
        scale = ONE / math.sqrt(variance / f(width) + f(eps))
        rstd[i, 0] = scale
        for c in range(width):
            n = (x[i, c] - mean) * scale
            if normed is not None:
                normed[i, c] = n
            y[i, c] = n * weight[c] + (ZERO if bias is None else bias[c])
    return rstd


@loop
def layer_norm_backward_pass(g, weight, stored, inverse, rstd, gx):
    """g, stored (N, C), rstd (N, 1), weight (C,), inverse (C,) or None -> gweight, gbias (C,); written to gx (N, C)."""
    rows, width = g.shape
    gweight, gbias = np.zeros(width, g.dtype), np.zeros(width, g.dtype)
    for i in range(rows):
        mean_h = mean_hn = ZERO
        for c in range(width):
            h = g[i, c] * weight[c]
            mean_h += h
            mean_hn += h * (stored[i, c] if inverse is None else stored[i, c] * inverse[c])
        mean_h /= f(width)
        mean_hn /= f(width)
        scale = rstd[i, 0]
        for c in range(width):
            n = stored[i, c] if inverse is None else stored[i, c] * inverse[c]
            gx[i, c] = scale * (g[i, c] * weight[c] - mean_h - n * mean_hn)
            gweight[c] += g[i, c] * n
            gbias[c] += g[i, c]
    return gweight, gbias

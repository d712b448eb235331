"""GPT-2's activation, GELU in its tanh form (Hendrycks & Gimpel 2016, arXiv:1606.08415).

Floor 0. y = x s with s = (1 + tanh(u)) / 2, u = A (x + B x^3), A = sqrt(2 / pi), B = 0.044715.
"""

from __future__ import annotations

import math

import numpy as np

from kernels.cpu.blocks import for_blocks
from kernels.cpu.compiled import compiled

A = math.sqrt(2 / math.pi)
B = 0.044715


def gelu_forward(x, with_grad=True):
    """Elementwise; any shape -> y, saved: the slope dy/dx for backward, or None without `with_grad`.

    dy/dx = s + x s' with s' = 2 s (1 - s) u', u' = A (1 + 3 B x^2): most of it is there already when y is.
    """
    y = np.empty(x.shape, x.dtype)
    slope = np.empty(x.shape, x.dtype) if with_grad else None
    xs, ys, slopes = x.reshape(-1), y.reshape(-1), None if slope is None else slope.reshape(-1)

    def work(block):
        gelu_pass(xs[block], ys[block], slopes[block] if with_grad else None)

    for_blocks(work, x.size, x.itemsize)
    return y, slope


@compiled
def gelu_pass(x, y, slope):
    """Write GELU of x (n,) to y and, unless it is None, its slope."""
    square = x * x
    s = np.multiply(square, A * B, out=slope)
    s += A
    s *= x  # u
    np.tanh(s, out=s)
    s += 1
    s *= 0.5
    np.multiply(x, s, out=y)
    if slope is not None:
        rest = square
        rest *= 6 * A * B
        rest += 2 * A
        rest *= y  # x s 2 u'
        rest -= rest * s
        s += rest


def gelu_backward(g, saved):
    """gx = g dy/dx."""
    gx = np.empty(g.shape, g.dtype)
    gs, slopes, out = g.reshape(-1), saved.reshape(-1), gx.reshape(-1)
    for_blocks(lambda block: np.multiply(gs[block], slopes[block], out=out[block]), g.size, g.itemsize)
    return gx

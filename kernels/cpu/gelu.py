"""GPT-2's activation, GELU in its tanh form (Hendrycks & Gimpel 2016, arXiv:1606.08415).

y = x s with s = (1 + tanh(u)) / 2, u = A (x + B x^3), A = sqrt(2 / pi), B = 0.044715.
"""

from __future__ import annotations

import math

import numpy as np

from kernels import shapes
from kernels.cpu.blocks import for_blocks
from kernels.cpu.compiled import compiled

A = math.sqrt(2 / math.pi)
B = 0.044715


def gelu_forward(x):
    """x of any shape -> y = gelu(x)."""
    shapes.check_gelu(x)
    y = np.empty(x.shape, x.dtype)
    xs, ys = x.reshape(-1), y.reshape(-1)
    for_blocks(lambda block: gelu_pass(xs[block], ys[block]), x.size, x.itemsize)
    return y


@compiled
def gelu_pass(x, y):
    """Write GELU of x (n,) to y."""
    s = np.multiply(_u_over_x(x), x, out=y)  # u
    np.tanh(s, out=s)
    s += 1
    s *= x
    s *= 0.5


def gelu_backward(g, x):
    """g, x of one shape -> gx = g (s + x s'), with s' = 2 s (1 - s) u' and u' = A (1 + 3 B x^2)."""
    shapes.check_gelu_backward(g, x)
    gx = np.empty(x.shape, x.dtype)
    gs, xs, out = g.reshape(-1), x.reshape(-1), gx.reshape(-1)
    for_blocks(lambda block: gelu_backward_pass(gs[block], xs[block], out[block]), x.size, x.itemsize)
    return gx


@compiled
def gelu_backward_pass(g, x, gx):
    """g, x (n,) -> written to gx."""
    slope, s = _u_over_x(x), np.empty_like(x)
    np.tanh(slope * x, out=s)
    s += 1
    s *= 0.5
    slope *= 3
    slope -= 2 * A  # u'
    slope *= 1 - s
    slope *= x
    slope *= 2
    slope += 1
    slope *= s
    np.multiply(g, slope, out=gx)


def _u_over_x(x):
    """A + A B x^2."""
    y = x * x
    y *= A * B
    y += A
    return y

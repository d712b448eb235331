"""GPT-2's activation, GELU in its tanh form (Hendrycks & Gimpel 2016, arXiv:1606.08415).

Floor 0. y = x (1 + t) / 2 with t = tanh(u), u = A (x + B x^3), A = sqrt(2 / pi), B = 0.044715.
"""

from __future__ import annotations

import math

import numpy as np

from kernels.cpu.blocks import for_blocks

A = math.sqrt(2 / math.pi)
B = 0.044715


def gelu_forward(x):
    """Elementwise; any shape."""
    y = np.empty(x.shape, x.dtype)
    x, out = x.reshape(-1), y.reshape(-1)

    def work(block):
        t = _tanh(x[block])
        t += 1
        t *= x[block]
        np.multiply(t, 0.5, out=out[block])

    for_blocks(work, x.size, x.itemsize)
    return y


def gelu_backward(g, x):
    """gx = g ((1 + t) / 2 + x (1 - t^2) u' / 2), with u' = A (1 + 3 B x^2)."""
    gx = np.empty(x.shape, x.dtype)
    g, x, out = g.reshape(-1), x.reshape(-1), gx.reshape(-1)

    def work(block):
        t = _tanh(x[block])
        slope = np.multiply(x[block], x[block], out=out[block])
        slope *= 3 * A * B
        slope += A
        slope *= x[block]  # x u'
        slope *= 1 - t * t
        slope += t
        slope += 1
        slope *= g[block]
        slope *= 0.5

    for_blocks(work, x.size, x.itemsize)
    return gx


def _tanh(x):
    u = x * x
    u *= A * B
    u += A
    u *= x
    return np.tanh(u, out=u)

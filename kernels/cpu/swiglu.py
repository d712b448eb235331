"""SwiGLU, the gated activation of Llama's MLP (Shazeer 2020, arXiv:2002.05202).

x holds two halves, a and b, as one linear layer of twice the width yields them: y = a s b, with s = 1 / (1 + exp(-a)).
"""

from __future__ import annotations

import numpy as np

from kernels import shapes
from kernels.cpu.blocks import as_rows, for_blocks
from kernels.cpu.compiled import compiled


def swiglu_forward(x):
    """x (..., 2 F): the halves a and b -> y = a s b (..., F)."""
    shapes.check_swiglu(x)
    y = np.empty((*x.shape[:-1], x.shape[-1] // 2), x.dtype)
    rows, out = as_rows(x), as_rows(y)
    for_blocks(lambda block: swiglu_pass(rows[block], out[block]), len(rows), x.shape[-1] * x.itemsize)
    return y


@compiled
def swiglu_pass(x, y):
    """x (N, 2 F) -> written to y (N, F)."""
    a, b = np.split(x, 2, axis=1)
    np.multiply(a, _sigmoid(a), out=y)
    y *= b


def swiglu_backward(g, x):
    """g (..., F), x (..., 2 F) -> gx (..., 2 F): ga = g b s (1 + a (1 - s)), gb = g a s."""
    shapes.check_swiglu_backward(g, x)
    gx = np.empty(x.shape, x.dtype)
    gs, rows, out = map(as_rows, (g, x, gx))
    for_blocks(
        lambda block: swiglu_backward_pass(gs[block], rows[block], out[block]), len(rows), x.shape[-1] * x.itemsize
    )
    return gx


@compiled
def swiglu_backward_pass(g, x, gx):
    """g (N, F), x (N, 2 F) -> written to gx (N, 2 F)."""
    a, b = np.split(x, 2, axis=1)
    ga, gb = np.split(gx, 2, axis=1)
    s = _sigmoid(a)
    np.subtract(1, s, out=ga)
    ga *= a
    ga += 1
    ga *= s
    ga *= b
    ga *= g
    np.multiply(a, s, out=gb)
    gb *= g


def _sigmoid(a):
    """(1 + tanh(a / 2)) / 2, which is 1 / (1 + exp(-a)) and cannot overflow."""
    s = a * a.dtype.type(0.5)
    np.tanh(s, out=s)
    s += 1
    s *= 0.5
    return s

"""The loops of `kernels/cpu/swiglu.py`."""

from __future__ import annotations

from kernels.cpu.loops.fastmath import ONE, exp
from kernels.cpu.loops.jit import loop


@loop
def swiglu_pass(x, y):
    """x (N, 2 F) -> written to y (N, F)."""
    rows, half = y.shape
    for i in range(rows):
        for c in range(half):
            y[i, c] = x[i, c] / (ONE + exp(-x[i, c])) * x[i, half + c]


@loop
def swiglu_backward_pass(g, x, gx):
    """g (N, F), x (N, 2 F) -> written to gx (N, 2 F)."""
    rows, half = g.shape
    for i in range(rows):
        for c in range(half):
            a, b = x[i, c], x[i, half + c]
            s = ONE / (ONE + exp(-a))
            gx[i, c] = g[i, c] * b * s * (ONE + a * (ONE - s))
            gx[i, half + c] = g[i, c] * a * s

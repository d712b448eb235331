"""The loops of `kernels/cpu/gelu.py`."""

from __future__ import annotations

import math

from kernels.cpu.loops.fastmath import ONE, SIX, TWO, exp, f
from kernels.cpu.loops.jit import helper, loop

A, AB = f(math.sqrt(2 / math.pi)), f(math.sqrt(2 / math.pi) * 0.044715)


@helper
def gelu_s(x):
    """s = (1 + tanh(u)) / 2 as a sigmoid of 2 u."""
    return ONE / (ONE + exp(-TWO * x * (A + AB * x * x)))


@loop
def gelu_pass(x, y):
    """x (n,) -> written to y (n,)."""
    for i in range(x.size):
        y[i] = x[i] * gelu_s(x[i])


@loop
def gelu_backward_pass(g, x, gx):
    """g, x (n,) -> written to gx (n,)."""
    for i in range(x.size):
        s = gelu_s(x[i])
        gx[i] = g[i] * (s + x[i] * s * (ONE - s) * (TWO * A + SIX * AB * x[i] * x[i]))

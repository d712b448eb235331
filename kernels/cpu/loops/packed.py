"""The loop of `kernels/cpu/packed.py`."""

from __future__ import annotations

import numpy as np
from numba import types
from numba.extending import overload

from kernels.cpu.loops.fastmath import ZERO, f
from kernels.cpu.loops.jit import loop
from kernels.cpu.loops.vectors import LANES, load, multiply_add, prefetch, total, zeros

TILE = 4  # weight rows, and rows of x, that are multiplied at a time: for 16 products, 8 vectors are loaded
AHEAD = 1024  # weights that are on their way from memory before they are needed


def unpacked(value):
    """A stored weight as float32: the same, the upper half of its bits, or the int8 converted."""
    raise NotImplementedError("only inside compiled loops")


@overload(unpacked, inline="always")
def _unpacked(value):
    if value == types.uint16:
        return lambda value: np.uint32(np.uint32(value) << np.uint32(16)).view(np.float32)
    return lambda value: f(value)


@loop
def packed_linear_pass(x, values, scale, first, end, y):
    """x (B, I), values (O, I), scale (O,) or None -> outputs `first` to `end` written to y (B, O)."""
    batch, inputs = x.shape
    if batch > 1 and inputs % LANES == 0:
        several_rows(x, values, first, end, y)
    else:  # no weight is used twice, or few are
        for b in range(batch):
            x_row = x[b]
            for n in range(first, end):
                row, s = values[n], ZERO
                for i in range(inputs):
                    s += x_row[i] * unpacked(row[i])
                y[b, n] = s
    if scale is not None:
        for b in range(batch):
            for n in range(first, end):
                y[b, n] *= scale[n]


@loop
def several_rows(x, values, first, end, y):
    """The same but for the scale, with inputs in whole vectors: 16 products at a time."""
    batch, inputs = x.shape
    quarter = -(-(end - first) // TILE)  # far apart, four rows are four long streams, which the processor prefetches
    for n in range(first, first + quarter):
        # where fewer than four are left, the last one is computed again
        n1, n2, n3 = min(n + quarter, end - 1), min(n + 2 * quarter, end - 1), min(n + 3 * quarter, end - 1)
        w0, w1, w2, w3 = values[n], values[n1], values[n2], values[n3]
        for b in range(0, batch, TILE):
            b1, b2, b3 = min(b + 1, batch - 1), min(b + 2, batch - 1), min(b + 3, batch - 1)
            x0, x1, x2, x3 = x[b], x[b1], x[b2], x[b3]
            s00 = s01 = s02 = s03 = s10 = s11 = s12 = s13 = zeros()
            s20 = s21 = s22 = s23 = s30 = s31 = s32 = s33 = zeros()
            for i in range(0, inputs, LANES):
                prefetch(w0, i + AHEAD), prefetch(w1, i + AHEAD), prefetch(w2, i + AHEAD), prefetch(w3, i + AHEAD)
                w0i, w1i, w2i, w3i = load(w0, i), load(w1, i), load(w2, i), load(w3, i)
                x0i, x1i, x2i, x3i = load(x0, i), load(x1, i), load(x2, i), load(x3, i)
                s00, s01 = multiply_add(x0i, w0i, s00), multiply_add(x0i, w1i, s01)
                s02, s03 = multiply_add(x0i, w2i, s02), multiply_add(x0i, w3i, s03)
                s10, s11 = multiply_add(x1i, w0i, s10), multiply_add(x1i, w1i, s11)
                s12, s13 = multiply_add(x1i, w2i, s12), multiply_add(x1i, w3i, s13)
                s20, s21 = multiply_add(x2i, w0i, s20), multiply_add(x2i, w1i, s21)
                s22, s23 = multiply_add(x2i, w2i, s22), multiply_add(x2i, w3i, s23)
                s30, s31 = multiply_add(x3i, w0i, s30), multiply_add(x3i, w1i, s31)
                s32, s33 = multiply_add(x3i, w2i, s32), multiply_add(x3i, w3i, s33)
            y[b, n], y[b, n1], y[b, n2], y[b, n3] = total(s00), total(s01), total(s02), total(s03)
            y[b1, n], y[b1, n1], y[b1, n2], y[b1, n3] = total(s10), total(s11), total(s12), total(s13)
            y[b2, n], y[b2, n1], y[b2, n2], y[b2, n3] = total(s20), total(s21), total(s22), total(s23)
            y[b3, n], y[b3, n1], y[b3, n2], y[b3, n3] = total(s30), total(s31), total(s32), total(s33)

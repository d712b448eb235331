"""The loop of `kernels/cpu/packed.py`."""

from __future__ import annotations

import numpy as np
from numba import types
from numba.extending import overload

from kernels.cpu.loops.fastmath import ONE, ZERO, f
from kernels.cpu.loops.jit import loop

TILE = 4  # weight rows, and rows of x, that are multiplied at a time: for 16 products, 8 numbers are loaded


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
    if batch == 1:  # no weight is used twice
        x_row = x[0]
        for n in range(first, end):
            row, s = values[n], ZERO
            for i in range(inputs):
                s += x_row[i] * unpacked(row[i])
            y[0, n] = s * (ONE if scale is None else scale[n])
        return
    quarter = -(-(end - first) // TILE)  # far apart, four rows are four long streams, which the processor prefetches
    for n in range(first, first + quarter):
        # where fewer than four are left, the last one is computed again
        n1, n2, n3 = min(n + quarter, end - 1), min(n + 2 * quarter, end - 1), min(n + 3 * quarter, end - 1)
        w0, w1, w2, w3 = values[n], values[n1], values[n2], values[n3]
        f0 = f1 = f2 = f3 = ONE
        if scale is not None:
            f0, f1, f2, f3 = scale[n], scale[n1], scale[n2], scale[n3]
        for b in range(0, batch, TILE):
            b1, b2, b3 = min(b + 1, batch - 1), min(b + 2, batch - 1), min(b + 3, batch - 1)
            x0, x1, x2, x3 = x[b], x[b1], x[b2], x[b3]
            s00 = s01 = s02 = s03 = s10 = s11 = s12 = s13 = ZERO
            s20 = s21 = s22 = s23 = s30 = s31 = s32 = s33 = ZERO
            for i in range(inputs):
                x0i, x1i, x2i, x3i = x0[i], x1[i], x2[i], x3[i]
                w0i, w1i, w2i, w3i = unpacked(w0[i]), unpacked(w1[i]), unpacked(w2[i]), unpacked(w3[i])
                s00, s01, s02, s03 = s00 + x0i * w0i, s01 + x0i * w1i, s02 + x0i * w2i, s03 + x0i * w3i
                s10, s11, s12, s13 = s10 + x1i * w0i, s11 + x1i * w1i, s12 + x1i * w2i, s13 + x1i * w3i
                s20, s21, s22, s23 = s20 + x2i * w0i, s21 + x2i * w1i, s22 + x2i * w2i, s23 + x2i * w3i
                s30, s31, s32, s33 = s30 + x3i * w0i, s31 + x3i * w1i, s32 + x3i * w2i, s33 + x3i * w3i
            y[b, n], y[b, n1], y[b, n2], y[b, n3] = s00 * f0, s01 * f1, s02 * f2, s03 * f3
            y[b1, n], y[b1, n1], y[b1, n2], y[b1, n3] = s10 * f0, s11 * f1, s12 * f2, s13 * f3
            y[b2, n], y[b2, n1], y[b2, n2], y[b2, n3] = s20 * f0, s21 * f1, s22 * f2, s23 * f3
            y[b3, n], y[b3, n1], y[b3, n2], y[b3, n3] = s30 * f0, s31 * f1, s32 * f2, s33 * f3

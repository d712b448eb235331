"""The loop of `kernels/cpu/packed.py`."""

from __future__ import annotations

import numpy as np
from numba import types
from numba.extending import overload

from kernels.cpu.loops.fastmath import ONE, ZERO, f
from kernels.cpu.loops.jit import loop


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
    for n in range(first, end):
        row = values[n]
        factor = ONE if scale is None else scale[n]
        b = 0
        while b + 4 <= batch:  # four rows of x for each unpacked weight
            x0, x1, x2, x3 = x[b], x[b + 1], x[b + 2], x[b + 3]
            s0 = s1 = s2 = s3 = ZERO
            for i in range(inputs):
                w = unpacked(row[i])
                s0 += x0[i] * w
                s1 += x1[i] * w
                s2 += x2[i] * w
                s3 += x3[i] * w
            y[b, n], y[b + 1, n], y[b + 2, n], y[b + 3, n] = s0 * factor, s1 * factor, s2 * factor, s3 * factor
            b += 4
        while b < batch:
            x_row, s = x[b], ZERO
            for i in range(inputs):
                s += x_row[i] * unpacked(row[i])
            y[b, n] = s * factor
            b += 1

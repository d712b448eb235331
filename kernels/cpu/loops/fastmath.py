"""float32 constants, and the exponential function in vector instructions."""

from __future__ import annotations

import math

import numpy as np

from kernels.cpu.loops.jit import helper

f = np.float32
ZERO, HALF, ONE, TWO, SIX = f(0), f(0.5), f(1), f(2), f(6)

EXP_LOWEST, EXP_HIGHEST = f(-87.3), f(88.3)  # exp is 0 below and infinity above: 2^k has to be a normal number
INVERSE_LN2 = f(1 / math.log(2))
LN2_HIGH = f(0.693359375)  # few bits, so that k LN2_HIGH is exact
LN2_LOW = f(math.log(2) - 0.693359375)
EXPONENT_SHIFT, EXPONENT_BIAS = np.int32(23), np.int32(127)  # of the exponent's bits in a float32


@helper
def exp(x):
    """2^k exp(r), k = round(x / ln 2), |r| <= ln 2 / 2: k becomes the exponent, exp(r) is Cephes' polynomial (expf).

    numba's own would call the C library for each element; this compiles to vector instructions.
    """
    k = np.floor(x * INVERSE_LN2 + HALF)
    r = x - k * LN2_HIGH - k * LN2_LOW
    p = f(1.9875691500e-4)
    p = p * r + f(1.3981999507e-3)
    p = p * r + f(8.3334519073e-3)
    p = p * r + f(4.1665795894e-2)
    p = p * r + f(1.6666665459e-1)
    p = p * r + f(5.0000001201e-1)
    power = np.int32((np.int32(k) + EXPONENT_BIAS) << EXPONENT_SHIFT).view(np.float32)  # 2^k
    y = (p * r * r + r + ONE) * power
    y = ZERO if x < EXP_LOWEST else y
    return f(np.inf) if x > EXP_HIGHEST else y

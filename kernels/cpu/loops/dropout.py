"""The loop of `kernels/cpu/dropout.py`, and dropout of one row of probabilities for attention."""

from __future__ import annotations

import numpy as np

from kernels.cpu.loops.fastmath import ZERO, f
from kernels.cpu.loops.jit import helper, loop

# numba compiles constants in, and its cache would not notice a change of a file outside this package
GOLDEN, MULTIPLIERS = np.uint32(0x9E3779B9), (np.uint32(0x21F0AAAD), np.uint32(0xD35A2D97))  # copied from dropout.py


@helper
def mix(h):
    """Scramble a 32-bit integer."""
    h = np.uint32(h)  # numba computes with 64 bits and would keep them all
    h = np.uint32((h ^ (h >> 16)) * MULTIPLIERS[0])
    h = np.uint32((h ^ (h >> 15)) * MULTIPLIERS[1])
    return np.uint32(h ^ (h >> 15))


@loop
def keep_pass(key, columns, threshold):
    """key (N,), columns (n,), all uint32 -> booleans (N, n)."""
    keep = np.empty((key.size, columns.size), np.bool_)
    for i in range(key.size):
        for j in range(columns.size):
            keep[i, j] = mix(key[i] + columns[j] * GOLDEN) >= threshold
    return keep


@helper
def dropout_factors(options, row, factors):
    """Write to factors (n,) what the columns of a row are multiplied by, 0 or 1 / (1 - p), as `keep_mask` says."""
    key = mix(np.uint32(options.first_row + row) ^ np.uint32(options.seed))
    key = mix(key + np.uint32(options.seed >> np.uint64(32)))
    threshold, scale = np.uint32(options.p * 2**32), f(1 / (1 - options.p))
    for j in range(factors.size):
        factors[j] = scale if mix(key + np.uint32(j) * GOLDEN) >= threshold else ZERO

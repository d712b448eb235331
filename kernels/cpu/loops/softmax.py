"""The loop of `kernels/cpu/softmax.py`."""

from __future__ import annotations

import math

import numpy as np

from kernels.cpu.loops.fastmath import ZERO, exp
from kernels.cpu.loops.jit import loop


@loop
def softmax_pass(x, row_max):
    """x (N, S), row_max (N,) or None -> the log-sum-exp (N,); x becomes its softmax."""
    rows, columns = x.shape
    lse = np.empty(rows, x.dtype)
    for i in range(rows):
        shift = ZERO if row_max is None else row_max[i]
        total = ZERO
        for j in range(columns):
            p = exp(x[i, j] - shift)
            x[i, j] = p
            total += p
        for j in range(columns):
            x[i, j] /= total
        lse[i] = math.log(total) + shift
    return lse

"""Dropout whose mask is a hash of its position, as `dropout.cu` computes it.

Same function, and bit-identical mask, as `kernels/cpu/dropout.py`.
"""

from __future__ import annotations

from kernels import shapes
from kernels.cuda.launch import contiguous, device_namespace, launch_rows


def dropout(x, options):
    """x (..., C) with each element zeroed with probability p, the others divided by 1 - p. Its own VJP."""
    shapes.check_dropout(x)
    (x,) = contiguous(x)
    y = device_namespace(x).empty_like(x)
    if x.size:
        columns = x.shape[-1] if x.ndim else 1
        rows = x.size // columns
        args = (x, y, rows, columns, *dropout_args(options))
        launch_rows("dropout.cu", "dropout", rows, columns, args)
    return y


def dropout_args(options) -> tuple[int, float, int, int, int]:
    """threshold, keep_scale, seed_low, seed_high, first_row as the kernels take them for `Dropout` (random.cuh)."""
    p, seed = options.p, options.seed
    return int(p * 2**32), 1 / (1 - p), seed & 0xFFFFFFFF, seed >> 32, options.first_row % 2**32

"""Rotary positions, as `rotary.cu` computes them.

Same function as `kernels/cpu/rotary.py`.
"""

from __future__ import annotations

from kernels import shapes
from kernels.cuda.launch import contiguous, device_namespace, launch_rows


def rotary(x, table, count, in_place=False):
    """x (B, T, N, D), of each position's N vectors the first `count` rotated: in a new array, or in x itself.

    table (T, 2, D/2): the cosines and sines of each position's angles; if it is shorter, the rest of each
    vector is left as it is.
    """
    shapes.check_rotary(x, table, count, in_place)
    x, table = contiguous(x, table)
    y = x if in_place else device_namespace(x).empty_like(x)
    batch, time, vectors, size = x.shape
    if x.size:
        rows, columns = batch * time, vectors * size
        launch_rows(
            "rotary.cu", "rotary", rows, columns, (x, table, y, rows, time, columns, size, table.shape[2], count)
        )
    return y

"""Dropout whose mask is a hash of its position, as `dropout.cu` computes it.

Floor 0. Same function, and the same mask to the bit, as `kernels/cpu/dropout.py`.
"""

from __future__ import annotations

from kernels.cuda.launch import array_module, contiguous, dropout_args, launch_rows


def dropout(x, p, seed):
    """x with each element zeroed with probability p, the others divided by 1 - p. Its own VJP, with the same seed."""
    (x,) = contiguous(x)
    y = array_module(x).empty_like(x)
    if x.size:
        columns = x.shape[-1] if x.ndim else 1
        rows = x.size // columns
        args = (x, y, rows, columns, *dropout_args(p, seed))
        launch_rows("dropout.cu", "dropout", rows, columns, args)
    return y

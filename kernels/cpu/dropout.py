"""Dropout whose mask is a hash of its position, so that it is never stored and is the same on every device.

Element (row, column) is kept if a 32-bit hash of (seed, first_row + row, column) reaches p 2^32 (`DropoutOptions`).
`keep_mask` computes the same bits as `kernels/cuda/random.cuh`.
"""

from __future__ import annotations

import numpy as np

from kernels.cpu.blocks import as_rows, for_blocks
from kernels.cpu.compiled import compiled

GOLDEN = np.uint32(0x9E3779B9)  # 2^32 / golden ratio: spreads consecutive columns


def dropout(x, options):
    """x (..., C) with each element zeroed with probability p, the others divided by 1 - p. Its own VJP."""
    y = np.empty(x.shape, x.dtype)
    columns = np.arange(x.shape[-1] if x.ndim else 1)
    rows, out = as_rows(x.reshape(x.shape or 1)), as_rows(y.reshape(x.shape or 1))
    scale = x.dtype.type(1 / (1 - options.p))

    def work(block):
        keep = keep_mask(options, np.arange(block.start, block.stop), columns)
        np.multiply(rows[block], keep, out=out[block])
        out[block] *= scale

    for_blocks(work, len(rows), len(columns) * x.itemsize)
    return y


def keep_mask(options, rows, columns):
    """rows (...), columns (n,): integers -> booleans (..., n), each True with probability 1 - p.

    options: anything with p, seed and first_row.
    """
    seed = int(options.seed)
    low, high = np.uint32(seed & 0xFFFFFFFF), np.uint32(seed >> 32)
    hashed = (rows + options.first_row % 2**32).astype(np.uint32)
    key = _mix(_mix(hashed ^ low) + high)
    kept = keep_pass(key.reshape(-1), columns.astype(np.uint32), np.uint32(options.p * 2**32))
    return kept.reshape(*rows.shape, len(columns))


@compiled
def keep_pass(key, columns, threshold):
    """key (N,), columns (n,), all uint32 -> booleans (N, n)."""
    return _mix(key[:, None] + columns * GOLDEN) >= threshold


def _mix(h):
    """Scramble 32-bit integers in place (the two-round xor-shift-multiply permutation of Wellons' hash prospector)."""
    h ^= h >> np.uint32(16)
    h *= np.uint32(0x21F0AAAD)
    h ^= h >> np.uint32(15)
    h *= np.uint32(0xD35A2D97)
    h ^= h >> np.uint32(15)
    return h

"""Dropout whose mask is a hash of its position, so that it is never stored and is the same on every device.

Floor 0. Element (row, col) is kept if a 32-bit hash of (seed, row, col) reaches p 2^32. `keep_mask` computes the same
bits as `kernels/cuda/random.cuh`.
"""

from __future__ import annotations

import numpy as np

from kernels.cpu.blocks import as_rows, for_blocks
from kernels.cpu.compiled import compiled

GOLDEN = np.uint32(0x9E3779B9)  # 2^32 / golden ratio: spreads consecutive columns


def dropout(x, p, seed):
    """x with each element zeroed with probability p, the others divided by 1 - p. Its own VJP, with the same seed."""
    y = np.empty(x.shape, x.dtype)
    columns = np.arange(x.shape[-1] if x.ndim else 1)
    rows, out = as_rows(x.reshape(x.shape or 1)), as_rows(y.reshape(x.shape or 1))
    scale = x.dtype.type(1 / (1 - p))

    def work(block):
        keep = keep_mask(seed, np.arange(block.start, block.stop), columns, p)
        np.multiply(rows[block], keep, out=out[block])
        out[block] *= scale

    for_blocks(work, len(rows), len(columns) * x.itemsize)
    return y


def keep_mask(seed, rows, columns, p):
    """rows (...), columns (n,): integers -> booleans (..., n), each True with probability 1 - p."""
    low, high = np.uint32(seed & 0xFFFFFFFF), np.uint32(seed >> 32)
    key = _mix(_mix(rows.astype(np.uint32) ^ low) + high)
    kept = keep_pass(key.reshape(-1), columns.astype(np.uint32), np.uint32(p * 2**32))
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

"""Products with weights that are stored in fewer bits than they are computed with, for decoding.

A model that writes one token at a time reads all its weights for each, so the bandwidth of main memory decides its
speed, and half the bytes are twice the speed. Weights are unpacked on the way from memory to the registers; all
arithmetic is float32. A matrix is stored by output, as `values` (O, I), each row of which is one dot product:

    float32     the values as they are
    bfloat16    the upper half of each float32, rounded to nearest even, as uint16
    int8        round(w / scale) with a scale for each row, its largest magnitude / 127

For many rows of x, as of a prompt, blocks of the matrix are unpacked and left to BLAS, unless the loop that unpacks on
the way is faster: with AVX-512, where BLAS has none of it, as NumPy's OpenBLAS 0.3.31 on an AMD Zen 5.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from kernels import shapes
from kernels.cpu.blas import has_small_kernels
from kernels.cpu.blocks import BLOCK_BYTES, as_rows, for_blocks, row_blocks
from kernels.cpu.compiled import compiled, loop_alone
from kernels.cpu.linear import matmul
from kernels.cpu.threads import get_num_threads, parallel_map, split_evenly

FEW_ROWS = 16  # of x: with more, a product is bound by arithmetic, at which BLAS is often better
LOOP_ROWS = 64  # of x that a loop works on at a time: they stay in the cache of its core
LONG_VECTORS = 16  # numbers in a vector of AVX-512
PARALLEL_BYTES = 2**19  # a smaller matrix is read before another thread is awake
UNPACKED_BYTES = 2**22  # of a block of float32 weights, which BLAS should find in the cache
INT8_LARGEST = 127
TINY = np.float32(1e-37)  # a scale below this has no normal inverse; its row counts as zeros
DTYPES = {"float32": np.float32, "bfloat16": np.uint16, "int8": np.int8}


class Packed(NamedTuple):
    """A weight matrix by output: values (O, I) float32, uint16 (bfloat16) or int8; scale (O,) float32, or None."""

    values: np.ndarray
    scale: np.ndarray | None = None

    @property
    def nbytes(self) -> int:
        """Bytes that a product reads."""
        return self.values.nbytes + (0 if self.scale is None else self.scale.nbytes)

    def rows(self, which) -> Packed:
        """Some of the outputs, by a slice or by integers."""
        return Packed(self.values[which], None if self.scale is None else self.scale[which])


def empty_packed(shape, kind: str) -> Packed:
    """Room for a matrix (O, I), or for several (..., O, I); kind: one of DTYPES."""
    if kind not in DTYPES:
        raise ValueError(f"pack: kind is {kind!r}: must be one of {', '.join(DTYPES)}")
    return Packed(np.empty(shape, DTYPES[kind]), np.empty(shape[:-1], np.float32) if kind == "int8" else None)


def pack(weight, kind: str, out: Packed | None = None) -> Packed:
    """weight (O, I) float32, of any layout -> a copy in C order, one of DTYPES; or written to out."""
    values, scale = out = out or empty_packed(weight.shape, kind)

    def work(block):
        if scale is not None:
            values[block], scale[block] = to_int8(weight[block])
        else:
            values[block] = to_bfloat16(weight[block]) if kind == "bfloat16" else weight[block]

    for_blocks(work, len(weight), 4 * weight.shape[1])
    return out


def to_bfloat16(x):
    """float32 -> the bits of the nearest bfloat16 as uint16; of two as near, the even one.

    bfloat16 is the upper half of a float32. Adding 0x7fff, just less than half of its last place, carries into the
    upper half where the lower is more than half; adding the last bit that stays as well breaks ties to even. NaN stays
    NaN: it is given a bit that the carry cannot clear.
    """
    bits = np.array(x, np.float32, order="C").view(np.uint32)
    rounded = bits + (np.uint32(0x7FFF) + ((bits >> 16) & 1))
    return np.where(np.isnan(x), (bits >> 16) | 0x40, rounded >> 16).astype(np.uint16)


def from_bfloat16(bits):
    """The bits of bfloat16 as uint16 -> float32, exactly."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def to_int8(weight):
    """weight (O, I) float32 -> values (O, I) int8, scale (O,): weight is about values * scale[:, None].

    A row of zeros has scale 0. Infinity and NaN have no int8: their row's scale becomes NaN, as its products would be.
    """
    scale = abs(weight).max(axis=1, initial=0) / np.float32(INT8_LARGEST)
    scale[~np.isfinite(scale)] = np.nan
    usable = scale >= TINY
    inverse = np.divide(1, scale, out=np.zeros_like(scale), where=usable)
    values = np.rint(np.where(usable[:, None], weight, 0) * inverse[:, None])  # at most 127, up to rounding
    return values.astype(np.int8), np.where(scale < TINY, np.float32(0), scale)


def unpack(weight: Packed):
    """The matrix as float32 (O, I)."""
    if weight.scale is not None:
        return weight.values * weight.scale[..., None]  # int8 * float32 is float32
    return from_bfloat16(weight.values) if weight.values.dtype == np.uint16 else weight.values


def packed_linear(x, weight: Packed, bias):
    """x (..., I), weight (O, I), bias (O,) or None -> x @ weight.T + bias (..., O)."""
    shapes.check_packed_linear(x, weight, bias)
    y = np.empty((*x.shape[:-1], len(weight.values)), x.dtype)
    inputs, outputs = as_rows(x), as_rows(y)
    if len(inputs) <= FEW_ROWS or _loop_beats_blas(weight):
        _by_loop(np.ascontiguousarray(inputs), *weight, outputs)
    elif weight.values.dtype == np.float32:
        matmul(inputs, weight.values.T, outputs)
    else:
        blocks = row_blocks(len(weight.values), 4 * x.shape[-1], UNPACKED_BYTES, get_num_threads())
        parallel_map(lambda part: matmul(inputs, unpack(weight.rows(part)).T, outputs[:, part]), blocks)
    if bias is not None:
        outputs += bias
    return y


def _loop_beats_blas(weight: Packed) -> bool:
    """Whether it does at many rows: if it has long vectors, and BLAS has not or would need unpacked weights."""
    values = weight.values
    possible = values.shape[1] % LONG_VECTORS == 0 and loop_alone("LANES") == LONG_VECTORS
    return possible and (values.dtype != np.float32 or not has_small_kernels())


def _by_loop(x, values, scale, y):
    """y = x @ weight.T (B, O), the outputs divided among the threads if there are enough bytes to read."""

    def work(part):
        for rows in row_blocks(len(x), 1, LOOP_ROWS):
            packed_linear_pass(x[rows], values, scale, part.start, part.stop, y[rows])

    parallel_map(work, split_evenly(len(values), get_num_threads() if values.nbytes >= PARALLEL_BYTES else 1))


@compiled
def packed_linear_pass(x, values, scale, first, end, y):
    """Write outputs `first` to `end` of y = x @ weight.T: x (B, I), values (O, I), scale (O,) or None, y (B, O)."""
    weight = Packed(values, scale)
    for block in row_blocks(end - first, 4 * values.shape[1], BLOCK_BYTES):
        rows = slice(first + block.start, first + block.stop)
        np.matmul(x, unpack(weight.rows(rows)).T, out=y[:, rows])

"""Rotary positions: queries and keys are rotated by angles that grow with their position.

Shape letters as in `fused.py`. The arithmetic is `rotary` of `kernels.cpu` and `kernels.cuda`; here are the tables of
cosines and sines that it takes, and the operation of one array. `packed_causal_attention` rotates queries and keys
itself.
"""

from __future__ import annotations

import atexit
import functools
import math
from typing import Any

import numpy as np

from kernels.dtypes import sum_dtype
from tinytensor.backend import Device, device_of, kernels_for
from tinytensor.ops.arguments import as_tensor
from tinytensor.ops.dtypes import floating
from tinytensor.ops.elementwise import float16_by_kernels
from tinytensor.tensor import Function, Tensor, TensorLike

PAGE = 1024  # positions


class Rotary(Function):
    """y1 = x1 cos a - x2 sin a,  y2 = x2 cos a + x1 sin a, with x = (x1, x2, rest), a_ti = t f_i

    The frequencies are f_i = theta^(-2i/D), or others. gx is g rotated by -a (Su et al. 2021, arXiv:2104.09864).
    """

    def __init__(self, first_position, frequencies):
        self.first_position, self.frequencies = first_position, frequencies

    def forward(self, x):
        return self._rotated(floating(x), 1)

    def vjp(self, g):
        return (self._rotated(g, -1),)

    def _rotated(self, x, direction):
        time, heads, size = x.shape[-3:]
        table = rotary_table(x, time, self.frequencies, direction, self.first_position)
        vectors = x.reshape(math.prod(x.shape[:-3]), time, heads, size)
        return kernels_for(x).rotary(vectors, table, heads).reshape(x.shape)


@float16_by_kernels
def rotary(
    x: TensorLike, first_position: int = 0, theta: float = 10000.0, frequencies: tuple[float, ...] | None = None
) -> Tensor:
    """Queries or keys x (..., T, H, D) rotated by their positions, first_position + 0 ... T - 1.

    Each pair (x[..., i], x[..., i + D/2]), for i below D/2, is rotated by the angle position * theta^(-2i/D); then
    products of queries and keys depend on their distance alone. frequencies: R/2 other angles per position; if R is
    less than D, the pairs are those of the first R numbers, and the rest is left as it is. Composed: `composed.rotary`.
    Raises ValueError for an odd D without frequencies, too many frequencies, and an impossible first position or theta.
    """
    x = as_tensor(x)
    if x.ndim < 3:
        raise ValueError(f"rotary: x has shape {x.shape}: must be (..., T, H, D)")
    if first_position < 0:
        raise ValueError(f"rotary: first_position {first_position}: must be at least 0")
    return Rotary(first_position, rotary_frequencies("rotary", x.shape[-1], theta, frequencies))(x)


def rotary_frequencies(
    name: str, size: int, theta: float, frequencies: tuple[float, ...] | None = None
) -> tuple[float, ...]:
    """The frequencies that are given, or theta's for heads of this size. Raises ValueError if they do not fit."""
    if frequencies is not None:
        if 2 * len(frequencies) > size:
            raise ValueError(f"{name}: {len(frequencies)} frequencies: must be at most {size // 2}, half a head's size")
        return frequencies
    if size % 2:
        raise ValueError(f"{name}: head size {size}: must be even, as the halves of a head are rotated in pairs")
    if not theta > 0:
        raise ValueError(f"{name}: theta {theta}: must be positive")
    return _powers(size, theta)


@functools.cache
def _powers(size: int, theta: float) -> tuple[float, ...]:
    return tuple((theta ** (-np.arange(0, size, 2) / size)).tolist())  # (D/2,), in float64


def rotate_packed(
    qkv: Any, count: int, frequencies: tuple[float, ...], direction: int = 1, in_place: bool = False
) -> Any:
    """The raw array qkv (B, T, ..., D) with the first `count` heads rotated by direction times their angles."""
    batch, time, *heads, size = qkv.shape
    table = rotary_table(qkv, time, frequencies, direction)
    vectors = qkv.reshape(batch, time, math.prod(heads), size)
    return kernels_for(qkv).rotary(vectors, table, count, in_place).reshape(qkv.shape)


def rotary_table(x: Any, time: int, frequencies: tuple[float, ...], direction: int = 1, first_position: int = 0) -> Any:
    """(T, 2, R/2): cosines and sines of direction times the angles of `time` positions, where x is.

    In the dtype of x, or in float32 where that has 16 bits.
    """
    # begins at a whole page and has a power of two of rows, so that a text that grows by single tokens needs few tables
    page, first = divmod(first_position, PAGE)
    rows = 1 << max(0, first + time - 1).bit_length()
    return _table(page * PAGE, rows, frequencies, direction, sum_dtype(x), device_of(x))[first : first + time]


@functools.lru_cache(maxsize=64)
def _table(
    begin: int, rows: int, frequencies: tuple[float, ...], direction: int, dtype: np.dtype, device: Device
) -> Any:
    angles = np.arange(begin, begin + rows)[:, None] * np.array(frequencies)  # (rows, R/2), in float64
    return device.put(np.stack([np.cos(angles), direction * np.sin(angles)], axis=1).astype(dtype))


atexit.register(_table.cache_clear)  # while the devices whose memory the tables occupy are still there

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

from tinytensor.backend import Device, device_of, kernels_for
from tinytensor.ops.arguments import as_tensor
from tinytensor.ops.dtypes import floating
from tinytensor.ops.elementwise import float16_as_float32
from tinytensor.tensor import Function, Tensor, TensorLike

PAGE = 1024  # positions


class Rotary(Function):
    """y1 = x1 cos a - x2 sin a,  y2 = x2 cos a + x1 sin a, with x = (x1, x2), a_ti = t theta^(-2i/D)

    gx is g rotated by -a (Su et al. 2021, arXiv:2104.09864).
    """

    def __init__(self, first_position, theta):
        self.first_position, self.theta = first_position, theta

    def forward(self, x):
        return self._rotated(floating(x), 1)

    def vjp(self, g):
        return (self._rotated(g, -1),)

    def _rotated(self, x, direction):
        time, heads, size = x.shape[-3:]
        table = rotary_table(x, time, size, self.theta, direction, self.first_position)
        vectors = x.reshape(math.prod(x.shape[:-3]), time, heads, size)
        return kernels_for(x).rotary(vectors, table, heads).reshape(x.shape)


@float16_as_float32
def rotary(x: TensorLike, first_position: int = 0, theta: float = 10000.0) -> Tensor:
    """Queries or keys x (..., T, H, D) rotated by their positions, first_position + 0 ... T - 1.

    Each pair (x[..., i], x[..., i + D/2]), for i below D/2, is rotated by the angle position * theta^(-2i/D); then
    products of queries and keys depend on their distance alone. Composed: `composed.rotary`. Raises ValueError for an
    odd D, and for a first position or a theta that is impossible.
    """
    x = as_tensor(x)
    if x.ndim < 3:
        raise ValueError(f"rotary: x has shape {x.shape}: must be (..., T, H, D)")
    require_rotary("rotary", x.shape[-1], theta)
    if first_position < 0:
        raise ValueError(f"rotary: first_position {first_position}: must be at least 0")
    return Rotary(first_position, theta)(x)


def require_rotary(name: str, size: int, theta: float) -> None:
    """Raise ValueError unless heads of this size can be rotated."""
    if size % 2:
        raise ValueError(f"{name}: head size {size}: must be even, as the halves of a head are rotated in pairs")
    if not theta > 0:
        raise ValueError(f"{name}: theta {theta}: must be positive")


def rotate_packed(qkv: Any, theta: float, direction: int = 1, in_place: bool = False) -> Any:
    """The raw array qkv (B, T, 3, H, D) with queries and keys rotated by direction times their angles."""
    batch, time, parts, heads, size = qkv.shape
    table = rotary_table(qkv, time, size, theta, direction)
    vectors = qkv.reshape(batch, time, parts * heads, size)
    return kernels_for(qkv).rotary(vectors, table, 2 * heads, in_place).reshape(qkv.shape)


def rotary_table(x: Any, time: int, size: int, theta: float, direction: int = 1, first_position: int = 0) -> Any:
    """(T, 2, D/2): cosines and sines of direction times the angles of `time` positions, in the dtype and place of x."""
    # begins at a whole page and has a power of two of rows, so that a text that grows by single tokens needs few tables
    page, first = divmod(first_position, PAGE)
    rows = 1 << max(0, first + time - 1).bit_length()
    return _table(page * PAGE, rows, size, theta, direction, x.dtype, device_of(x))[first : first + time]


@functools.lru_cache(maxsize=64)
def _table(begin: int, rows: int, size: int, theta: float, direction: int, dtype: np.dtype, device: Device) -> Any:
    frequencies = theta ** (-np.arange(0, size, 2) / size)  # (D/2,), in float64
    angles = np.arange(begin, begin + rows)[:, None] * frequencies  # (rows, D/2)
    return device.put(np.stack([np.cos(angles), direction * np.sin(angles)], axis=1).astype(dtype))


atexit.register(_table.cache_clear)  # while the devices whose memory the tables occupy are still there

"""Rotary positions (Su et al. 2021, arXiv:2104.09864): vectors are rotated by angles that grow with their position.

The halves x1, x2 of a vector at position t are D/2 pairs (x1_i, x2_i), and each pair is rotated in its plane by the
angle a_i = t theta^(-2i/D), which is the layout of GPT-NeoX and Llama:

    y1 = x1 cos a - x2 sin a,  y2 = x2 cos a + x1 sin a

The product of a query and a key so rotated depends on their distance, not on their positions. A rotation is orthogonal:
its VJP is the rotation by -a, the same function with a table of those angles.
"""

from __future__ import annotations

import numpy as np

from kernels import shapes
from kernels.cpu.blocks import for_blocks
from kernels.cpu.compiled import compiled


def rotary(x, table, count, in_place=False):
    """x (B, T, N, D), of each position's N vectors the first `count` rotated: in a new array, or in x itself.

    table (T, 2, D/2): the cosines and sines of each position's angles; if it is shorter, the rest of each
    vector is left as it is.
    """
    shapes.check_rotary(x, table, count, in_place)
    y = x if in_place else np.array(x, order="C")
    batch, time, vectors, size = x.shape
    rows = y.reshape(batch * time, vectors, size)
    for_blocks(
        lambda block: rotary_pass(rows[block], table, count, block.start), len(rows), vectors * size * x.itemsize
    )
    return y


@compiled
def rotary_pass(x, table, count, first):
    """Rotate in place the first `count` vectors of each row of x (n, N, D); row i is at position (first + i) mod T."""
    time, _, half = table.shape
    cos, sin = table[(first + np.arange(len(x))) % time].swapaxes(0, 1)[:, :, None]  # each (n, 1, D/2)
    x1, x2 = x[:, :count, :half], x[:, :count, half : 2 * half]
    y2 = x2 * cos + x1 * sin
    x1 *= cos
    x1 -= x2 * sin
    x2[...] = y2

"""The norm of many gradients together in two launches, without temporaries of their size, as `norm.cu` adds them.

Same function as `kernels/cpu/norm.py`.
"""

from __future__ import annotations

import numpy as np

from kernels import shapes
from kernels.cuda.launch import contiguous, device_namespace, launch
from kernels.cuda.tensors import make_table

BLOCK_VALUES = 16384  # of norm.cu


def gradient_norm(gradients, chunk):
    """Float32 arrays -> the sums of squares of each chunk of so many values (chunks,), and the root of their sum ().

    Chunks begin anew with each array, and none is of an empty one. Their sums are added in order.
    """
    shapes.check_gradient_norm(gradients, chunk, BLOCK_VALUES)
    xp = device_namespace(gradients[0])
    gradients = [*contiguous(*(g for g in gradients if g.size))]
    if not gradients:
        return xp.zeros(0, dtype=np.float32), xp.zeros((), dtype=np.float32)
    table = make_table([gradients], BLOCK_VALUES)
    sizes = [min(chunk, g.size - start) for g in gradients for start in range(0, g.size, chunk)]
    first_parts = np.cumsum([0] + [-(-size // BLOCK_VALUES) for size in sizes], dtype=np.int32)
    parts, squares = (xp.empty(n, dtype=np.float32) for n in (table.blocks, len(sizes)))
    norm = xp.empty((), dtype=np.float32)
    args = (*table.addresses, table.sizes, table.first_blocks, table.tensors, parts)
    launch("norm.cu", "norm_parts", (table.blocks,), (256,), args)
    launch("norm.cu", "norm_chunks", (1,), (256,), (parts, xp.asarray(first_parts), squares, norm, len(sizes)))
    return squares, norm

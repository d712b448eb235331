"""The gradient of a table look-up: rows of g are added up by id, as `embedding.cu` does.

Floor 0. Same function as `kernels/cpu/embedding.py`.
"""

from __future__ import annotations

import numpy as np

from kernels.cuda.launch import array_module, check, contiguous, launch


def embedding_backward(g, ids, rows):
    """gweight[r] = the sum of g[n] over all n with ids[n] = r: g (..., C), ids (...) -> (rows, C).

    The ids are sorted, so that each row of the table is one segment with one owner; negative ids count from the end,
    as they do in `weight[ids]`.
    """
    check(g.shape[:-1] == ids.shape, f"embedding_backward: g has shape {g.shape}, and ids {ids.shape}")
    (g,) = contiguous(g)
    xp, columns = array_module(g), g.shape[-1]
    gweight = xp.zeros((rows, columns), dtype=g.dtype)
    if g.size and rows:
        ids = ids.reshape(-1).astype(np.int64) % rows
        order = xp.argsort(ids)  # stable in CuPy: equal ids stay in their order, so the sum's order is fixed
        starts = xp.searchsorted(ids[order], xp.arange(rows + 1)).astype(np.int64, copy=False)
        grid = (rows, -(-columns // 32))
        launch("embedding.cu", "embedding_backward", grid, (32, 8), (g, order, starts, gweight, columns))
    return gweight

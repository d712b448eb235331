"""The gradient of a table look-up: a scatter-add of the rows of g by id, as in `embedding.cu`.

Same function as `kernels/cpu/embedding.py`.
"""

from __future__ import annotations

import numpy as np

from kernels import shapes
from kernels.cuda.launch import check, contiguous, device_namespace, launch, launch_elements

BLOCKS = 2**16  # few rows of the table are divided among so many at most; starting more takes longer than their work


def embedding_backward(g, ids, gweight):
    """Add the sum of g[n] over all n with ids[n] = r to gweight[r], for each r: g (..., C), ids (...), gweight (V, C).

    The ids are sorted, so that each row of the table is one segment with one owner; negative ids count from the end,
    as they do in `weight[ids]`. gweight must be contiguous, as it is changed in place.
    """
    shapes.check_embedding_backward(g, ids, gweight)
    check(gweight.flags.c_contiguous, "embedding_backward: gweight must be contiguous to be changed in place")
    (g,) = contiguous(g)
    xp, (rows, columns) = device_namespace(g), gweight.shape
    if g.size and rows:
        (ids,) = contiguous(ids.reshape(-1).astype(np.int64, copy=False))
        table_rows, starts = xp.empty_like(ids), xp.empty(rows + 1, dtype=np.int64)
        launch_elements("embedding.cu", "embedding_rows", ids.size, (ids, table_rows, ids.size, rows))
        order = xp.argsort(table_rows)  # stable in CuPy: equal ids stay in their order, so the sum's order is fixed
        args = (table_rows, order, starts, ids.size, rows)
        launch_elements("embedding.cu", "embedding_starts", rows + 1, args)
        grid = (rows, max(1, min(BLOCKS // rows, -(-columns // 32))))
        launch("embedding.cu", "embedding_backward", grid, (32, 8), (g, order, starts, gweight, columns))

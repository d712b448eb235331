"""The gradient of a table look-up: rows of g are added up by id.

Floor 0.
"""

from __future__ import annotations

import numpy as np


def embedding_backward(g, ids, rows):
    """gweight[r] = the sum of g[n] over all n with ids[n] = r: g (..., C), ids (...) -> (rows, C).

    Rows are sorted by id and summed in segments, which is several times faster than `np.add.at`; negative ids count
    from the end, as they do in `weight[ids]`.
    """
    gweight = np.zeros((rows, g.shape[-1]), g.dtype)
    if g.size:
        ids = ids.reshape(-1).astype(np.int64) % rows  # small unsigned ids could not hold `rows`
        order = np.argsort(ids, kind="stable")
        ids = ids[order]
        starts = np.flatnonzero(np.diff(ids, prepend=-1))  # where each distinct id begins
        gweight[ids[starts]] = np.add.reduceat(g.reshape(-1, g.shape[-1])[order], starts, axis=0)
    return gweight

"""The gradient of a table look-up: a scatter-add of the rows of g by id."""

from __future__ import annotations

import numpy as np

from kernels import shapes


def embedding_backward(g, ids, gweight):
    """Add the sum of g[n] over all n with ids[n] = r to gweight[r], for each r: g (..., C), ids (...), gweight (V, C).

    Rows are sorted by id and summed in segments, which is several times faster than `np.add.at`; negative ids count
    from the end, as they do in `weight[ids]`. Rows without an id are not touched. Raises IndexError for an id outside
    -V..V-1.
    """
    shapes.check_embedding_backward(g, ids, gweight)
    if ids.size and not -len(gweight) <= ids.min() <= ids.max() < len(gweight):
        raise IndexError(
            f"embedding_backward: ids from {ids.min()} to {ids.max()}: must lie in {-len(gweight)}..{len(gweight) - 1}"
        )
    if g.size:
        ids = ids.reshape(-1).astype(np.int64) % len(gweight)  # small unsigned ids could not hold the length
        order = np.argsort(ids, kind="stable")
        ids = ids[order]
        starts = np.flatnonzero(np.diff(ids, prepend=-1))  # where each distinct id begins
        gweight[ids[starts]] += np.add.reduceat(g.reshape(-1, g.shape[-1])[order], starts, axis=0)

"""Attention of the newest tokens of texts to all of their tokens, whose keys and values are in a cache.

Same function as `kernels/cpu/cached_attention.py`, of cuBLAS's products and the softmax of `softmax.cu`.
"""

from __future__ import annotations

import numpy as np

from kernels import shapes
from kernels.cuda.launch import device_namespace
from kernels.cuda.softmax import softmax_forward


def cached_attention_forward(q, keys, values, ends, scale):
    """Queries q (B, T, H, D) of each text's newest T tokens, keys and values (B, G, S, D) -> y (B, T, H, D).

    ends (B,), on the host: how many of the S positions each text has. Where one is shorter than another, what its
    values hold up to there must be finite, since the products go over it with probability 0.
    """
    shapes.check_cached_attention(q, keys, values, ends)
    xp, (batch, time, heads, size), groups = device_namespace(q), q.shape, keys.shape[1]
    end = int(ends.max())
    k, v = keys[:, :, :end], values[:, :, :end]
    rows = q.swapaxes(1, 2).reshape(batch, groups, heads // groups * time, size)  # queries that share keys
    scores = xp.matmul(rows, k.swapaxes(-1, -2)).reshape(batch, heads, time, end)
    equal = bool((ends == end).all())
    if not equal:
        newest = xp.asarray(ends)[:, None] - time + xp.arange(time)  # (B, T): the last position that a query sees
        hidden = xp.arange(end) > newest[:, None, :, None]  # (B, 1, T, end)
        scores = xp.where(hidden, -np.inf, scores)
    p = softmax_forward(scores, scale, causal=equal and time > 1)
    y = xp.matmul(p.reshape(batch, groups, -1, end), v)  # (B,G,RT,end) @ (B,G,end,D) -> (B,G,RT,D)
    return xp.ascontiguousarray(y.reshape(batch, heads, time, size).swapaxes(1, 2))

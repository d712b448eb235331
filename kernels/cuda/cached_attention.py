"""Attention of the newest tokens of texts to all of their tokens, whose keys and values are in a cache.

Same function as `kernels/cpu/cached_attention.py`. Few new tokens, as in generation, are the work of
`cached_attention.cu`, which reads the cache where it lies. Many, as when a prompt is read in pieces, are left to cuBLAS
and the softmax of `softmax.cu`: they copy the cache, but once for all of these tokens, and what is then loaded for a
product serves a tile of queries rather than a few.
"""

from __future__ import annotations

import numpy as np

from kernels import shapes
from kernels.cuda.launch import contiguous, device_namespace, launch, pack_width
from kernels.cuda.softmax import softmax_forward

FEW_QUERIES = 8  # new tokens of a text, up to which the kernel takes them
SPLIT = 128  # positions of a block, as in cached_attention.cu
WARPS = 4  # of a block


def cached_attention_forward(q, keys, values, ends, scale):
    """Queries q (B, T, H, D) of each text's newest T tokens, keys and values (B, G, S, D) -> y (B, T, H, D).

    ends (B,), on the host: how many of the S positions each text has. keys and values must be C-contiguous, else
    KernelArgumentError, if there are no more than FEW_QUERIES tokens. If there are more, and one text is shorter than
    another, what its values hold up to the other's end must be finite: the products go over it with probability 0.
    """
    shapes.check_cached_attention(q, keys, values, ends)
    if not q.size:
        return device_namespace(q).empty(q.shape, dtype=q.dtype)
    if q.shape[1] <= FEW_QUERIES and q.shape[3] <= shapes.MAX_GPU_HEAD_SIZE:
        return _by_kernel(q, keys, values, ends, scale)
    return _by_products(q, keys, values, ends, scale)


def options(queries: int, head_size: int) -> dict[str, int]:
    """LANES and ROWS of cached_attention.cu for so many queries of a head of keys."""
    lanes = next(lanes for lanes in (8, 16, 32) if 4 * lanes >= head_size)
    return {"LANES": lanes, "ROWS": 1 if queries == 1 else 4}


def _by_kernel(q, keys, values, ends, scale):
    xp, (B, T, H, D), (_, G, S, _) = device_namespace(q), q.shape, keys.shape
    (q,) = contiguous(q)
    y, on_device = xp.empty_like(q), xp.asarray(ends.astype(np.int64))
    rows, parts = B * T * H, -(-int(ends.max()) // SPLIT)
    several = parts if parts > 1 else 0
    totals, outputs = (xp.empty((several, rows, columns), dtype=np.float32) for columns in (2, D))
    queries, defines = H // G * T, options(H // G * T, D) | {"WIDTH": pack_width(D, q, keys, values)}
    grid = (B * G * -(-queries // defines["ROWS"]), parts)
    args = (q, keys, values, on_device, y, totals, outputs, rows, T, H, G, S, D, scale)
    launch("cached_attention.cu", "cached_attention_parts", grid, (32 * WARPS,), args, **defines)
    if several:
        grid, args = (-(-rows // WARPS),), (totals, outputs, on_device, y, rows, T, H, D)
        launch("cached_attention.cu", "cached_attention_merge", grid, (32 * WARPS,), args, **defines)
    return y


def _by_products(q, keys, values, ends, scale):
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
    p = softmax_forward(scores, scale, causal=equal)
    y = xp.matmul(p.reshape(batch, groups, -1, end), v)  # (B,G,RT,end) @ (B,G,end,D) -> (B,G,RT,D)
    return xp.ascontiguousarray(y.reshape(batch, heads, time, size).swapaxes(1, 2))

"""Attention of the newest tokens of a text to all of its tokens, whose keys and values are in a cache.

Same function as `kernels/cpu/cached_attention.py`, of cuBLAS's products and the softmax of `softmax.cu`.
"""

from __future__ import annotations

from kernels import shapes
from kernels.cuda.launch import device_namespace
from kernels.cuda.softmax import softmax_forward


def cached_attention_forward(q, keys, values, end, scale):
    """Queries q (B, T, H, D) of the newest T of `end` tokens, keys and values (B, G, S, D) -> y (B, T, H, D)."""
    shapes.check_cached_attention(q, keys, values, end)
    xp, (batch, time, heads, size), groups = device_namespace(q), q.shape, keys.shape[1]
    k, v = keys[:, :, :end], values[:, :, :end]
    rows = q.swapaxes(1, 2).reshape(batch, groups, heads // groups * time, size)  # queries that share keys
    scores = xp.matmul(rows, k.swapaxes(-1, -2)).reshape(batch, heads, time, end)
    p = softmax_forward(scores, scale, causal=time > 1)
    y = xp.matmul(p.reshape(batch, groups, -1, end), v)  # (B,G,RT,end) @ (B,G,end,D) -> (B,G,RT,D)
    return xp.ascontiguousarray(y.reshape(batch, heads, time, size).swapaxes(1, 2))

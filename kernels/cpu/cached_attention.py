"""Attention of the newest tokens of a text to all of its tokens, whose keys and values are in a cache.

The first tokens of a text are ordinary causal attention (`attention.py`). After that a few queries, most often one,
meet many keys: a loop reads the cache once, head by head, where it lies. Many queries are left to BLAS.
"""

from __future__ import annotations

import numpy as np

from kernels import shapes
from kernels.cpu.attention import Part, attention_forward
from kernels.cpu.compiled import compiled
from kernels.cpu.softmax import softmax_forward
from kernels.cpu.threads import get_num_threads, parallel_map, split_evenly

FEW_QUERIES = 8  # of each head: up to here the loop is faster than products with the reordering of keys they need
PARALLEL_BYTES = 2**18  # of keys and values: less is read before another thread is awake


def cached_attention_forward(q, keys, values, end, scale):
    """Queries q (B, T, H, D) of the newest T of `end` tokens, keys and values (B, G, S, D) -> y (B, T, H, D).

    Only the first `end` of the cache's S positions count; query t sees those up to end - T + t. Each of the G heads of
    keys and values serves H / G neighboring heads of queries.
    """
    shapes.check_cached_attention(q, keys, values, end)
    (batch, time), groups = q.shape[:2], keys.shape[1]
    if time == end:
        packed = [q, *(x[:, :, :end].swapaxes(1, 2) for x in (keys, values))]
        return attention_forward(np.concatenate(packed, axis=2), scale, kv_heads=groups)[0]
    y = np.empty(q.shape, q.dtype)
    q = np.ascontiguousarray(q)
    if time <= FEW_QUERIES:
        run = cached_attention_pass
        parts = _parts(batch, groups, 2 * time * end * keys.nbytes // keys.shape[2])
    else:  # one by one, as their scores are large
        run = cached_attention_pass.__wrapped__
        parts = [Part(b, b + 1, g, g + 1) for b in range(batch) for g in range(groups)]
    parallel_map(lambda part: run(q, keys, values, part, end, scale, y), parts)
    return y


@compiled
def cached_attention_pass(q, keys, values, part, end, scale, y):
    """Write y of a part: some texts, some heads of keys and values."""
    (batches, groups), (_, time, heads, size) = part.slices, q.shape
    shared = heads // keys.shape[1]
    of_queries = slice(groups.start * shared, groups.stop * shared)
    k, v = keys[batches, groups, :end], values[batches, groups, :end]  # (b, g, end, D)
    rows = q[batches, :, of_queries].swapaxes(1, 2).reshape(*k.shape[:2], shared * time, size)
    scores = (rows @ k.swapaxes(-1, -2)).reshape(*k.shape[:2], shared, time, end)  # (b, g, R, T, end)
    p = softmax_forward(scores, scale, causal=time > 1)
    result = p.reshape(*k.shape[:2], shared * time, end) @ v  # (b, g, R T, end) @ (b, g, end, D) -> (b, g, R T, D)
    y[batches, :, of_queries] = result.reshape(k.shape[0], -1, time, size).swapaxes(1, 2)


def _parts(batch, groups, bytes_read) -> list[Part]:
    """The texts, or of a single one the heads, in as many parts as there are threads, if there is enough to do."""
    count = get_num_threads() if bytes_read >= PARALLEL_BYTES else 1
    if batch >= groups:
        return [Part(s.start, s.stop, 0, groups) for s in split_evenly(batch, min(count, batch))]
    return [Part(0, batch, s.start, s.stop) for s in split_evenly(groups, min(count, groups))]

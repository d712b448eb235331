"""Attention of the newest tokens of texts to all of their tokens, whose keys and values are in a cache.

The first tokens of a text are ordinary causal attention (`attention.py`). After that a few queries, most often one,
meet many keys: a loop reads the cache once, head by head, where it lies. Many queries are left to BLAS.
Texts may have different lengths: each is read as far as it goes.
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


def cached_attention_forward(q, keys, values, ends, scale):
    """Queries q (B, T, H, D) of each text's newest T tokens, keys and values (B, G, S, D) -> y (B, T, H, D).

    ends (B,): how many of the cache's S positions each text has; its query t sees those up to end - T + t. Each of the
    G heads of keys and values serves H / G neighboring heads of queries.
    """
    shapes.check_cached_attention(q, keys, values, ends)
    (batch, time), groups = q.shape[:2], keys.shape[1]
    if (ends == time).all():
        packed = [q, *(x[:, :, :time].swapaxes(1, 2) for x in (keys, values))]
        return attention_forward(np.concatenate(packed, axis=2), scale, kv_heads=groups)[0]
    y = np.empty(q.shape, q.dtype)
    q = np.ascontiguousarray(q)
    if time <= FEW_QUERIES:
        run = cached_attention_pass
        parts = _parts(batch, groups, 2 * time * int(ends.sum()) * groups * keys.shape[3] * keys.itemsize)
    else:  # one by one, as their scores are large
        run = cached_attention_pass.__wrapped__
        parts = [Part(b, b + 1, g, g + 1) for b in range(batch) for g in range(groups)]
    parallel_map(lambda part: run(q, keys, values, part, ends, scale, y), parts)
    return y


@compiled
def cached_attention_pass(q, keys, values, part, ends, scale, y):
    """Write y of a part: some texts, some heads of keys and values."""
    (batches, groups), (_, time, heads, size) = part.slices, q.shape
    shared = heads // keys.shape[1]
    of_queries = slice(groups.start * shared, groups.stop * shared)
    for b in range(batches.start, batches.stop):
        k, v = keys[b, groups, : ends[b]], values[b, groups, : ends[b]]  # (g, end, D)
        rows = q[b, :, of_queries].swapaxes(0, 1).reshape(len(k), shared * time, size)
        scores = (rows @ k.swapaxes(-1, -2)).reshape(len(k), shared, time, -1)  # (g, R, T, end)
        p = softmax_forward(scores, scale, causal=time > 1)
        result = p.reshape(len(k), shared * time, -1) @ v  # (g, R T, end) @ (g, end, D) -> (g, R T, D)
        y[b, :, of_queries] = result.reshape(-1, time, size).swapaxes(0, 1)


def _parts(batch, groups, bytes_read) -> list[Part]:
    """The texts, or of a single one the heads, in as many parts as there are threads, if there is enough to do."""
    count = get_num_threads() if bytes_read >= PARALLEL_BYTES else 1
    if batch >= groups:
        return [Part(s.start, s.stop, 0, groups) for s in split_evenly(batch, min(count, batch))]
    return [Part(0, batch, s.start, s.stop) for s in split_evenly(groups, min(count, groups))]

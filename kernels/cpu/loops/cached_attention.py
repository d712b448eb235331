"""The loop of `kernels/cpu/cached_attention.py`."""

from __future__ import annotations

import numpy as np

from kernels.cpu.loops.attention import maximum
from kernels.cpu.loops.fastmath import ONE, ZERO, exp, f
from kernels.cpu.loops.jit import loop
from kernels.cpu.loops.vectors import LINE, prefetch


@loop
def attend(q, keys, values, following, scale, p, y):
    """A query's attention to all keys: q (D,), keys and values (n, D) -> y (D,).

    p (n,) or longer: scratch; following (m, D): the keys that are read after this. Whatever is read next is fetched
    from memory meanwhile: the values while the keys are worked on, and then the keys that follow.
    """
    visible, size = keys.shape
    all_values, all_following = values.reshape(-1), following.reshape(-1)
    for j in range(visible):
        for i in range(j * size, (j + 1) * size, LINE):
            prefetch(all_values, i)
        score, key = ZERO, keys[j]
        for d in range(size):
            score += q[d] * key[d]
        p[j] = score * f(scale)
    row_max, total = maximum(p[:visible]), ZERO
    for j in range(visible):
        p[j] = exp(p[j] - row_max)
        total += p[j]
    rescale = ONE / total
    for d in range(size):
        y[d] = ZERO
    for j in range(visible):
        for i in range(j * size, (j + 1) * size, LINE):
            prefetch(all_following, i)
        weight, value = p[j] * rescale, values[j]
        for d in range(size):
            y[d] += weight * value[d]


@loop
def cached_attention_pass(q, keys, values, part, ends, scale, y):
    """q, y (B, T, H, D), keys and values (B, G, S, D) of which the first ends (B,) count -> written to y of a part."""
    time, shared = q.shape[1], q.shape[2] // keys.shape[1]
    p = np.empty(ends.max(), np.float32)
    for b in range(part.first_batch, part.end_batch):
        for h in range(part.first_head * shared, part.end_head * shared):
            for t in range(time):
                k, v, visible = keys[b, h // shared], values[b, h // shared], ends[b] - time + t + 1
                attend(q[b, t, h], k[:visible], v[:visible], k[:visible], scale, p, y[b, t, h])

"""The loop of `kernels/cpu/cached_attention.py`."""

from __future__ import annotations

import numpy as np

from kernels.cpu.loops.attention import maximum
from kernels.cpu.loops.fastmath import ONE, ZERO, exp, f
from kernels.cpu.loops.jit import loop


@loop
def attend(q, keys, values, scale, p, y):
    """A query's attention to all keys: q (D,), keys and values (n, D), p (n,) or longer for scratch -> y (D,)."""
    visible, size = keys.shape
    for j in range(visible):
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
                attend(q[b, t, h], k[:visible], v[:visible], scale, p, y[b, t, h])

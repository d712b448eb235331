"""The loop of `kernels/cpu/cached_attention.py`."""

from __future__ import annotations

import numpy as np

from kernels.cpu.loops.attention import maximum
from kernels.cpu.loops.fastmath import ONE, ZERO, exp, f
from kernels.cpu.loops.jit import loop


@loop
def cached_attention_pass(q, keys, values, part, ends, scale, y):
    """q, y (B, T, H, D), keys and values (B, G, S, D) of which the first ends (B,) count -> written to y of a part."""
    time, size, shared = q.shape[1], q.shape[3], q.shape[2] // keys.shape[1]
    p = np.empty(ends.max(), np.float32)
    for b in range(part.first_batch, part.end_batch):
        for h in range(part.first_head * shared, part.end_head * shared):
            for t in range(time):
                k, v, q_row, y_row = keys[b, h // shared], values[b, h // shared], q[b, t, h], y[b, t, h]
                visible = ends[b] - time + t + 1
                for j in range(visible):
                    score, key = ZERO, k[j]
                    for d in range(size):
                        score += q_row[d] * key[d]
                    p[j] = score * f(scale)
                row_max, total = maximum(p[:visible]), ZERO
                for j in range(visible):
                    p[j] = exp(p[j] - row_max)
                    total += p[j]
                rescale = ONE / total
                for d in range(size):
                    y_row[d] = ZERO
                for j in range(visible):
                    weight, value = p[j] * rescale, v[j]
                    for d in range(size):
                        y_row[d] += weight * value[d]

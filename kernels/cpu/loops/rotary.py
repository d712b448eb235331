"""The loop of `kernels/cpu/rotary.py`."""

from __future__ import annotations

from kernels.cpu.loops.jit import loop


@loop
def rotary_pass(x, table, count, first):
    """x (n, N, D), table (T, 2, D/2) -> written to x."""
    half = table.shape[2]
    for i in range(x.shape[0]):
        t = (first + i) % table.shape[0]
        for v in range(count):
            for d in range(half):
                a, b = x[i, v, d], x[i, v, half + d]
                x[i, v, d] = a * table[t, 0, d] - b * table[t, 1, d]
                x[i, v, half + d] = b * table[t, 0, d] + a * table[t, 1, d]

"""The loop of `kernels/cpu/rotary.py`."""

from __future__ import annotations

from kernels.cpu.loops.jit import loop


@loop
def rotary_pass(x, table, count, first):
    """x (n, N, D), table (T, 2, D/2) -> written to x."""
    half = table.shape[2]
    for i in range(x.shape[0]):
        cos, sin = table[(first + i) % table.shape[0]]
        for v in range(count):
            x1, x2 = x[i, v, :half], x[i, v, half:]
            for d in range(half):
                a, b = x1[d], x2[d]
                x1[d] = a * cos[d] - b * sin[d]
                x2[d] = b * cos[d] + a * sin[d]

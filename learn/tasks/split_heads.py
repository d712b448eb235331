"""Puzzle split_heads: the C columns of each token divided among H = 2 heads of size D = C / H, as before attention.

    x, gx    (B, T, C)
    y, g     (B, H, T, D)

Check it:  python -m learn.puzzles check split_heads
"""

import numpy as np

from tinytensor import Function


class SplitHeads(Function):
    def forward(self, x):
        B, T, C = x.shape
        return x.reshape(B, T, 2, C // 2).transpose(0, 2, 1, 3)

    def vjp(self, g):
        gx = ...  # (B, H, T, D) -> (B, T, C)
        return (gx,)

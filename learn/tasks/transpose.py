"""Puzzle transpose: y = x.transpose(1, 2, 0): the axes in another order.

    x, gx    (A, B, C)
    y, g     (B, C, A)

Check it:  python -m learn.puzzles check transpose
"""

import numpy as np

from tinytensor import Function


class Transpose(Function):
    def forward(self, x):
        return x.transpose(1, 2, 0)

    def vjp(self, g):
        gx = ...  # (B, C, A) -> (A, B, C)
        return (gx,)

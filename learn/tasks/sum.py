"""Puzzle sum: y = x.sum(axis=1), the sum of each row.

    x, gx    (N, M)
    y, g     (N,)

The values of x are not needed, only its shape.

Check it:  python -m learn.puzzles check sum
"""

import numpy as np

from tinytensor import Function


class Sum(Function):
    def forward(self, x):
        self.shape = x.shape
        return x.sum(axis=1)

    def vjp(self, g):
        gx = ...  # (N,) -> (N, M)
        return (gx,)

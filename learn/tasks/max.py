"""Puzzle max: y = x.max(axis=1), the largest element of each row.

    x, gx    (N, M)
    y, g     (N,)

If several elements of a row are the largest, they share the gradient equally.

Check it:  python -m learn.puzzles check max
"""

import numpy as np

from tinytensor import Function


class Max(Function):
    def forward(self, x):
        self.x, self.y = self.save(x, x.max(axis=1))
        return self.y

    def vjp(self, g):
        gx = ...  # (N,) -> (N, M)
        return (gx,)

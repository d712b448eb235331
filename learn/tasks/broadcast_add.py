"""Puzzle broadcast_add: y = x + b, where b is added to every row of x.

    x, y, g, gx    (N, M)
    b, gb          (M,)

NumPy repeats b for each row without being asked. Its gradient needs some thought.

Check it:  python -m learn.puzzles check broadcast_add
"""

import numpy as np

from tinytensor import Function


class BroadcastAdd(Function):
    def forward(self, x, b):
        return x + b

    def vjp(self, g):
        gx = ...
        gb = ...  # (N, M) -> (M,)
        return gx, gb

"""Puzzle getitem: y = x[index]: elements picked from x, some perhaps several times.

    x, gx    (N,)
    index    (M,) integers from 0 to N - 1
    y, g     (M,):  y[i] = x[index[i]]

Integers have no gradient: the second one is None.

Check it:  python -m learn.puzzles check getitem
"""

import numpy as np

from tinytensor import Function


class GetItem(Function):
    def forward(self, x, index):
        self.shape, self.index = x.shape, self.save(index)
        return x[index]

    def vjp(self, g):
        gx = ...  # (M,) -> (N,)
        return gx, None

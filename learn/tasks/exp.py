"""Puzzle exp: y = exp(x), element by element.

    x, y, g, gx    the same shape

forward saves its result, not its input. That is all you need, so x can be freed.

Check it:  python -m learn.puzzles check exp
"""

import numpy as np

from tinytensor import Function


class Exp(Function):
    def forward(self, x):
        self.y = self.save(np.exp(x))
        return self.y

    def vjp(self, g):
        gx = ...
        return (gx,)

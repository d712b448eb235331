"""Puzzle divide: y = a / b, element by element.

    a, b, y, g    the same shape
    ga, gb        that shape, too: dL/da and dL/db

An operation with two inputs has two gradients.

Check it:  python -m learn.puzzles check divide
"""

import numpy as np

from tinytensor import Function


class Divide(Function):
    def forward(self, a, b):
        self.b, self.y = self.save(b, a / b)
        return self.y

    def vjp(self, g):
        ga = ...
        gb = ...
        return ga, gb

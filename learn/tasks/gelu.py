"""Puzzle gelu: GELU as GPT-2 has it, element by element.

    y = 0.5 x (1 + tanh(A (x + B x^3)))    with A = sqrt(2 / pi), B = 0.044715

    x, y, g, gx    the same shape

Check it:  python -m learn.puzzles check gelu
"""

import numpy as np

from tinytensor import Function

A = np.sqrt(2 / np.pi)
B = 0.044715


class GELU(Function):
    def forward(self, x):
        self.x, self.t = self.save(x, np.tanh(A * (x + B * x**3)))
        return 0.5 * x * (1 + self.t)

    def vjp(self, g):
        gx = ...
        return (gx,)

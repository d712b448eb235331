"""Puzzle matmul: y = a @ b, the product of two matrices.

    a, ga    (N, K)
    b, gb    (K, M)
    y, g     (N, M)

Check it:  python -m learn.puzzles check matmul
"""

import numpy as np

from tinytensor import Function


class MatMul(Function):
    def forward(self, a, b):
        self.a, self.b = self.save(a, b)
        return a @ b

    def vjp(self, g):
        ga = ...  # (N, K)
        gb = ...  # (K, M)
        return ga, gb

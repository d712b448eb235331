"""The norm of many gradients together, from the sums of squares of their chunks."""

from __future__ import annotations

import numpy as np

from kernels import shapes


def gradient_norm(gradients, chunk):
    """Arrays of floats -> the sums of squares of each chunk of so many values (chunks,), and the root of their sum ().

    Chunks begin anew with each array, and none is of an empty one. Their sums are added in order.
    """
    shapes.check_gradient_norm(gradients, chunk, 1)
    squares = [square for gradient in gradients for square in _squares(gradient.reshape(-1), chunk)]
    return np.array(squares, gradients[0].dtype), np.sqrt(sum(squares, start=gradients[0].dtype.type(0)))


def _squares(gradient, chunk):
    parts = [gradient[start : start + chunk] for start in range(0, gradient.size, chunk)]
    return [np.dot(part, part) for part in parts]

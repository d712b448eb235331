"""The loop of `kernels/cpu/muon.py`: all products of a matrix, one after the other, without Python between them."""

from __future__ import annotations

import math

import numpy as np

from kernels.cpu.loops.fastmath import ONE, ZERO, f
from kernels.cpu.loops.jit import helper, loop
from kernels.cpu.loops.products import PADDING, product, self_product, with_blas


@with_blas(loop)
def muon_pass(param, grad, momentum, coefficients, polynomials):
    """Change param and momentum (R, C) in place, given grad (R, C), `Coefficients` and those of the polynomials."""
    c = coefficients
    grad_scale, beta, decay, rate = f(c.grad_scale), f(c.beta), f(c.decay), f(c.rate)
    rows, columns = param.shape
    x, y = np.empty((rows, columns + PADDING), np.float32), np.empty((rows, columns + PADDING), np.float32)
    total = ZERO
    for i in range(rows):
        for j in range(columns):
            g = grad[i, j] * grad_scale
            momentum[i, j] = beta * momentum[i, j] + g
            x[i, j] = beta * momentum[i, j] + g
            total += abs(x[i, j])
    normalize = f(rows * columns) / total if total > ZERO else ONE
    for i in range(rows):
        for j in range(columns):
            x[i, j] *= normalize
    block_rows, block_columns = rows // c.blocks[0], columns // c.blocks[1]
    for i in range(0, rows, block_rows):
        for j in range(0, columns, block_columns):
            block = x[i : i + block_rows, j : j + block_columns], y[i : i + block_rows, j : j + block_columns]
            if block_rows > block_columns:
                orthogonalize(block[0].T, polynomials, block[1].T)
            else:
                orthogonalize(block[0], polynomials, block[1])
    for i in range(rows):
        for j in range(columns):
            param[i, j] = decay * param[i, j] - rate * y[i, j]


@helper
def orthogonalize(x, polynomials, y):
    """y = newton_schulz(x, polynomials) for matrices (R, C), R at most C, whose rows or columns are contiguous."""
    n = len(x)
    gram, square, fourth = np.empty((n, n), np.float32), np.empty((n, n), np.float32), np.empty((n, n), np.float32)
    factor, q, spare = np.empty((n, n), np.float32), np.empty((n, n), np.float32), np.empty((n, n), np.float32)
    self_product(x, gram)
    bound = math.sqrt(sum_of_squares(gram, spare[0]))
    scale(gram, ONE / bound if bound > ZERO else ONE)
    for step in range(len(polynomials)):
        if step:
            self_product(q, square)
            product(gram, square, spare, False)
            gram, spare = spare, gram
        a, b, c, d, e = polynomials[step]
        ratio = d / (2 * e)
        self_product(gram, square)
        add(square, gram, f(ratio), spare)
        self_product(spare, fourth)
        polynomial(gram, square, fourth, (f(a), f(b), f(c - e * ratio**2), f(e)), q)
        if step:
            product(factor, q, spare, False)
            factor, spare = spare, factor
        else:
            factor[...] = q
    scale(factor, ONE / math.sqrt(bound) if bound > ZERO else ONE)
    if y.strides[1] == 4:
        product(factor, x, y, False)
    else:
        product(x.T, factor.T, y.T, False)


@helper  # as a loop of its own, its order of addition would differ between a compiled and a cached `muon_pass`
def sum_of_squares(x, of_columns):
    """The sum of the squares of x (N, N); first of each column, which vectorizes, in the scratch array (N,)."""
    of_columns[:] = ZERO
    for i in range(len(x)):
        for j in range(len(x)):
            of_columns[j] += x[i, j] * x[i, j]
    total = ZERO
    for j in range(len(x)):
        total += of_columns[j]
    return total


@helper
def scale(x, factor):
    """x *= factor (N, N)."""
    for i in range(len(x)):
        for j in range(len(x)):
            x[i, j] *= factor


@helper
def add(x, y, factor, out):
    """out = x + factor y (N, N)."""
    for i in range(len(x)):
        for j in range(len(x)):
            out[i, j] = x[i, j] + factor * y[i, j]


@helper
def polynomial(gram, square, fourth, coefficients, out):
    """out = a I + b gram + c square + e fourth."""
    a, b, c, e = coefficients
    for i in range(len(gram)):
        for j in range(len(gram)):
            out[i, j] = b * gram[i, j] + c * square[i, j] + e * fourth[i, j]
        out[i, i] += a

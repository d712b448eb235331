"""The loop of `kernels/cpu/muon.py`: all products of a matrix, one after the other, without Python between them."""

from __future__ import annotations

import math

import numpy as np

from kernels.cpu.loops.fastmath import ONE, ZERO, f
from kernels.cpu.loops.jit import helper, loop
from kernels.cpu.loops.products import PADDING, product, self_product, with_blas
from kernels.newton_schulz import WIDE


@with_blas(loop)
def muon_pass(param, grad, momentum, coefficients, polynomials):
    """Change param and momentum (R, C) in place, given grad (R, C), `Coefficients` and (a, b, c) of each polynomial."""
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
    scale = f(rows * columns) / total if total > ZERO else ONE
    for i in range(rows):
        for j in range(columns):
            x[i, j] *= scale
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
    n, m = x.shape
    gram, square = np.empty((n, n), np.float32), np.empty((n, n), np.float32)
    factor, q, spare = np.empty((n, n), np.float32), np.empty((n, n), np.float32), np.empty((n, n), np.float32)
    self_product(x, gram)
    trace = ZERO
    for i in range(n):
        trace += gram[i, i]
    scale = ONE / trace if trace > ZERO else ONE
    for i in range(n):
        for j in range(n):
            gram[i, j] *= scale
    self_product(gram, square)
    total = sum_of_squares(square)
    bound = math.sqrt(math.sqrt(math.sqrt(total))) if total > ZERO else ONE
    a, b, c = polynomials[0]
    polynomial(gram, square, f(a) / bound, f(b) / bound**3, f(c) / bound**5, q)
    scale = math.sqrt(scale)
    for i in range(n):
        for j in range(n):
            factor[i, j] = q[i, j] * scale
    if m >= WIDE * n:
        for a, b, c in polynomials[1:]:
            self_product(q, square)
            product(gram, square, spare, False)
            gram, spare = spare, gram
            self_product(gram, square)
            polynomial(gram, square, f(a), f(b), f(c), q)
            product(factor, q, spare, False)
            factor, spare = spare, factor
        left_product(factor, x, y)
    else:
        matrix, following = np.empty((n, m), np.float32), np.empty((n, m), np.float32)
        product(factor, x, matrix, False)
        for a, b, c in polynomials[1:]:
            self_product(matrix, gram)
            self_product(gram, square)
            polynomial(gram, square, f(a), f(b), f(c), factor)
            product(factor, matrix, following, False)
            matrix, following = following, matrix
        y[...] = matrix


@helper
def left_product(a, b, out):
    """out = a @ b, whether the rows or the columns of out are contiguous."""
    if out.strides[1] == 4:
        product(a, b, out, False)
    else:
        product(b.T, a.T, out.T, False)


@loop
def sum_of_squares(x):
    """The sum of the squares of x (N, N), in vector instructions."""
    total = ZERO
    for i in range(len(x)):
        for j in range(len(x)):
            total += x[i, j] * x[i, j]
    return total


@helper
def polynomial(gram, square, a, b, c, out):
    """out = a I + b gram + c square."""
    for i in range(len(gram)):
        for j in range(len(gram)):
            out[i, j] = b * gram[i, j] + c * square[i, j]
        out[i, i] += a

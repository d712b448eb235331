"""Orthogonalization by Newton-Schulz iterations, for arrays of every device.

The polar factor of x = U S V^T is U V^T, x with every singular value replaced by 1. An odd polynomial of x,
a x + b (x x^T) x + c (x x^T)^2 x, has the same singular vectors and a s + b s^3 + c s^5 for each singular value s, so a
few of them, one after the other, make the factor of matrix products alone. Muon (`tinytensor/optim/muon.py`) needs it
only roughly.

Four things make it cheap. The polynomials are those of Polar Express (Amsel et al. 2025, arXiv:2505.16932), each the
best of its degree for the interval that the one before leaves. With the Gram matrix G = x x^T of the shorter side, each
is a product q x, q = a I + b G + c G^2. It turns G into q G q, so that of a wide x only the product of all q need be
multiplied by x, once. And the largest singular value is bounded by (trace G^4)^(1/8), which costs little as G^2 is
needed anyway, and exceeds it by a factor of n^(1/8) at most, where that of the Frobenius norm is up to n^(1/2).
"""

from __future__ import annotations

import math

from kernels.namespace import array_module

# (a, b, c) of each polynomial: the best for singular values from 0.03 to 1, which they bring to within 0.04 of 1.
POLYNOMIALS = (
    (7.3625277580277935, -20.74339564617216, 15.160551758684573),
    (2.9175380442298477, -2.1824053828650416, 0.47552921925745756),
    (2.0463101337308275, -1.4294750038250834, 0.3933524105937022),
)
WIDE = 2  # columns per row from which on the Gram matrix is iterated rather than x


def normalized(x):
    """x divided by its mean magnitude, so that products of it neither overflow nor vanish."""
    xp = array_module(x)
    mean = xp.abs(x).mean()
    return x / xp.where(mean > 0, mean, 1)


def newton_schulz(x, polynomials=POLYNOMIALS):
    """x (..., R, C), normalized -> (..., R, C): about the polar factor of each matrix, zero where all of it is zero.

    Singular values from 0.03 of the bound on become 0.96 to 1.04; smaller ones grow at most 44-fold relative to it.
    """
    xp = array_module(x)
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    gram = xp.matmul(x, x.mT)
    trace = _diagonal(gram).sum(axis=-1)[..., None, None]
    trace = xp.where(trace > 0, trace, 1)
    gram /= trace  # now the bound on singular values lies between n^(-3/8) and 1
    square = _square(xp, gram)
    bound = xp.power(xp.square(square).sum(axis=(-2, -1), keepdims=True), 1 / 8)
    bound = xp.where(bound > 0, bound, 1)
    (a, b, c), *others = polynomials
    q = _polynomial(gram, square, (a / bound[..., 0], b / bound**3, c / bound**5))
    product = q / xp.sqrt(trace)
    wide = x.shape[-1] >= WIDE * x.shape[-2]
    for coefficients in others:
        if wide:
            gram = xp.matmul(gram, _square(xp, q))
        else:
            x = xp.matmul(product, x)
            gram = xp.matmul(x, x.mT)
        q = _polynomial(gram, _square(xp, gram), coefficients)
        product = xp.matmul(product, q) if wide else q
    return xp.matmul(x.mT, product.mT) if tall else xp.matmul(product, x)


def _square(xp, gram):
    """gram^2; written as a product with the transpose, of which NumPy's BLAS computes one half."""
    return xp.matmul(gram, gram.mT)


def _diagonal(square):
    """The diagonals (..., N) of contiguous matrices (..., N, N), a view."""
    size = square.shape[-1]
    return square.reshape(*square.shape[:-2], size * size)[..., :: size + 1]


def _polynomial(gram, square, coefficients):
    """a I + b gram + c square, (..., R, R)."""
    a, b, c = coefficients
    q = c * square
    q += b * gram
    diagonal = _diagonal(q)
    diagonal += a
    return q


def split_blocks(x, blocks):
    """x (..., R, C) -> (..., rows, columns, R / rows, C / columns), a view if x is contiguous."""
    rows, columns = blocks
    *batch, height, width = x.shape
    return x.reshape(*batch, rows, height // rows, columns, width // columns).swapaxes(-3, -2)


def update_scale(shape, blocks):
    """(max(1, C / R) / number of blocks)^0.5, for a matrix (R, C).

    The factor is that of Jordan et al. for the whole matrix, and keeps the norm of blocks side by side below it.
    """
    rows, columns = shape
    return math.sqrt(max(1, columns / rows) / math.prod(blocks))

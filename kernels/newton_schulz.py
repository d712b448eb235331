"""Orthogonalization by Newton-Schulz iterations, for arrays of every device.

The polar factor of x = U S V^T is U V^T, x with every singular value replaced by 1. An odd polynomial of x,
a x + b (x x^T) x + c (x x^T)^2 x + ..., has the same singular vectors and a s + b s^3 + c s^5 + ... for each singular
value s, so a few of them, one after the other, make the factor of matrix products alone. Muon
(`tinytensor/optim/muon.py`) needs it only roughly.

Three things make it cheap. Each polynomial is the best of its degree for the interval that the one before leaves
(Polar Express, Amsel et al. 2025, arXiv:2505.16932). All is done with the Gram matrix G = x x^T of the shorter side: a
polynomial is a product q x, q = a I + b G + c G^2 + ..., which turns G into q G q, and only the product of all q need
be multiplied by x. And two squares, G^2 and (G^2 + r G)^2, of which BLAS computes one half, make a q of degree 4.
"""

from __future__ import annotations

import math

from kernels.namespace import array_module

# a to e of each polynomial a s + b s^3 + c s^5 + d s^7 + e s^9: the best for singular values from 0.015 to 1, which
# they bring to within 0.23 of 1
POLYNOMIALS = (
    (13.335267243431772, -125.25876975138824, 411.67729896759766, -525.9892517228068, 228.0358486903344),
    (4.204280306255305, -8.82637844841757, 7.985334967326969, -2.970266146398241, 0.38359320515565876),
)


def normalized(x):
    """x divided by its mean magnitude, so that products of it neither overflow nor vanish."""
    xp = array_module(x)
    mean = xp.abs(x).mean()
    return x / xp.where(mean > 0, mean, 1)


def newton_schulz(x, polynomials=POLYNOMIALS):
    """x (..., R, C), normalized -> (..., R, C): about the polar factor of each matrix, zero where all of it is zero.

    Relative to (trace G^2)^(1/4), which is at least the largest singular value and mostly not much more, singular
    values from 0.015 on become 0.77 to 1.23, and smaller ones grow 56-fold at most. Cancellation among the coefficients
    leaves errors of about 1e-3 in float32.
    """
    xp = array_module(x)
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    gram = xp.matmul(x, x.mT)
    bound = xp.sqrt(xp.square(gram).sum(axis=(-2, -1), keepdims=True))
    bound = xp.where(bound > 0, bound, 1)
    gram /= bound
    factor = q = _polynomial(xp, gram, polynomials[0])
    for coefficients in polynomials[1:]:
        gram = xp.matmul(gram, _square(xp, q))
        q = _polynomial(xp, gram, coefficients)
        factor = xp.matmul(factor, q)
    factor = factor / xp.sqrt(bound)
    return xp.matmul(x.mT, factor.mT) if tall else xp.matmul(factor, x)


def _polynomial(xp, gram, coefficients):
    """a I + b gram + c gram^2 + d gram^3 + e gram^4, for symmetric matrices (..., R, R)."""
    a, b, c, d, e = coefficients
    ratio = d / (2 * e)
    square = _square(xp, gram)
    q = e * _square(xp, square + ratio * gram)  # e gram^4 + d gram^3 + e ratio^2 gram^2
    q += (c - e * ratio**2) * square
    q += b * gram
    q += a * xp.eye(gram.shape[-1], dtype=gram.dtype)
    return q


def _square(xp, symmetric):
    """The square; as a product with the transpose, of which NumPy's BLAS computes one half."""
    return xp.matmul(symmetric, symmetric.mT)


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

"""Orthogonalization by Newton-Schulz iterations, for arrays of every device.

The polar factor of x = U S V^T is U V^T, x with every singular value replaced by 1. An odd polynomial p of x,
a x + b (x x^T) x + c (x x^T)^2 x, has the same singular vectors and p of the singular values, so a few polynomials one
after the other that drive (0, 1] to 1 make the factor of matrix products alone, which is what every processor is best
at. Muon (`tinytensor/optim/muon.py`) needs it only roughly.

Three things make it cheap. The polynomials are evaluated on the Gram matrix G = x x^T of the smaller side: each
multiplies x by q = a I + b G + c G^2 and so turns G into q G q, and only the product of all q meets x in the end.
The polynomials are those of Polar Express (Amsel et al. 2025, arXiv:2505.16932), each the best of its degree for the
interval that the one before leaves. And the largest singular value is bounded by (trace G^4)^(1/8), which costs nothing
as G^2 is needed anyway, and exceeds it by n^(1/8) at most, where the Frobenius norm may exceed it by n^(1/2).
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


def newton_schulz(x):
    """x (..., R, C) -> (..., R, C): about the polar factor of each matrix, zero where all of it is zero.

    Singular values from 0.03 of the bound on become 0.96 to 1.04; smaller ones grow at most 44-fold relative to it.
    """
    if x.shape[-2] > x.shape[-1]:
        return newton_schulz(x.mT).mT
    xp = array_module(x)
    largest = xp.abs(x).max(axis=(-2, -1), keepdims=True)
    x = x / xp.where(largest > 0, largest, 1)  # so that powers of it neither overflow nor vanish
    gram = xp.matmul(x, x.mT)
    square = xp.matmul(gram, gram.mT)  # gram is symmetric: of such a product NumPy's BLAS computes one half
    bound = xp.sqrt(xp.sqrt(xp.square(square).sum(axis=(-2, -1), keepdims=True)))
    bound = xp.maximum(bound, 1)  # as it is anyway, but of a zero matrix
    gram, square = gram / bound, square / xp.square(bound)
    identity = xp.eye(gram.shape[-1], dtype=x.dtype)
    (a, b, c), *others = POLYNOMIALS
    factor = q = a * identity + b * gram + c * square
    for a, b, c in others:
        gram = xp.matmul(xp.matmul(q, gram), q)
        square = xp.matmul(gram, gram.mT)
        q = a * identity + b * gram + c * square
        factor = xp.matmul(factor, q)
    return xp.matmul(factor / xp.sqrt(bound), x)


def split_blocks(x, blocks):
    """x (..., R, C) -> (..., rows, columns, R / rows, C / columns), a view if x is contiguous."""
    rows, columns = blocks
    *batch, height, width = x.shape
    return x.reshape(*batch, rows, height // rows, columns, width // columns).swapaxes(-3, -2)


def update_scale(shape, blocks):
    """The factor by which the entries of orthonormal blocks of a matrix (R, C) get a root mean square of R^-0.5.

    For a matrix in one block it is max(1, C / R)^0.5.
    """
    height, width = shape
    return math.sqrt(max(height // blocks[0], width // blocks[1]) / height)

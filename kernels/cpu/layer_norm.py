"""Layer normalization over the last axis (Ba et al. 2016, arXiv:1607.06450).

With n = (x - mean) * rstd, rstd = 1 / sqrt(var + eps), the result is y = n * weight + bias. Sums along either
axis are products with a vector, which BLAS is two to four times as fast at as `sum`. The backward pass needs n. Without
a bias it is y / weight, and the next layer saves y anyway, so n is saved only where that division would lose it.
"""

from __future__ import annotations

import numpy as np

from kernels import shapes
from kernels.cpu.blocks import as_rows, for_blocks
from kernels.cpu.compiled import compiled

TINY = 1e-6  # a weight closer to 0 is not divided by


def layer_norm_forward(x, weight, bias, eps):
    """x (..., C), weight (C,), bias (C,) or None -> y (..., C), saved: for backward.

    saved is n (..., C), rstd (..., 1), False; or y, rstd, True, where n is y / weight.
    """
    shapes.check_layer_norm(x, weight, bias)
    rows = as_rows(x)
    return _forward(x, weight, bias, eps, lambda block: rows[block])


def add_layer_norm_forward(x, added, added_bias, weight, bias, eps):
    """x, added (..., C), added_bias (C,) or None -> x + (added + added_bias), and `layer_norm_forward` of it."""
    shapes.check_add_layer_norm(x, added, added_bias, weight, bias)
    total = np.empty(x.shape, x.dtype)
    rows, others, totals = map(as_rows, (x, added, total))

    def add(block):
        other = others[block] if added_bias is None else np.add(others[block], added_bias, out=totals[block])
        return np.add(rows[block], other, out=totals[block])

    return total, *_forward(x, weight, bias, eps, add)


def _forward(x, weight, bias, eps, fetch):
    """`layer_norm_forward` of arrays like x, a block of whose rows is fetch(block)."""
    divides = bias is None and bool(np.abs(weight).min(initial=1) > TINY)
    y, rstd = np.empty(x.shape, x.dtype), np.empty((*x.shape[:-1], 1), x.dtype)
    normed = None if divides else np.empty(x.shape, x.dtype)
    out, rstds = map(as_rows, (y, rstd))
    n_rows = None if divides else as_rows(normed)

    def work(block):
        n = None if divides else n_rows[block]
        rstds[block] = layer_norm_pass(fetch(block), weight, bias, eps, out[block], n)

    for_blocks(work, len(out), x.shape[-1] * x.itemsize)
    return y, (y if divides else normed, rstd, divides)


@compiled
def layer_norm_pass(x, weight, bias, eps, y, normed):
    """x (N, C) -> rstd (N, 1), and written to y and normed (N, C), which may be None."""
    width = x.shape[1]
    n = np.subtract(x, x @ np.ones((width, 1), x.dtype) / width, out=y if normed is None else normed)
    variance = np.vecdot(n, n)[:, None] / width  # of centered values: no cancellation
    rstd = 1 / np.sqrt(variance + eps)
    n *= rstd
    np.multiply(n, weight, out=y)
    if bias is not None:
        y += bias
    return rstd


def layer_norm_backward(g, weight, saved, added=None):
    """With h = g * weight: gx = added + rstd (h - mean(h) - n mean(h n)), gweight = sum g n, gbias = sum g.

    added: None, or what else has reached x, of its shape.
    """
    stored, rstd, divides = saved
    shapes.check_layer_norm_backward(g, weight, stored, rstd, added=added)
    inverse = 1 / weight if divides else None
    gx = np.empty(g.shape, g.dtype)
    gs, rows, rstds, out = map(as_rows, (g, stored, rstd, gx))
    others = None if added is None else as_rows(added)
    width = g.shape[-1]

    def work(block):
        sums = layer_norm_backward_pass(gs[block], weight, rows[block], inverse, rstds[block], out[block])
        if others is not None:
            out[block] += others[block]
        return sums

    sums = for_blocks(work, len(gs), width * g.itemsize)
    gweight, gbias = np.sum(sums, axis=0, dtype=g.dtype) if sums else np.zeros((2, width), g.dtype)
    return gx, gweight, gbias


@compiled
def layer_norm_backward_pass(g, weight, stored, inverse, rstd, gx):
    """g, stored (N, C) -> written to gx (N, C); the block's gweight, gbias (C,). n = stored inverse, or stored."""
    width, ones, column = g.shape[1], np.ones(len(g), g.dtype), weight[:, None]
    n = stored if inverse is None else stored * inverse
    gn = np.multiply(g, n, out=gx)
    sums, mean_hn = (ones @ gn, ones @ g), gn @ column / width
    h = np.multiply(g, weight, out=gx)
    h -= g @ column / width
    h -= n * mean_hn
    h *= rstd
    return sums

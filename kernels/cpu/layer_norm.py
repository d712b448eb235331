"""Layer normalisation over the last axis (Ba et al. 2016, arXiv:1607.06450).

Floor 0. With n = (x - mean) * rstd, rstd = 1 / sqrt(var + eps), the result is y = n * weight + bias.
"""

from __future__ import annotations

import numpy as np

from kernels.cpu.blocks import as_rows, for_blocks


def layer_norm_forward(x, weight, bias, eps):
    """x (..., C), weight (C,), bias (C,) or None -> y (..., C), mean (..., 1), rstd (..., 1)."""
    y = np.empty(x.shape, x.dtype)
    mean, rstd = np.empty((2, *x.shape[:-1], 1), x.dtype)
    rows, out, means, rstds = map(as_rows, (x, y, mean, rstd))
    width = x.shape[-1]

    def work(block):
        n = out[block]
        means[block] = rows[block].mean(axis=1, keepdims=True)
        np.subtract(rows[block], means[block], out=n)
        variance = np.einsum("ij,ij->i", n, n)[:, None] / width  # of centred values: no cancellation
        rstds[block] = 1 / np.sqrt(variance + eps)
        n *= rstds[block]
        n *= weight
        if bias is not None:
            n += bias

    for_blocks(work, len(rows), width * x.itemsize)
    return y, mean, rstd


def layer_norm_backward(g, x, weight, mean, rstd):
    """With h = g * weight: gx = rstd (h - mean(h) - n mean(h n)), gweight = sum g n, gbias = sum g."""
    gx = np.empty(x.shape, x.dtype)
    g, rows, out, mean, rstd = map(as_rows, (g, x, gx, mean, rstd))
    width = x.shape[-1]

    def work(block):
        n = rows[block] - mean[block]
        n *= rstd[block]
        sums = np.einsum("ij,ij->j", g[block], n), g[block].sum(axis=0)
        h = np.multiply(g[block], weight, out=out[block])
        along = np.einsum("ij,ij->i", h, n)[:, None] / width
        h -= h.mean(axis=1, keepdims=True)
        n *= along
        h -= n
        h *= rstd[block]
        return sums

    sums = for_blocks(work, len(rows), width * x.itemsize)
    gweight, gbias = np.sum(sums, axis=0, dtype=x.dtype) if sums else np.zeros((2, width), x.dtype)
    return gx, gweight, gbias

"""Cross-entropy of logits against integer targets, on its own and fused with the linear layer before it.

For a row x with target t the loss is lse - x_t, lse = log sum_v exp(x_v), and its gradient is
softmax(x) - [v = t]; softmax(x) = exp(x - lse) is never stored in addition to the gradient. Rows whose target is
`ignore_index` have loss and gradient 0.
"""

from __future__ import annotations

import numpy as np

from kernels import shapes
from kernels.cpu.blocks import for_blocks, row_blocks
from kernels.cpu.linear import matmul
from kernels.cpu.softmax import softmax_pass

LOGITS_BYTES = 32 * 2**20  # logits held at once by `linear_cross_entropy`: enough rows for BLAS to run at full speed


def cross_entropy_forward(logits, targets, ignore_index):
    """logits (N, V), targets (N,) -> losses (N,), lse (N,). Raises IndexError for a target outside 0..V-1."""
    shapes.check_cross_entropy(logits, targets)
    counted = _counted(targets, ignore_index, logits.shape[1])
    lse = np.empty(len(logits), logits.dtype)

    def work(block):
        lse[block] = _log_sum_exp(logits[block])

    for_blocks(work, len(logits), logits.shape[1] * logits.itemsize)
    losses = np.zeros_like(lse)
    losses[counted] = lse[counted] - logits[counted, targets[counted]]
    return losses, lse


def cross_entropy_backward(g, logits, targets, lse, ignore_index):
    """g () -> (N, V): g times the gradient of each counted row's loss."""
    shapes.check_cross_entropy_backward(g, logits, targets, lse)
    counted = _counted(targets, ignore_index, logits.shape[1])
    gx = np.empty_like(logits)

    def work(block):
        p = np.subtract(logits[block], lse[block, None], out=gx[block])
        np.exp(p, out=p)
        _subtract_targets(p, targets[block], counted[block], g)

    for_blocks(work, len(logits), logits.shape[1] * logits.itemsize)
    return gx


def linear_cross_entropy(x, weight, targets, ignore_index, with_grad, with_gweight=True):
    """Mean loss of logits x @ weight^T: x (N, C), weight (V, C), targets (N,) -> loss (), gx (N, C), gweight (V, C).

    The logits of a block of rows become their own gradient in place, so both gradients (for dL/dloss = 1) cost two
    more products and no second forward pass (Hsu et al. 2024, arXiv:2410.10989). Without `with_grad` they are None,
    and without `with_gweight`, for a frozen weight, that of the weight is.
    """
    shapes.check_linear_cross_entropy(x, weight, targets)
    counted = _counted(targets, ignore_index, len(weight))
    count = x.dtype.type(counted.sum())
    gx = gweight = None
    if with_grad:
        gx = np.empty(x.shape, x.dtype)
        if with_gweight:
            # not empty_like, which keeps the layout of a transposed weight; the first block of rows writes it
            gweight = (np.empty if len(x) else np.zeros)(weight.shape, weight.dtype)
    total = x.dtype.type(0)
    blocks = row_blocks(len(x), len(weight) * x.itemsize, LOGITS_BYTES)
    buffer = np.empty((max((b.stop - b.start for b in blocks), default=0), len(weight)), x.dtype)
    for block in blocks:
        logits = buffer[: block.stop - block.start]
        matmul(x[block], weight.T, logits)  # (n, C) @ (C, V) -> (n, V)
        total += _losses_to_gradients(logits, targets[block], counted[block], 1 / count)
        if with_grad:
            matmul(logits, weight, gx[block])  # (n, V) @ (V, C) -> (n, C)
        if gweight is not None:
            matmul(logits.T, x[block], gweight, add=block.start > 0)  # (V, n) @ (n, C) -> (V, C)
    return np.asarray(total / count), gx, gweight


def _counted(targets, ignore_index, classes):
    """(N,): which rows count."""
    counted = targets != ignore_index
    if counted.any() and (targets[counted].min() < 0 or targets[counted].max() >= classes):
        low, high = targets[counted].min(), targets[counted].max()
        raise IndexError(f"cross_entropy: targets from {low} to {high}: must lie in 0..{classes - 1}")
    return counted


def _log_sum_exp(x):
    row_max = x.max(axis=1)
    return np.log(np.exp(x - row_max[:, None]).sum(axis=1)) + row_max


def _losses_to_gradients(logits, targets, counted, g):
    """The sum of the losses of the rows that count; turns their logits (n, V) into g times its gradient, in place."""

    def work(block):
        rows = np.flatnonzero(counted[block])
        x, at_target = logits[block], logits[block][rows, targets[block][rows]]
        lse = softmax_pass(x, x.max(axis=1))
        _subtract_targets(x, targets[block], counted[block], g)
        return (lse[rows] - at_target).sum()

    return sum(for_blocks(work, len(logits), logits.shape[1] * logits.itemsize))


def _subtract_targets(p, targets, counted, g):
    """p = g (p - [v = target]) in rows that count, 0 in the others."""
    rows = np.flatnonzero(counted)
    p[rows, targets[rows]] -= 1
    p *= p.dtype.type(g)
    p[~counted] = 0  # whatever its logits, NaN included

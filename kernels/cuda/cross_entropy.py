"""Cross-entropy against integer targets, on its own (`cross_entropy.cu`) and fused with the linear layer before.

Same functions as `kernels/cpu/cross_entropy.py`, but for one thing: a target outside 0 ... V - 1 gives a loss
and gradients of NaN where the CPU raises IndexError, since finding out would mean waiting for the GPU.
"""

from __future__ import annotations

import numpy as np

from kernels import shapes
from kernels.cuda.launch import contiguous, device_namespace, launch_rows, pack_width
from kernels.cuda.products import multiply, product
from kernels.dtypes import is_sixteen_bit

LOGITS_BYTES = 64 * 2**20  # logits held at once by `linear_cross_entropy`: enough rows to fill the largest GPU
SIXTEEN_BIT_LOGITS_BYTES = 256 * 2**20  # fewer blocks, as each adds to all gradients of the weight
TILE = 128  # rows and columns of a product on tensor cores


def cross_entropy_forward(logits, targets, ignore_index):
    """logits (N, V), targets (N,) -> losses (N,), 0 where the target is `ignore_index`, and lse (N,)."""
    shapes.check_cross_entropy(logits, targets)
    logits, targets = contiguous(logits, _as_int64(targets))
    losses, lse = (device_namespace(logits).empty(len(logits), dtype=np.float32) for _ in range(2))
    if logits.size:
        args = (logits, targets, losses, lse, *logits.shape, ignore_index)
        launch_rows("cross_entropy.cu", "cross_entropy_forward", *logits.shape, args)
    return losses, lse


def cross_entropy_backward(g, logits, targets, lse, ignore_index):
    """g () -> (N, V): g times the gradient of each counted row's loss."""
    shapes.check_cross_entropy_backward(g, logits, targets, lse)
    logits, targets, lse = contiguous(logits, _as_int64(targets), lse)
    glogits = device_namespace(logits).empty_like(logits)
    _backward_into(glogits, g, logits, targets, lse, ignore_index)
    return glogits


def linear_cross_entropy(x, weight, targets, ignore_index, with_grad, with_gweight=True):
    """Mean loss of logits x @ weight^T: x (N, C), weight (V, C), targets (N,) -> loss (), gx (N, C), gweight (V, C).

    The logits of a block of rows become their own gradient in place, so both gradients (for dL/dloss = 1) cost two
    more products and no second forward pass (Hsu et al. 2024, arXiv:2410.10989). Without `with_grad` they are None,
    and without `with_gweight`, for a frozen weight, that of the weight is.
    """
    shapes.check_linear_cross_entropy(x, weight, targets)
    if is_sixteen_bit(x.dtype):
        return _in_sixteen_bits(x, weight, targets, ignore_index, with_grad, with_grad and with_gweight)
    xp, targets = device_namespace(x), _as_int64(targets)
    count = (targets != ignore_index).sum().astype(x.dtype)
    total = xp.zeros((), dtype=x.dtype)
    gx = xp.empty_like(x) if with_grad else None
    gweight = xp.zeros_like(weight) if with_grad and with_gweight else None
    step = max(1, LOGITS_BYTES // (len(weight) * x.itemsize))
    for start in range(0, len(x), step):
        block = slice(start, start + step)
        logits = xp.matmul(x[block], weight.T)  # (n, C) @ (C, V) -> (n, V)
        if with_grad:
            losses = xp.empty(len(logits), dtype=x.dtype)
            logits_to_gradients(logits, 1 / count, targets[block], losses, len(weight), ignore_index)
            xp.matmul(logits, weight, out=gx[block])  # (n, V) @ (V, C) -> (n, C)
            if gweight is not None:
                gweight += xp.matmul(logits.T, x[block])  # (V, n) @ (n, C) -> (V, C)
        else:
            losses, _ = cross_entropy_forward(logits, targets[block], ignore_index)
        total += losses.sum()
    return total / count, gx, gweight


def _in_sixteen_bits(x, weight, targets, ignore_index, with_gx, with_gweight):
    """`linear_cross_entropy` with products and logits of 16 bits; the loss and both gradients are float32.

    Gradients of a row's loss are divided by the number of rows only at the end, as float16 has no numbers so small.
    The vocabulary is padded to whole tiles, without which tensor cores would get memory that is not aligned for them.
    """
    xp, targets, classes = device_namespace(x), _as_int64(targets), len(weight)
    count = (targets != ignore_index).sum().astype(np.float32)
    if not len(x):
        wanted = (x, with_gx), (weight, with_gweight)
        gradients = (xp.zeros(a.shape, dtype=np.float32) if with_it else None for a, with_it in wanted)
        return xp.zeros((), dtype=np.float32) / count, *gradients
    padded = xp.empty((-(-classes // TILE) * TILE, weight.shape[1]), dtype=weight.dtype)
    padded[:classes], padded[classes:] = weight, 0
    losses, one = xp.empty(len(x), dtype=np.float32), xp.ones((), dtype=np.float32)
    gx = xp.empty(x.shape, dtype=np.float32) if with_gx else None
    gweight = xp.empty(padded.shape, dtype=np.float32) if with_gweight else None
    step = max(TILE, SIXTEEN_BIT_LOGITS_BYTES // (len(padded) * x.itemsize) // TILE * TILE)
    for start in range(0, len(x), step):
        block = slice(start, start + step)
        logits = multiply(x[block], padded.T)  # (n, C) @ (C, P) -> (n, P)
        logits_to_gradients(logits, one, targets[block], losses[block], classes, ignore_index)
        if gx is not None:
            product(logits, padded, gx[block])  # (n, P) @ (P, C) -> (n, C)
        if gweight is not None:
            product(logits.T, x[block], gweight, add=start > 0)  # (P, n) @ (n, C) -> (P, C)
    del logits, padded  # the next lines need memory
    if gx is not None:
        gx /= count
    if gweight is not None:
        gweight = gweight[:classes] / count
    return losses.sum() / count, gx, gweight


def logits_to_gradients(logits, g, targets, losses, classes, ignore_index) -> None:
    """Write the losses of rows of logits, of which `classes` count, and g times their gradients over the logits."""
    if logits.size:
        rows, length = logits.shape
        args = (g, logits, targets, losses, rows, classes, length, ignore_index)
        # float32 keeps the order in which a thread has always added
        width = pack_width(length, logits) if is_sixteen_bit(logits.dtype) else 1
        launch_rows("cross_entropy.cu", "cross_entropy_gradient", rows, classes, args, WIDTH=width)


def _as_int64(targets):
    return contiguous(targets.astype(np.int64, copy=False))[0]


def _backward_into(glogits, g, logits, targets, lse, ignore_index) -> None:
    if logits.size:
        g = device_namespace(logits).asarray(g, dtype=np.float32)
        args = (g, logits, targets, lse, glogits, *logits.shape, ignore_index)
        rows, columns = logits.shape
        launch_rows("cross_entropy.cu", "cross_entropy_backward", rows, columns, args)

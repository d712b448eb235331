"""Layer normalization over the last axis, as `layer_norm.cu` computes it.

Same functions as `kernels/cpu/layer_norm.py`. weight, bias and y may have 16 bits; then so may x and its gradient, or
these are float32, as the residual stream is in mixed precision. All else is float32.
"""

from __future__ import annotations

import numpy as np

from kernels import shapes
from kernels.cuda.launch import contiguous, device_namespace, divide_rows, launch, launch_rows, pack_width
from kernels.dtypes import is_sixteen_bit

STRIP_ROWS = 64  # rows per strip at least: the two stages of the sum over rows
IN_REGISTERS = 1024  # columns: of longer rows, backward takes several launches


def layer_norm_forward(x, weight, bias, eps):
    """x (..., C), weight (C,), bias (C,) or None -> y (..., C), saved: for backward.

    saved is x, mean and rstd (..., 1), and a number that the launches of backward count in.
    """
    shapes.check_layer_norm(x, weight, bias)
    x, weight, added = contiguous(x, weight, _or(bias, weight))
    y, *statistics = _results(x, weight)
    if x.size:
        _launch_forward("layer_norm_forward", (x, weight, added, y), statistics, eps, bias is not None)
    return y, (x, *statistics)


def add_layer_norm_forward(x, added, added_bias, weight, bias, eps):
    """x, added (..., C), added_bias (C,) or None -> x + (added + added_bias), and `layer_norm_forward` of it."""
    shapes.check_add_layer_norm(x, added, added_bias, weight, bias)
    x, added, weight = contiguous(x, added, weight)
    biases = contiguous(_or(added_bias, weight), _or(bias, weight))
    total, (y, *statistics) = device_namespace(x).empty_like(x), _results(x, weight)
    if x.size:
        arrays = (x, added, biases[0], weight, biases[1], total, y)
        _launch_forward("add_layer_norm_forward", arrays, statistics, eps, added_bias is not None, bias is not None)
    return total, y, (total, *statistics)


def _launch_forward(kernel, arrays, statistics, *numbers):
    """arrays: x (..., C) first, y last, each with rows of x's length."""
    columns = arrays[0].shape[-1]
    # float32 keeps the order in which a thread has always added
    width = pack_width(columns, *arrays) if is_sixteen_bit(arrays[-1].dtype) else 1
    rows = arrays[0].size // columns
    args = (*arrays, *statistics, rows, columns, *numbers)
    launch_rows("layer_norm.cu", kernel, rows, columns, args, WIDTH=width)


def _or(bias, weight):
    """The bias, or without one an array of its size that is never read."""
    return weight if bias is None else bias


def _results(x, weight):
    """y, mean, rstd and the number of finished blocks, not yet written."""
    xp, rows = device_namespace(x), (*x.shape[:-1], 1)
    mean, rstd = (xp.empty(rows, dtype=np.float32) for _ in range(2))
    return xp.empty(x.shape, dtype=weight.dtype), mean, rstd, xp.empty(1, dtype=np.uint32)


def layer_norm_backward(g, weight, saved, added=None):
    """With h = g * weight: gx = added + rstd (h - mean(h) - n mean(h n)), gweight = sum g n, gbias = sum g.

    added: None, or what else has reached x, of its shape. saved may lack its last number.
    """
    x, mean, rstd, finished = saved if len(saved) == 4 else (*saved, device_namespace(g).zeros(1, dtype=np.uint32))
    shapes.check_layer_norm_backward(g, weight, x, mean, rstd, added=added)
    g, weight, x, mean, rstd = contiguous(g, weight, x, mean, rstd)
    xp, columns = device_namespace(x), x.shape[-1]
    gx = xp.empty_like(x)
    if not x.size:
        return gx, xp.zeros(columns, dtype=np.float32), xp.zeros(columns, dtype=np.float32)
    if columns <= IN_REGISTERS:
        return gx, *_backward_in_one(g, x, weight, mean, rstd, added, gx, finished)
    vectors = backward_of_long_rows(g, x, weight, mean, rstd, gx)
    return gx if added is None else xp.add(added, gx, out=gx), *vectors


def backward_of_long_rows(g, x, weight, mean, rstd, gx):
    """`layer_norm_backward` of rows of any length: writes gx, returns gweight and gbias."""
    rows, columns = x.size // x.shape[-1], x.shape[-1]
    args = (g, x, weight, mean, rstd, gx, rows, columns)
    launch_rows("layer_norm.cu", "layer_norm_backward", rows, columns, args)
    return sums_over_rows(g, x, mean, rstd)


def _backward_in_one(g, x, weight, mean, rstd, added, gx, finished):
    """`layer_norm_backward` of rows that fit into registers: writes gx, returns gweight and gbias."""
    xp, columns = device_namespace(x), x.shape[-1]
    rows, threads = x.size // columns, 32 if columns <= 256 else 128
    strip_rows, strips = divide_rows(rows, STRIP_ROWS)
    gweight, gbias = (xp.empty(columns, dtype=np.float32) for _ in range(2))
    partial = xp.empty((2, strips, columns), dtype=np.float32)
    (other,) = contiguous(x if added is None else added)
    args = (g, x, weight, mean, rstd, other, gx, partial, gweight, gbias, finished)
    args += (rows, columns, strip_rows, added is not None)
    # float32 keeps the order in which it has always been added
    width, strands = (pack_width(columns, g, x, weight, other, gx), 4) if is_sixteen_bit(g.dtype) else (1, 8)
    options = {"ROW_THREADS": threads, "STRANDS": strands, "WIDTH": width}
    launch("layer_norm_backward.cu", "layer_norm_backward_add", (strips,), (threads, strands), args, **options)
    return gweight, gbias


def sums_over_rows(g, x, mean, rstd):
    """The sums over rows of g (x - mean) rstd and of g (C,): gweight and gbias."""
    xp, columns = device_namespace(x), x.shape[-1]
    rows = x.size // columns
    strip_rows, strips = divide_rows(rows, STRIP_ROWS)
    gweight, gbias = (xp.empty(columns, dtype=np.float32) for _ in range(2))
    partial = xp.empty((2, strips, columns), dtype=np.float32)
    args = (g, x, mean, rstd, partial, rows, columns, strip_rows)
    launch("layer_norm.cu", "layer_norm_strips", (-(-columns // 32), strips), (32, 8), args, ROW_THREADS=32)
    args = (partial, gweight, gbias, strips, columns)
    launch("layer_norm.cu", "layer_norm_columns", (-(-columns // 128), 2), (128,), args, ROW_THREADS=32)
    return gweight, gbias

"""The affine map y = x @ weight + bias, with weight (in, out).

Same functions as `kernels/cpu/linear.py`; the products are cuBLAS's, which no handwritten kernel beats. Of 16-bit
arrays they are summed in float32 (`products.py`), and the gradients of weight and bias are float32. What is done with
the bias, and the sum of a residual stream and a layer's result, is in `linear.cu`.
"""

from __future__ import annotations

import math

import numpy as np

from kernels import shapes
from kernels.cuda.launch import contiguous, device_namespace, launch, launch_columns, pack_width
from kernels.cuda.products import multiply, product
from kernels.dtypes import is_sixteen_bit, sum_dtype

STRIPS = 512  # of `add_bias` at most
STRANDS = 256  # threads that share a column of `sum_rows`


def linear_forward(x, weight, bias):
    """x (..., I), weight (I, O), bias (O,) or None -> (..., O)."""
    shapes.check_linear(x, weight, bias)
    y = multiply(_rows(x), weight)  # (N, I) @ (I, O) -> (N, O)
    if bias is not None:
        _add_bias(y, bias)
    return y.reshape(*x.shape[:-1], weight.shape[1])


def linear_backward(g, x, weight, with_bias):
    """g (..., O) -> gx = g @ weight^T (..., I), gweight = x^T @ g (I, O), gbias = sum of g's rows (O,) or None."""
    shapes.check_linear_backward(g, x, weight)
    gx = multiply(_rows(g), weight.T).reshape(x.shape)  # (N, O) @ (O, I) -> (N, I)
    return gx, *product_backward(g, x, with_bias)


def product_backward(g, x, with_bias):
    """g (..., O), x (..., I) -> gweight and gbias of `linear_backward`."""
    rows, inputs = _rows(g), _rows(x)
    gweight = product(inputs.T, rows) if is_sixteen_bit(x.dtype) else multiply(inputs.T, rows)  # (I, N) @ (N, O)
    return gweight, sum_rows(g) if with_bias else None


def sum_rows(x):
    """The sum of the rows of x (..., C): (C,), in `sum_dtype(x)`."""
    shapes.check_sum_rows(x)
    rows = _rows(x)
    if not is_sixteen_bit(x.dtype) or not x.size:
        return rows.sum(axis=0, dtype=sum_dtype(x))  # in the order in which float32 has always been added
    return _launch_sum("sum_rows", *contiguous(rows))


def bias_add(x, added, bias):
    """x + (added + bias): x, added (..., C), bias (C,) -> (..., C).

    added and bias may have 16 bits where x, the residual stream, is float32.
    """
    shapes.check_bias_add(x, added, bias)
    x, added, bias = contiguous(x, added, bias)
    y = device_namespace(x).empty_like(x)
    if x.size:
        launch_columns("linear.cu", "bias_add", (x, added, bias, y))
    return y


def bias_add_backward(g, dtype, with_bias):
    """g (..., C) -> g in the dtype of the array that was added, and the sum of g's rows (C,) or None."""
    shapes.check_sum_rows(g, "bias_add_backward")
    if g.dtype == dtype or not with_bias or not g.size:
        return g.astype(dtype, copy=False), sum_rows(g) if with_bias else None
    (g,), gadded = contiguous(g), device_namespace(g).empty(g.shape, dtype=dtype)
    return gadded, _launch_sum("bias_add_backward", _rows(g), gadded)


def _launch_sum(kernel, rows, *others):
    """The sum of rows (N, C): (C,) float32. others: further arrays of the kernel, of as many numbers."""
    columns, width = rows.shape[1], pack_width(rows.shape[1], rows, *others)
    total = device_namespace(rows).empty(columns, dtype=np.float32)
    across = 2 if width * rows.itemsize == 16 else 4  # packs of columns to a block
    args, options = (rows, *others, total, *rows.shape), {"WIDTH": width, "ACROSS": across}
    launch("linear.cu", kernel, (-(-columns // (across * width)),), (across, STRANDS), args, **options)
    return total


def _add_bias(y, bias):
    """Add the bias to each row of y (N, O), in place."""
    if y.dtype == np.float64:  # for which the kernels are not compiled
        y += bias
    elif y.size:
        launch_columns("linear.cu", "add_bias", (y, *contiguous(bias)), strips=STRIPS)


def _rows(x):
    """(..., I) -> (N, I); N is counted, as -1 means nothing where I = 0."""
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1])

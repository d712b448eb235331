"""The layers of a GPT, each in one piece; `attention.py` and `losses.py` continue.

The mathematics is in the docstrings, the arithmetic in the fused primitives of `kernels.cpu` and `kernels.cuda`, which
avoid temporaries and repeated passes over memory. Each is composed of elementary operations in `composed.py`, under the
same name; read that first, and the tests hold the two together. One key of shape letters: B batch, T time, H heads,
D head size, C channels, V vocabulary, N rows.
"""

from __future__ import annotations

import math
from functools import partial

import numpy as np

from kernels.dtypes import is_sixteen_bit
from kernels.options import DropoutOptions
from tinytensor.backend import array_module, kernels_for
from tinytensor.ops.arguments import as_tensor, normalize_axis, torch_names
from tinytensor.ops.dtypes import as_factor, floating
from tinytensor.ops.elementwise import float16_by_kernels
from tinytensor.ops.indexing import checked_ids
from tinytensor.ops.shape import reshape, swapaxes
from tinytensor.random import first_row, next_seed
from tinytensor.tensor import Function, ScatterAdd, Tensor, TensorLike, raw


class Softmax(Function):
    """y_i = exp(x_i) / sum_j exp(x_j) over the last axis;  gx = y (g - sum_j g_j y_j)"""

    def forward(self, x):
        self.y = self.save(kernels_for(x).softmax_forward(floating(x)))
        return self.y

    def vjp(self, g):
        return (kernels_for(g).softmax_backward(g, self.y),)


class LogSoftmax(Function):
    """y_i = x_i - log sum_j exp(x_j) over the last axis;  gx = g - exp(y) sum_j g_j"""

    def forward(self, x):
        self.y = self.save(kernels_for(x).log_softmax_forward(floating(x)))
        return self.y

    def vjp(self, g):
        return (kernels_for(g).log_softmax_backward(g, self.y),)


class LayerNorm(Function):
    """y = (x - mean) rstd w + b over the last axis, rstd = 1 / sqrt(var + eps) (Ba et al. 2016, arXiv:1607.06450)

    With n = (x - mean) rstd and h = g w:  gx = rstd (h - mean(h) - n mean(h n)),  gw = sum g n,  gb = sum g
    """

    accumulates = True

    def __init__(self, eps, computed=None):
        self.eps, self.computed = eps, computed  # by AddForNorm: y, and what backward needs

    def forward(self, x, weight, bias):
        y, for_backward = self.computed or kernels_for(x).layer_norm_forward(floating(x), weight, bias, self.eps)
        self.weight, self.for_backward = self.save(weight, for_backward)
        self.computed = None
        return y

    def vjp(self, g, total=None):
        return kernels_for(g).layer_norm_backward(g, self.weight, self.for_backward, total)


class BiasAdd(Function):
    """y = x + (a + b), b of shape (C,);  gx = g,  ga = g,  gb = sum g

    x may be a residual stream of float32 where a and b have 16 bits.
    """

    def forward(self, x, added, bias):
        self.dtype = added.dtype
        return kernels_for(x).bias_add(x, added, bias)

    def vjp(self, g):
        return g, *kernels_for(g).bias_add_backward(g, self.dtype, self.needs_grad[2])


class AddForNorm(Function):
    """y = x + (a + b), b of shape (C,) or none, and in the same pass what `LayerNorm` makes of y;  as `BiasAdd`"""

    def __init__(self, weight, norm_bias, eps):
        self.norm = weight, norm_bias, eps

    def forward(self, x, added, bias):
        self.dtype = added.dtype
        y, *self.computed = kernels_for(x).add_layer_norm_forward(x, added, bias, *self.norm)
        return y

    def vjp(self, g):
        return g, *kernels_for(g).bias_add_backward(g, self.dtype, self.needs_grad[2])


class RMSNorm(Function):
    """y = x r w over the last axis, r = 1 / sqrt(mean(x^2) + eps) (Zhang & Sennrich 2019, arXiv:1910.07467)

    With n = x r and h = g w:  gx = r (h - n mean(h n)),  gw = sum g n
    """

    def __init__(self, eps):
        self.eps = eps

    def forward(self, x, weight):
        y, for_backward = kernels_for(x).rms_norm_forward(floating(x), weight, self.eps)
        self.weight, self.for_backward = self.save(weight, for_backward)
        return y

    def vjp(self, g):
        return kernels_for(g).rms_norm_backward(g, self.weight, self.for_backward)


class Linear(Function):
    """y = x w + b, w of shape (in, out);  gx = g w^T,  gw = x^T g,  gb = sum g"""

    def forward(self, x, weight, bias):
        self.weight = floating(weight)
        x = as_factor(floating(x), self.weight)
        self.x = x if True in self.needs_grad[1:] else None  # below a frozen layer nothing else may need x
        self.save(self.x if self.needs_grad[1] else None, self.weight if self.needs_grad[0] else None)
        return kernels_for(x).linear_forward(x, self.weight, floating(bias))

    def vjp(self, g):
        if self.x is None:
            return gradient_through_frozen(g, self.weight), None, None
        return kernels_for(g).linear_backward(g, self.x, self.weight, self.needs_grad[2])


def gradient_through_frozen(g, weight):
    """gx = g w^T alone, for a linear layer whose weight and bias are frozen: half of the work, none of the memory."""
    return kernels_for(g).linear_forward(g, weight.T, None)


class GELULinear(Function):
    """y = gelu(x + c) w + b;  gx = (g w^T) gelu'(x + c),  gc = sum gx,  gw = gelu(x + c)^T g,  gb = sum g

    gelu(x + c) is recomputed rather than saved, which saves a quarter of what a GPT's layers would hold for backward.
    """

    def forward(self, x, weight, bias, x_bias):
        self.x, self.weight, self.x_bias = self.save(floating(x), floating(weight), x_bias)
        k = kernels_for(x)
        y, self.for_backward = k.gelu_linear_forward(self.x, x_bias, self.weight, floating(bias))
        return y

    def vjp(self, g):
        saved, frozen = (self.x, self.x_bias, self.weight, self.for_backward), True not in self.needs_grad[1:]
        gx, gx_bias, *rest = kernels_for(g).gelu_linear_backward(g, *saved, self.needs_grad[2], frozen)
        return gx, *rest, gx_bias


class SwiGLULinear(Function):
    """y = h w + b with h = a s b, s = sigmoid(a), x = (a, b);  gw = h^T g,  ga = gh b s (1 + a (1 - s)),  gb = gh a s

    gh = g w^T. h is recomputed rather than saved (Shazeer 2020, arXiv:2002.05202).
    """

    def forward(self, x, weight, bias):
        self.x, self.weight = self.save(floating(x), floating(weight))
        k = kernels_for(x)
        return k.linear_forward(k.swiglu_forward(self.x), self.weight, floating(bias))

    def vjp(self, g):
        k = kernels_for(g)
        if True not in self.needs_grad[1:]:
            return k.swiglu_backward(gradient_through_frozen(g, self.weight), self.x), None, None
        gh, gw, gb = k.linear_backward(g, k.swiglu_forward(self.x), self.weight, self.needs_grad[2])
        return k.swiglu_backward(gh, self.x), gw, gb


class Embedding(Function):
    """y = w[ids], a row for each id;  gw = 0, with each row of g added at its id"""

    def forward(self, weight, ids):
        self.ids = self.save(ids)
        return weight[ids]

    def vjp(self, g):
        return ScatterAdd(partial(kernels_for(g).embedding_backward, g, self.ids)), None


class Dropout(Function):
    """y = x m / (1 - p), where each m is 0 with probability p, else 1;  gx = g m / (1 - p)

    The mask is a hash of (seed, row, column), so it is recomputed rather than saved (Srivastava et al. 2014). Rows are
    those of the whole batch, so that each part of a batch sees its part of the mask.
    """

    def __init__(self, p, seed, first_row):
        self.p, self.seed, self.first_row = p, seed, first_row

    def forward(self, x):
        rows = math.prod(x.shape[1:-1])  # in each item of the batch
        self.options = DropoutOptions(self.p, self.seed, self.first_row * rows)
        return self._drop(floating(x))

    def vjp(self, g):
        return (self._drop(g),)

    def _drop(self, x):
        matrix = x[:, None] if x.ndim == 1 else x  # the only axis is that of the batch
        return kernels_for(x).dropout(matrix, self.options).reshape(x.shape)


@torch_names
@float16_by_kernels
def softmax(x: TensorLike, axis: int = -1) -> Tensor:
    """exp(x) / sum(exp(x)) along `axis`, without overflow. Composed: `composed.softmax`."""
    return _along_last("softmax", Softmax(), x, axis)


@torch_names
@float16_by_kernels
def log_softmax(x: TensorLike, axis: int = -1) -> Tensor:
    """log(softmax(x)) along `axis`, accurate where the softmax is tiny. Composed: `composed.log_softmax`."""
    return _along_last("log_softmax", LogSoftmax(), x, axis)


@float16_by_kernels
def layer_norm(x: TensorLike, weight: TensorLike = None, bias: TensorLike = None, eps: float = 1e-5) -> Tensor:
    """Normalize x (..., C) to mean 0, variance 1 over its last axis, then scale by weight (C,) and add bias (C,).

    The result has the dtype of the weight: 16 bits in mixed precision, where x is float32.
    Composed: `composed.layer_norm`.
    """
    x = as_tensor(x)
    if weight is None:
        weight = array_module(x.data).ones(x.shape[-1:], dtype=floating(x.data).dtype)
    return LayerNorm(eps)(x, weight, bias)


def bias_add(x: TensorLike, added: TensorLike, bias: TensorLike = None) -> Tensor:
    """x + (added + bias) in one pass: x and added (..., C), bias (C,). Composed: `composed.bias_add`.

    In mixed precision x is float32, and so is the sum; added and bias have 16 bits.
    """
    x, added = as_tensor(x), as_tensor(added)
    if bias is None:
        return x + added
    if is_sixteen_bit(added.dtype) and array_module(x.data) is np:  # which has no kernel for it
        return x + (added + bias)
    return BiasAdd()(x, added, bias)


def add_layer_norm(
    x: TensorLike,
    added: TensorLike,
    added_bias: TensorLike,
    weight: TensorLike,
    bias: TensorLike = None,
    eps: float = 1e-5,
) -> tuple[Tensor, Tensor]:
    """`bias_add(x, added, added_bias)`, and `layer_norm` of it, in one pass. Composed: `composed.add_layer_norm`."""
    x, weight = as_tensor(x), as_tensor(weight)
    if is_sixteen_bit(weight.dtype) and array_module(x.data) is np:  # where both compute in float32
        total = bias_add(x, added, added_bias)
        return total, layer_norm(total, weight, bias, eps)
    add = AddForNorm(raw(weight), raw(bias), eps)
    total = add(x, added, added_bias)
    return total, LayerNorm(eps, vars(add).pop("computed"))(total, weight, bias)


@float16_by_kernels
def rms_norm(x: TensorLike, weight: TensorLike = None, eps: float = 1e-6) -> Tensor:
    """Divide x (..., C) by the root of its mean square over the last axis, then scale by weight (C,), if there is one.

    As `layer_norm` without a mean and a bias, which models since LLaMA prefer. Composed: `composed.rms_norm`.
    Raises ValueError for another weight.
    """
    x = as_tensor(x)
    if not x.ndim or (weight is not None and as_tensor(weight).shape != x.shape[-1:]):
        given = "" if weight is None else f" and weight {as_tensor(weight).shape}"
        raise ValueError(f"rms_norm: x has shape {x.shape}{given}: must be (..., C) and (C,)")
    if weight is None:
        weight = array_module(x.data).ones(x.shape[-1:], dtype=floating(x.data).dtype)
    return RMSNorm(eps)(x, weight)


@float16_by_kernels
def linear(x: TensorLike, weight: TensorLike, bias: TensorLike = None) -> Tensor:
    """x (..., I) @ weight (I, O) + bias (O,) -> (..., O). Composed: `composed.linear`."""
    return Linear()(x, as_tensor(weight), bias)


@float16_by_kernels
def gelu_linear(x: TensorLike, weight: TensorLike, bias: TensorLike = None, x_bias: TensorLike = None) -> Tensor:
    """`linear(gelu(x + x_bias), weight, bias)` in less memory: x (..., I), weight (I, O), bias (O,) -> (..., O).

    Composed: `composed.gelu_linear`.
    """
    return GELULinear()(x, as_tensor(weight), bias, x_bias)


@float16_by_kernels
def swiglu_linear(x: TensorLike, weight: TensorLike, bias: TensorLike = None) -> Tensor:
    """The gated activation and second layer of Llama's MLP: x (..., 2 I), weight (I, O), bias (O,) -> (..., O).

    The halves a and b of x become silu(a) b. Composed: `composed.swiglu_linear`. Raises ValueError for an odd x.
    """
    x = as_tensor(x)
    if not x.ndim or x.shape[-1] % 2:
        raise ValueError(f"swiglu_linear: x has shape {x.shape}: must be (..., 2 I)")
    return SwiGLULinear()(x, as_tensor(weight), bias)


def embedding(ids: TensorLike, weight: TensorLike) -> Tensor:
    """The rows of weight (V, C) for integer ids (...) -> (..., C). Composed: `composed.embedding`.

    ids may be on the host whatever the weight's device: there they are checked before they are moved. Checking ids
    that are on a GPU already synchronizes it. Raises IndexError for an id outside 0 ... V - 1, TypeError for ids that
    are not integers, ValueError for a weight that is not a matrix.
    """
    weight = as_tensor(weight)
    if weight.ndim != 2:
        raise ValueError(f"embedding: weight has shape {weight.shape}: must be (vocabulary, width)")
    return Embedding()(weight, checked_ids("embedding", "ids", ids, weight, weight.shape[0]))


def dropout(x: TensorLike, p: float) -> Tensor:
    """x with each element zeroed with probability p, the others scaled by 1 / (1 - p) to keep the mean.

    Composed: `composed.dropout`.
    """
    require_probability("dropout", p)
    x = as_tensor(x)
    return Dropout(p, next_seed(), first_row())(x) if p else x


def require_probability(name: str, p: float) -> None:
    """Raise ValueError for what cannot be the share of elements that are dropped."""
    if not 0 <= p < 1:
        raise ValueError(f"{name} probability {p}: must be at least 0 and less than 1")


def _along_last(name: str, function: Function, x: TensorLike, axis: int) -> Tensor:
    """Apply a Function of the last axis along `axis`."""
    x = as_tensor(x)
    axis = normalize_axis(name, axis, x.ndim)
    if not x.ndim:
        return reshape(function(reshape(x, 1)), ())
    if axis == x.ndim - 1:
        return function(x)
    return swapaxes(function(swapaxes(x, axis, -1)), axis, -1)

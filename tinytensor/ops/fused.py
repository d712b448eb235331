"""The operations a GPT spends its time in, each in one piece.

The mathematics is in the docstrings, the arithmetic in the fused primitives of `kernels.cpu` and `kernels.cuda`, which
avoid temporaries and repeated passes over memory. Each is composed of elementary operations in `composed.py`, under the
same name; read that first, and the tests hold the two together. One key of shape letters: B batch, T time, H heads,
D head size, C channels, V vocabulary, N rows.
"""

from __future__ import annotations

import math
from functools import partial

from kernels.options import DropoutOptions
from tinytensor.backend import device_of, kernels_for
from tinytensor.ops.arguments import one_axis, torch_names
from tinytensor.ops.elementwise import floating
from tinytensor.ops.shape import stack, swapaxes
from tinytensor.random import first_row, next_seed
from tinytensor.tensor import Function, ScatterAdd, Tensor, TensorLike, as_array, raw

IGNORE = -100  # a target that does not count, as in PyTorch


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

    def __init__(self, eps):
        self.eps = eps

    def forward(self, x, weight, bias):
        y, kept = kernels_for(x).layer_norm_forward(x, weight, bias, self.eps)
        self.weight, self.kept = self.save(weight, kept)
        return y

    def vjp(self, g):
        return kernels_for(g).layer_norm_backward(g, self.weight, self.kept)


class Linear(Function):
    """y = x w + b, w of shape (in, out);  gx = g w^T,  gw = x^T g,  gb = sum g"""

    def forward(self, x, weight, bias):
        self.x, self.weight = self.save(x, weight)
        return kernels_for(x).linear_forward(x, weight, bias)

    def vjp(self, g):
        return kernels_for(g).linear_backward(g, self.x, self.weight, self.needs_grad[2])


class GELULinear(Function):
    """y = gelu(x) w + b;  gx = (g w^T) gelu'(x),  gw = gelu(x)^T g,  gb = sum g

    gelu(x) is not kept but computed again, which saves a quarter of what a GPT's layers would hold for backward.
    """

    def forward(self, x, weight, bias):
        self.x, self.weight = self.save(x, weight)
        k = kernels_for(x)
        return k.linear_forward(k.gelu_forward(x), weight, bias)

    def vjp(self, g):
        k = kernels_for(g)
        gy, *rest = k.linear_backward(g, k.gelu_forward(self.x), self.weight, self.needs_grad[2])
        return k.gelu_backward(gy, self.x), *rest


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

    def __init__(self, p, seed, first_row=0):
        self.p, self.seed, self.first_row = p, seed, first_row

    def forward(self, x):
        x = floating(x)
        rows = math.prod(x.shape[1:-1])  # in each item of the batch
        self.options = DropoutOptions(self.p, self.seed, self.first_row * rows)
        return kernels_for(x).dropout(x, self.options)

    def vjp(self, g):
        return (kernels_for(g).dropout(g, self.options),)


class CausalAttention(Function):
    """y_i = sum_{j <= i} p_ij v_j,  p_i = softmax_j(q_i . k_j / sqrt(D)), for every head (Vaswani et al. 2017)

    gv_j = sum_i p_ij g_i,  ds_ij = p_ij (g_i . v_j - g_i . y_i) / sqrt(D),  gq_i = sum_j ds_ij k_j,
    gk_j = sum_i ds_ij q_i.  p is not kept but computed again from the log-sum-exp of each row, so memory grows with T
    and not with T^2 (Dao et al. 2022, arXiv:2205.14135). Dropout multiplies p by m / (1 - p_drop).
    """

    def __init__(self, dropout, seed, first_row=0):
        self.dropout, self.seed, self.first_row = dropout, seed, first_row

    def forward(self, qkv):
        _, time, _, heads, size = qkv.shape
        self.scale = size**-0.5
        self.options = DropoutOptions(self.dropout, self.seed, self.first_row * heads * time)
        y, lse = kernels_for(qkv).attention_forward(qkv, self.scale, self.options)
        self.qkv, self.y, self.lse = self.save(qkv, y, lse)
        return y

    def vjp(self, g):
        return (kernels_for(g).attention_backward(g, self.qkv, self.y, self.lse, self.scale, self.options),)


class CrossEntropy(Function):
    """y = mean_n (log sum_v exp(x_nv) - x_nt), t the target of row n;  gx_nv = g (softmax(x_n)_v - [v = t]) / count

    A row whose target is `ignore_index` does not count. Only the log-sum-exp of each row is kept, no probabilities.
    """

    def __init__(self, ignore_index):
        self.ignore_index = ignore_index

    def forward(self, x, targets):
        losses, lse = kernels_for(x).cross_entropy_forward(x, targets, self.ignore_index)
        self.x, self.targets, self.lse = self.save(x, targets, lse)
        self.count = (targets != self.ignore_index).sum().astype(x.dtype)
        return losses.sum() / self.count

    def vjp(self, g):
        k = kernels_for(self.x)
        return k.cross_entropy_backward(g / self.count, self.x, self.targets, self.lse, self.ignore_index), None


class LinearCrossEntropy(Function):
    """The cross-entropy of logits x w^T, w of shape (V, C), without ever holding all N x V logits

    The gradients come from the same pass over blocks of rows, as the logits are there (Hsu et al. 2024,
    arXiv:2410.10989), so the VJP has only to multiply by g.
    """

    def __init__(self, ignore_index):
        self.ignore_index = ignore_index

    def forward(self, x, weight, targets):
        k, with_grad = kernels_for(x), True in self.needs_grad
        loss, self.gx, self.gw = k.linear_cross_entropy(x, weight, targets, self.ignore_index, with_grad)
        return loss

    def vjp(self, g):
        # these arrays were made for this moment: no need for others of their size
        self.gx *= g
        self.gw *= g
        return self.gx, self.gw, None


@torch_names
def softmax(x: TensorLike, axis: int = -1) -> Tensor:
    """exp(x) / sum(exp(x)) along `axis`, without overflow."""
    return _along_last(Softmax(), x, axis)


@torch_names
def log_softmax(x: TensorLike, axis: int = -1) -> Tensor:
    """log(softmax(x)) along `axis`, accurate where the softmax is tiny."""
    return _along_last(LogSoftmax(), x, axis)


def layer_norm(x: TensorLike, weight: TensorLike, bias: TensorLike = None, eps: float = 1e-5) -> Tensor:
    """Normalize x (..., C) to mean 0, variance 1 over its last axis, then scale by weight (C,) and add bias (C,)."""
    return LayerNorm(eps)(x, weight, bias)


def linear(x: TensorLike, weight: TensorLike, bias: TensorLike = None) -> Tensor:
    """x (..., I) @ weight (I, O) + bias (O,) -> (..., O)."""
    return Linear()(x, weight, bias)


def gelu_linear(x: TensorLike, weight: TensorLike, bias: TensorLike = None) -> Tensor:
    """`linear(gelu(x), weight, bias)` in less memory: x (..., I), weight (I, O), bias (O,) -> (..., O)."""
    return GELULinear()(x, weight, bias)


def embedding(ids: TensorLike, weight: TensorLike) -> Tensor:
    """The rows of weight (V, C) for integer ids (...) -> (..., C).

    ids may be on the host whatever the weight's device: there they are checked before they are moved. Checking ids
    that are on a GPU already synchronizes. Raises IndexError for an id outside 0 ... V - 1, TypeError for ids that are
    not integers, ValueError for a weight that is not a matrix.
    """
    if raw(weight).ndim != 2:
        raise ValueError(f"embedding: weight has shape {raw(weight).shape}: must be (vocabulary, width)")
    return Embedding()(weight, _checked_ids("embedding", "ids", ids, weight, raw(weight).shape[0]))


def dropout(x: TensorLike, p: float) -> Tensor:
    """x with each element zeroed with probability p, the others scaled by 1 / (1 - p) to keep the mean."""
    _require_probability("dropout", p)
    x = x if isinstance(x, Tensor) else Tensor(x)
    return Dropout(p, next_seed(), first_row())(x) if p else x


def packed_causal_attention(qkv: TensorLike, dropout: float = 0.0) -> Tensor:
    """Causal self-attention of queries, keys and values in one array: qkv (B, T, 3, H, D) -> (B, T, H, D).

    This is the layout in which GPT-2's `c_attn` produces them, so a model need not copy anything.
    """
    shape = raw(qkv).shape
    if len(shape) != 5 or shape[2] != 3 or not shape[4]:
        raise ValueError(f"packed_causal_attention: qkv has shape {shape}: must be (B, T, 3, H, D), D at least 1")
    _require_probability("packed_causal_attention: dropout", dropout)
    return CausalAttention(dropout, next_seed() if dropout else 0, first_row())(qkv)


def causal_attention(q: TensorLike, k: TensorLike, v: TensorLike, dropout: float = 0.0) -> Tensor:
    """softmax(q k^T / sqrt(D), over past and present) v for q, k, v (B, H, T, D) -> (B, H, T, D).

    As PyTorch's `scaled_dot_product_attention(q, k, v, is_causal=True)`.
    """
    shapes = [raw(x).shape for x in (q, k, v)]
    if len(shapes[0]) != 4 or len(set(shapes)) != 1 or not shapes[0][-1]:
        q_shape, k_shape, v_shape = shapes
        raise ValueError(
            f"causal_attention: q {q_shape}, k {k_shape} and v {v_shape} must have one shape (B, H, T, D), D at least 1"
        )
    qkv = stack([swapaxes(x, 1, 2) for x in (q, k, v)], axis=2)  # (B, T, 3, H, D)
    return swapaxes(packed_causal_attention(qkv, dropout), 1, 2)


def cross_entropy(logits: TensorLike, targets: TensorLike, ignore_index: int = IGNORE) -> Tensor:
    """The mean of -log softmax(logits)[target]: logits (..., V), integer targets (...) -> ().

    Rows whose target is `ignore_index` do not count; if none does, the result is NaN, as in PyTorch. Targets may be on
    the host whatever the device of the logits, like the ids of `embedding`. Raises IndexError for a target outside
    0 ... V - 1, TypeError for targets that are not integers, ValueError for another number of them.
    """
    logits = logits if isinstance(logits, Tensor) else Tensor(logits)
    if not logits.ndim or not logits.shape[-1]:
        raise ValueError(f"cross_entropy: logits have shape {logits.shape}: must be (..., V), V at least 1")
    rows = logits.reshape(math.prod(logits.shape[:-1]), logits.shape[-1])  # (..., V) -> (N, V)
    targets = _checked_ids("cross_entropy", "targets", targets, logits, logits.shape[-1], ignore_index)
    return CrossEntropy(ignore_index)(rows, _one_per_row("cross_entropy", targets, logits.shape[:-1]))


def linear_cross_entropy(x: TensorLike, weight: TensorLike, targets: TensorLike, ignore_index: int = IGNORE) -> Tensor:
    """`cross_entropy(x @ weight.T, targets)` in far less memory: x (..., C), weight (V, C), targets (...) -> ()."""
    x, vocabulary = x if isinstance(x, Tensor) else Tensor(x), raw(weight).shape
    if len(vocabulary) != 2 or not x.ndim or x.shape[-1] != vocabulary[1]:
        raise ValueError(
            f"linear_cross_entropy: x has shape {x.shape} and weight {vocabulary}: must be (..., C) and (V, C)"
        )
    rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])  # (..., C) -> (N, C)
    targets = _checked_ids("linear_cross_entropy", "targets", targets, x, vocabulary[0], ignore_index)
    return LinearCrossEntropy(ignore_index)(rows, weight, _one_per_row("linear_cross_entropy", targets, x.shape[:-1]))


def _require_probability(name: str, p: float) -> None:
    if not 0 <= p < 1:
        raise ValueError(f"{name} probability {p}: must be at least 0 and less than 1")


def _checked_ids(name: str, what: str, ids: TensorLike, like: TensorLike, limit: int, ignore: int | None = None):
    """Integer ids, each in 0 ... limit - 1 or `ignore`, on the device of `like`: a Tensor there stays itself."""
    array = as_array(ids)
    if array.dtype.kind not in "iu" and array.size:
        raise TypeError(f"{name}: {what} of dtype {array.dtype}: must be integers")
    counted = array if ignore is None else array[array != ignore]
    if counted.size:
        low, high = int(counted.min()), int(counted.max())
        if low < 0 or high >= limit:
            raise IndexError(f"{name}: {what} from {low} to {high}: must lie in 0..{limit - 1}")
    moved = device_of(raw(like)).put(array)
    return ids if isinstance(ids, Tensor) and moved is ids.data else Tensor(moved)


def _one_per_row(name: str, targets: Tensor, shape: tuple[int, ...]) -> Tensor:
    if targets.shape != shape:
        raise ValueError(f"{name}: targets have shape {targets.shape}: must be {shape}, one for each row of logits")
    return targets.reshape(math.prod(shape))


def _along_last(function: Function, x: TensorLike, axis: int) -> Tensor:
    """Apply a Function of the last axis along `axis`."""
    x = x if isinstance(x, Tensor) else Tensor(x)
    place = one_axis(type(function).__name__.lower(), axis, x.ndim)
    if not x.ndim:
        return function(x.reshape(1)).reshape(())
    if place == x.ndim - 1:
        return function(x)
    return swapaxes(function(swapaxes(x, place, -1)), place, -1)

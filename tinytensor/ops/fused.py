"""The operations a GPT spends its time in, each in one piece.

Floor 2. The mathematics is in the docstrings, the arithmetic in the fused primitives of floor 0 (`kernels.cpu`,
`kernels.cuda`), which avoid temporaries and repeated passes over memory. Each could be composed from the other files'
operations, and the tests do so to check them. One key of shape letters: B batch, T time, H heads, D head size,
C channels, V vocabulary, N rows. Read `operators.py` next.
"""

from __future__ import annotations

from functools import partial

from kernels.options import DropoutOptions
from tinytensor.backend import kernels_for
from tinytensor.ops.shape import stack, swapaxes
from tinytensor.random import next_seed
from tinytensor.tensor import Function, Tensor

IGNORE = -100  # a target that does not count, as in PyTorch


class Softmax(Function):
    """y_i = exp(x_i) / sum_j exp(x_j) over the last axis;  gx = y (g - sum_j g_j y_j)"""

    def forward(self, x):
        self.y = kernels_for(x).softmax_forward(x)
        return self.y

    def vjp(self, g):
        return (kernels_for(g).softmax_backward(g, self.y),)


class LogSoftmax(Function):
    """y_i = x_i - log sum_j exp(x_j) over the last axis;  gx = g - exp(y) sum_j g_j"""

    def forward(self, x):
        self.y = kernels_for(x).log_softmax_forward(x)
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
        self.weight = weight
        y, self.saved = kernels_for(x).layer_norm_forward(x, weight, bias, self.eps)
        return y

    def vjp(self, g):
        return kernels_for(g).layer_norm_backward(g, self.weight, self.saved)


class Linear(Function):
    """y = x w + b, w of shape (in, out);  gx = g w^T,  gw = x^T g,  gb = sum g"""

    def forward(self, x, weight, bias):
        self.x, self.weight = x, weight
        return kernels_for(x).linear_forward(x, weight, bias)

    def vjp(self, g):
        return kernels_for(g).linear_backward(g, self.x, self.weight, self.needs_grad[2])


class GELULinear(Function):
    """y = gelu(x) w + b;  gx = (g w^T) gelu'(x),  gw = gelu(x)^T g,  gb = sum g

    gelu(x) is not kept but computed again, which saves a quarter of what a GPT's layers would hold for backward.
    """

    def forward(self, x, weight, bias):
        self.x, self.weight = x, weight
        k = kernels_for(x)
        return k.linear_forward(k.gelu_forward(x), weight, bias)

    def vjp(self, g):
        k = kernels_for(g)
        gy, *rest = k.linear_backward(g, k.gelu_forward(self.x), self.weight, self.needs_grad[2])
        return k.gelu_backward(gy, self.x), *rest


class Embedding(Function):
    """y = w[ids], a row for each id;  gw = 0, with each row of g added at its id"""

    def forward(self, weight, ids):
        self.ids = ids
        return weight[ids]

    def vjp(self, g):
        return partial(kernels_for(g).embedding_backward, g, self.ids), None


class Dropout(Function):
    """y = x m / (1 - p), where each m is 0 with probability p, else 1;  gx = g m / (1 - p)

    The mask is a hash of (seed, position), so it is recomputed rather than saved (Srivastava et al. 2014).
    """

    def __init__(self, p, seed):
        self.options = DropoutOptions(p, seed)

    def forward(self, x):
        return kernels_for(x).dropout(x, self.options)

    def vjp(self, g):
        return (kernels_for(g).dropout(g, self.options),)


class CausalAttention(Function):
    """y_i = sum_{j <= i} p_ij v_j,  p_i = softmax_j(q_i . k_j / sqrt(D)), for every head (Vaswani et al. 2017)

    gv_j = sum_i p_ij g_i,  ds_ij = p_ij (g_i . v_j - g_i . y_i) / sqrt(D),  gq_i = sum_j ds_ij k_j,
    gk_j = sum_i ds_ij q_i.  p is not kept but computed again from the log-sum-exp of each row, so memory grows with T
    and not with T^2 (Dao et al. 2022, arXiv:2205.14135). Dropout multiplies p by m / (1 - p_drop).
    """

    def __init__(self, dropout, seed):
        self.dropout = DropoutOptions(dropout, seed)

    def forward(self, qkv):
        self.qkv, self.scale = qkv, qkv.shape[-1] ** -0.5
        self.y, self.lse = kernels_for(qkv).attention_forward(qkv, self.scale, self.dropout)
        return self.y

    def vjp(self, g):
        return (kernels_for(g).attention_backward(g, self.qkv, self.y, self.lse, self.scale, self.dropout),)


class CrossEntropy(Function):
    """y = mean_n (log sum_v exp(x_nv) - x_nt), t the target of row n;  gx_nv = g (softmax(x_n)_v - [v = t]) / count

    A row whose target is `ignore_index` does not count. Only the log-sum-exp of each row is kept, no probabilities.
    """

    def __init__(self, ignore_index):
        self.ignore_index = ignore_index

    def forward(self, x, targets):
        losses, self.lse = kernels_for(x).cross_entropy_forward(x, targets, self.ignore_index)
        self.x, self.targets = x, targets
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


def softmax(x, axis: int = -1) -> Tensor:
    """exp(x) / sum(exp(x)) along `axis`, without overflow."""
    return _along_last(Softmax(), x, axis)


def log_softmax(x, axis: int = -1) -> Tensor:
    """log(softmax(x)) along `axis`, accurate where the softmax is tiny."""
    return _along_last(LogSoftmax(), x, axis)


def layer_norm(x, weight, bias=None, eps: float = 1e-5) -> Tensor:
    """Normalise x (..., C) to mean 0, variance 1 over its last axis, then scale by weight (C,) and add bias (C,)."""
    return LayerNorm(eps)(x, weight, bias)


def linear(x, weight, bias=None) -> Tensor:
    """x (..., I) @ weight (I, O) + bias (O,) -> (..., O)."""
    return Linear()(x, weight, bias)


def gelu_linear(x, weight, bias=None) -> Tensor:
    """`linear(gelu(x), weight, bias)` in less memory: x (..., I), weight (I, O), bias (O,) -> (..., O)."""
    return GELULinear()(x, weight, bias)


def embedding(ids, weight) -> Tensor:
    """The rows of weight (V, C) for integer ids (...) -> (..., C); an id outside -V..V-1 raises IndexError."""
    return Embedding()(weight, ids)


def dropout(x, p: float) -> Tensor:
    """x with each element zeroed with probability p, the others scaled by 1 / (1 - p) to keep the mean."""
    if not 0 <= p < 1:
        raise ValueError(f"dropout probability {p}: must be at least 0 and less than 1")
    return Dropout(p, next_seed())(x) if p else x


def packed_causal_attention(qkv, dropout: float = 0.0) -> Tensor:
    """Causal self-attention of queries, keys and values in one array: qkv (B, T, 3, H, D) -> (B, T, H, D).

    This is the layout in which GPT-2's `c_attn` produces them, so a model need not copy anything.
    """
    return CausalAttention(dropout, next_seed() if dropout else 0)(qkv)


def causal_attention(q, k, v, dropout: float = 0.0) -> Tensor:
    """softmax(q k^T / sqrt(D), over past and present) v for q, k, v (B, H, T, D) -> (B, H, T, D).

    As PyTorch's `scaled_dot_product_attention(q, k, v, is_causal=True)`.
    """
    qkv = stack([swapaxes(x, 1, 2) for x in (q, k, v)], axis=2)  # (B, T, 3, H, D)
    return swapaxes(packed_causal_attention(qkv, dropout), 1, 2)


def cross_entropy(logits, targets, ignore_index: int = IGNORE) -> Tensor:
    """The mean of -log softmax(logits)[target]: logits (..., V), integer targets (...) -> ().

    Rows whose target is `ignore_index` do not count; if none does, the result is NaN, as in PyTorch.
    """
    rows = logits.reshape(-1, logits.shape[-1])  # (..., V) -> (N, V)
    return CrossEntropy(ignore_index)(rows, _raw(targets).reshape(-1))


def linear_cross_entropy(x, weight, targets, ignore_index: int = IGNORE) -> Tensor:
    """`cross_entropy(x @ weight.T, targets)` in far less memory: x (..., C), weight (V, C), targets (...) -> ()."""
    rows = x.reshape(-1, x.shape[-1])  # (..., C) -> (N, C)
    return LinearCrossEntropy(ignore_index)(rows, weight, _raw(targets).reshape(-1))


def _raw(x):
    return x.data if isinstance(x, Tensor) else x


def _along_last(function: Function, x, axis: int) -> Tensor:
    """Apply a Function of the last axis along `axis`."""
    if axis in (-1, x.ndim - 1):
        return function(x)
    return swapaxes(function(swapaxes(x, axis, -1)), axis, -1)

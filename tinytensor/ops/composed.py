"""The mathematics of each fused operation, composed of elementary ones: what one would write first.

Every function here has a twin of the same name and arguments in `activations.py`, `fused.py`, `rotary.py`,
`attention.py` or `losses.py`, which computes the same in one piece. Read these to see what is computed, and the twins
to see how to do it without temporaries; backward needs no formula here, the engine finds it. The tests hold the two
together. One key of shape letters: B batch, T time, H heads, D head size, C channels, V vocabulary, N rows.
"""

from __future__ import annotations

import math

import numpy as np

from tinytensor.backend import array_module
from tinytensor.ops.arguments import as_tensor
from tinytensor.ops.elementwise import exp, masked_fill, sqrt, square, tanh
from tinytensor.ops.indexing import getitem
from tinytensor.ops.linalg import matmul
from tinytensor.ops.reduce import logsumexp, mean, sum, var
from tinytensor.ops.shape import concat, reshape, swapaxes, unbind
from tinytensor.random import random_generator
from tinytensor.tensor import Tensor, TensorLike, as_array


def softmax(x: TensorLike, axis: int = -1) -> Tensor:
    """exp(x) / sum(exp(x)) along `axis`. Fused: `tinytensor.ops.fused.softmax`."""
    x = as_tensor(x)
    # subtract the maximum first: exp overflows float32 above 88. It cancels, so it may be a constant
    e = exp(x - x.data.max(axis=axis, keepdims=True))
    return e / sum(e, axis, keepdims=True)


def log_softmax(x: TensorLike, axis: int = -1) -> Tensor:
    """x - log(sum(exp(x))) along `axis`. Fused: `tinytensor.ops.fused.log_softmax`."""
    return x - logsumexp(x, axis, keepdims=True)


def layer_norm(x: TensorLike, weight: TensorLike = None, bias: TensorLike = None, eps: float = 1e-5) -> Tensor:
    """x (..., C) with mean 0 and variance 1 along C, times weight (C,), plus bias (C,). Fused: `fused.layer_norm`."""
    centered = x - mean(x, -1, keepdims=True)  # (..., C)
    y = centered / sqrt(var(x, -1, keepdims=True) + eps)
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


def bias_add(x: TensorLike, added: TensorLike, bias: TensorLike = None) -> Tensor:
    """x + (added + bias). Fused: `tinytensor.ops.fused.bias_add`."""
    return as_tensor(x) + (added if bias is None else as_tensor(added) + bias)


def add_layer_norm(
    x: TensorLike,
    added: TensorLike,
    added_bias: TensorLike,
    weight: TensorLike,
    bias: TensorLike = None,
    eps: float = 1e-5,
) -> tuple[Tensor, Tensor]:
    """`bias_add`, and `layer_norm` of it. Fused: `tinytensor.ops.fused.add_layer_norm`."""
    total = bias_add(x, added, added_bias)
    return total, layer_norm(total, weight, bias, eps)


def rms_norm(x: TensorLike, weight: TensorLike = None, eps: float = 1e-6) -> Tensor:
    """x (..., C) divided by its root mean square along C, times weight (C,). Fused: `tinytensor.ops.fused.rms_norm`."""
    y = x / sqrt(mean(square(x), -1, keepdims=True) + eps)
    return y if weight is None else y * weight


def gelu(x: TensorLike) -> Tensor:
    """x Phi(x), Phi approximated by tanh. Fused: `tinytensor.ops.activations.gelu`."""
    return 0.5 * x * (1 + tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def linear(x: TensorLike, weight: TensorLike, bias: TensorLike = None) -> Tensor:
    """x (..., I) @ weight (I, O) + bias (O,) -> (..., O). Fused: `tinytensor.ops.fused.linear`."""
    y = matmul(x, weight)
    return y if bias is None else y + bias


def gelu_linear(x: TensorLike, weight: TensorLike, bias: TensorLike = None, x_bias: TensorLike = None) -> Tensor:
    """The activation and second layer of an MLP, x (..., I) -> (..., O). Fused: `tinytensor.ops.fused.gelu_linear`."""
    return linear(gelu(x if x_bias is None else as_tensor(x) + x_bias), weight, bias)


def swiglu_linear(x: TensorLike, weight: TensorLike, bias: TensorLike = None) -> Tensor:
    """silu(a) b of the halves a, b of x (..., 2 I), then `linear`. Fused: `tinytensor.ops.fused.swiglu_linear`."""
    x = as_tensor(x)
    half = x.shape[-1] // 2
    a, b = x[..., :half], x[..., half:]
    return linear(a / (1 + exp(-a)) * b, weight, bias)


def embedding(ids: TensorLike, weight: TensorLike) -> Tensor:
    """The rows of weight (V, C) for ids (...) -> (..., C). Fused: `tinytensor.ops.fused.embedding`."""
    return getitem(weight, ids)


def dropout(x: TensorLike, p: float) -> Tensor:
    """x times a random mask of 0 (with probability p) and 1 / (1 - p). Fused: `tinytensor.ops.fused.dropout`.

    The mask here is drawn and saved; the fused operation computes another one, from a hash, whenever it needs it.
    """
    x = as_tensor(x)
    kept = random_generator().random(x.shape, np.float32) >= p
    return x * array_module(x.data).asarray(kept) / (1 - p)


def causal_attention(q: TensorLike, k: TensorLike, v: TensorLike, dropout: float = 0.0) -> Tensor:
    """softmax(q k^T / sqrt(D), causal mask) v for q, k, v (B, H, T, D). Fused: `attention.causal_attention`."""
    q, k, v = map(as_tensor, (q, k, v))
    time, size = q.shape[-2:]
    scores = matmul(q, swapaxes(k, -1, -2)) / math.sqrt(size)  # (B, H, T, D) @ (B, H, D, T) -> (B, H, T, T)
    visible = array_module(q.data).tri(time, dtype=bool)  # position i sees j <= i
    p = softmax(masked_fill(scores, ~visible, -math.inf))
    return matmul(_dropped(p, dropout), v)  # (B, H, T, T) @ (B, H, T, D) -> (B, H, T, D)


def rotary(
    x: TensorLike, first_position: int = 0, theta: float = 10000.0, frequencies: tuple[float, ...] | None = None
) -> Tensor:
    """Pairs (x_i, x_{i+D/2}) of x (..., T, H, D) rotated by t theta^(-2i/D). Fused: `tinytensor.ops.rotary.rotary`."""
    x = as_tensor(x)
    time, _, size = x.shape[-3:]
    if frequencies is None:
        frequencies = tuple(theta ** (-np.arange(0, size, 2) / size))
    half, angles = len(frequencies), np.arange(first_position, first_position + time)[:, None] * np.array(frequencies)
    xp = array_module(x.data)
    cosine, sine = (xp.asarray(f(angles)[:, None].astype(x.dtype)) for f in (np.cos, np.sin))  # (T, 1, R/2) each
    x1, x2, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]  # (..., T, H, R/2) twice, D - R left
    return concat([x1 * cosine - x2 * sine, x2 * cosine + x1 * sine, rest], axis=-1)


def packed_causal_attention(
    qkv: TensorLike,
    dropout: float = 0.0,
    rotary_theta: float | None = None,
    frequencies: tuple[float, ...] | None = None,
    kv_heads: int | None = None,
    scale: float | None = None,
) -> Tensor:
    """`causal_attention` of qkv (B, T, 3, H, D) -> (B, T, H, D). Fused: `attention.packed_causal_attention`."""
    qkv = as_tensor(qkv)
    if kv_heads is None:
        q, k, v = unbind(qkv, 2)  # (B, T, H, D) each
    else:
        heads = qkv.shape[2] - 2 * kv_heads
        key = heads + np.arange(heads) * kv_heads // heads  # that of each head of queries
        q, k, v = qkv[:, :, :heads], qkv[:, :, key], qkv[:, :, key + kv_heads]
    if rotary_theta is not None or frequencies is not None:
        q, k = (rotary(x, 0, rotary_theta or 0.0, frequencies) for x in (q, k))
    if scale is not None:
        q = q * (scale * math.sqrt(q.shape[-1]))
    q, k, v = (swapaxes(x, 1, 2) for x in (q, k, v))  # (B, H, T, D) each
    return swapaxes(causal_attention(q, k, v, dropout), 1, 2)


def cross_entropy(logits: TensorLike, targets: TensorLike, ignore_index: int = -100) -> Tensor:
    """The mean of -log softmax(logits)[target]: logits (..., V), targets (...). Fused: `losses.cross_entropy`."""
    logits = as_tensor(logits)
    rows = reshape(logits, -1, logits.shape[-1])  # (..., V) -> (N, V)
    targets = as_array(targets).reshape(-1)
    counted = array_module(targets).flatnonzero(targets != ignore_index)
    return -mean(getitem(log_softmax(rows), (counted, targets[counted])))


def linear_cross_entropy(x: TensorLike, weight: TensorLike, targets: TensorLike, ignore_index: int = -100) -> Tensor:
    """`cross_entropy` of logits x (..., C) @ weight (V, C)^T. Fused: `losses.linear_cross_entropy`."""
    return cross_entropy(matmul(x, swapaxes(weight, 0, 1)), targets, ignore_index)


def _dropped(x: Tensor, p: float) -> Tensor:
    return dropout(x, p) if p else x

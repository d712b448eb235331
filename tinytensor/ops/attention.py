"""Attention: causal and fused, as a GPT needs it, and with any mask.

Shape letters as in `fused.py`; S is the number of keys where it is not T.
"""

from __future__ import annotations

import math
from typing import Any

from kernels.options import DropoutOptions
from kernels.shapes import check_attention
from tinytensor.backend import array_module, device_of, kernels_for
from tinytensor.ops.arguments import as_tensor
from tinytensor.ops.dtypes import floating
from tinytensor.ops.elementwise import float16_as_float32, float16_by_kernels, masked_fill, where
from tinytensor.ops.fused import dropout as drop_out
from tinytensor.ops.fused import require_probability, softmax
from tinytensor.ops.linalg import matmul
from tinytensor.ops.rotary import rotary_frequencies, rotate_packed
from tinytensor.ops.shape import stack, swapaxes
from tinytensor.random import first_row, next_seed
from tinytensor.tensor import Function, Tensor, TensorLike, as_array


class CausalAttention(Function):
    """y_i = sum_{j <= i} p_ij v_j,  p_i = softmax_j(q_i . k_j / sqrt(D)), for every head (Vaswani et al. 2017)

    gv_j = sum_i p_ij g_i,  ds_ij = p_ij (g_i . v_j - g_i . y_i) / sqrt(D),  gq_i = sum_j ds_ij k_j,
    gk_j = sum_i ds_ij q_i.  p is recomputed from the log-sum-exp of each row rather than saved, so memory grows with T
    and not with T^2 (Dao et al. 2022, arXiv:2205.14135). Dropout multiplies p by m / (1 - p_drop). With rotary
    positions q and k are those that `Rotary` returns, and gq and gk are rotated back. With G heads of keys and values,
    query head h sees those of number h G / H.
    """

    def __init__(self, dropout, seed, first_row, frequencies=None, kv_heads=None, scale=None):
        self.dropout, self.seed, self.first_row = dropout, seed, first_row
        self.frequencies, self.kv_heads, self.scale = frequencies, kv_heads, scale

    def forward(self, qkv):
        qkv = floating(qkv)
        time, heads = qkv.shape[1], _query_heads(qkv, self.kv_heads)
        self.rotated = heads + (self.kv_heads or heads)
        if self.frequencies is not None:
            qkv = rotate_packed(qkv, self.rotated, self.frequencies)
        if self.scale is None:
            self.scale = qkv.shape[-1] ** -0.5
        self.options = DropoutOptions(self.dropout, self.seed, self.first_row * heads * time)
        y, lse = kernels_for(qkv).attention_forward(qkv, self.scale, self.options, self.kv_heads)
        self.qkv, self.y, self.lse = self.save(qkv, y, lse)
        return y

    def vjp(self, g):
        saved = self.qkv, self.y, self.lse
        gqkv = kernels_for(g).attention_backward(g, *saved, self.scale, self.options, self.kv_heads)
        if self.frequencies is not None:
            gqkv = rotate_packed(gqkv, self.rotated, self.frequencies, direction=-1, in_place=True)
        return (gqkv,)


def _query_heads(qkv: Any, kv_heads: int | None) -> int:
    return qkv.shape[3] if kv_heads is None else qkv.shape[2] - 2 * kv_heads


@float16_by_kernels
def packed_causal_attention(
    qkv: TensorLike,
    dropout: float = 0.0,
    rotary_theta: float | None = None,
    frequencies: tuple[float, ...] | None = None,
    kv_heads: int | None = None,
    scale: float | None = None,
) -> Tensor:
    """Causal self-attention of queries, keys and values in one array: qkv (B, T, 3, H, D) -> (B, T, H, D).

    rotary_theta, frequencies: rotate queries and keys by their positions first, with this base or these frequencies
    (`rotary`). kv_heads: G, and qkv (B, T, H + 2 G, D) with G heads of keys and then of values, each for H / G
    neighboring heads of queries (Ainslie et al. 2023, arXiv:2305.13245). scale: of the scores, 1 / sqrt(D) by default.
    Composed: `composed.packed_causal_attention`. These are the layouts in which one linear layer produces them, so a
    model need not copy anything.
    """
    name, qkv = "packed_causal_attention", as_tensor(qkv)
    shape = qkv.shape
    if kv_heads is None and (len(shape) != 5 or shape[2] != 3 or not shape[4]):
        raise ValueError(f"{name}: qkv has shape {shape}: must be (B, T, 3, H, D), D at least 1")
    if kv_heads is not None:
        check_attention(qkv.data, kv_heads, name)
    require_probability(f"{name}: dropout", dropout)
    if rotary_theta is not None or frequencies is not None:
        frequencies = rotary_frequencies(name, shape[-1], rotary_theta or 0, frequencies)
    return CausalAttention(dropout, next_seed() if dropout else 0, first_row(), frequencies, kv_heads, scale)(qkv)


@float16_by_kernels
def causal_attention(q: TensorLike, k: TensorLike, v: TensorLike, dropout: float = 0.0) -> Tensor:
    """softmax(q k^T / sqrt(D), causal mask) v for q, k, v (B, H, T, D) -> (B, H, T, D).

    Composed: `composed.causal_attention`. It is `scaled_dot_product_attention(q, k, v, is_causal=True)`.
    """
    q, k, v = map(as_tensor, (q, k, v))
    if q.ndim != 4 or not q.shape == k.shape == v.shape or not q.shape[-1]:
        raise ValueError(
            f"causal_attention: q {q.shape}, k {k.shape} and v {v.shape} must have one shape (B, H, T, D), D at least 1"
        )
    require_probability("causal_attention: dropout", dropout)
    qkv = stack([swapaxes(x, 1, 2) for x in (q, k, v)], axis=2)  # (B, T, 3, H, D)
    return swapaxes(packed_causal_attention(qkv, dropout), 1, 2)


@float16_as_float32
def scaled_dot_product_attention(
    q: TensorLike,
    k: TensorLike,
    v: TensorLike,
    attn_mask: TensorLike = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
) -> Tensor:
    """softmax(q k^T / sqrt(D), masked) v: q (..., T, D), k (..., S, D), v (..., S, E) -> (..., T, E).

    attn_mask: broadcasts to (..., T, S); booleans, true where a query may see a key, or floats to add to the scores.
    is_causal: instead of a mask, query i sees the keys 0 ... i. A query that sees no key gets 0. As in PyTorch.
    Causal self-attention of (B, H, T, D) is fused; all else holds the T x S probabilities.
    """
    name = "scaled_dot_product_attention"
    q, k, v = map(as_tensor, (q, k, v))
    if min(q.ndim, k.ndim, v.ndim) < 2 or not q.shape[-1] or q.shape[-1] != k.shape[-1] or k.shape[-2] != v.shape[-2]:
        raise ValueError(
            f"{name}: q {q.shape}, k {k.shape} and v {v.shape} must be (..., T, D), (..., S, D) and (..., S, E), "
            "D at least 1"
        )
    if is_causal and attn_mask is not None:
        raise ValueError(f"{name}: attn_mask and is_causal are both given: must be one of them")
    require_probability(f"{name}: dropout_p", dropout_p)
    if is_causal and q.ndim == 4 and q.shape == k.shape == v.shape:
        return causal_attention(q, k, v, dropout_p)
    scores = matmul(q, swapaxes(k, -1, -2)) / math.sqrt(q.shape[-1])  # (..., T, D) @ (..., D, S) -> (..., T, S)
    if is_causal:
        p = _masked_softmax(scores, array_module(scores.data).tri(*scores.shape[-2:], dtype=bool))
    elif attn_mask is not None:
        mask = attn_mask if isinstance(attn_mask, Tensor) else Tensor(device_of(q.data).put(as_array(attn_mask)))
        if mask.dtype.kind not in "bf":
            raise TypeError(f"{name}: attn_mask of dtype {mask.dtype}: must be booleans or floats")
        visible = mask.data if mask.dtype.kind == "b" else mask.data != -math.inf
        p = _masked_softmax(scores if mask.dtype.kind == "b" else scores + where(visible, mask, 0.0), visible)
    else:
        p = softmax(scores)
    return matmul(drop_out(p, dropout_p), v)  # (..., T, S) @ (..., S, E) -> (..., T, E)


def _masked_softmax(scores: Tensor, visible: Any) -> Tensor:
    """The softmax over the visible keys, and 0 where there is none, rather than 0 / 0."""
    sees_any = visible.any(axis=-1, keepdims=True)
    p = softmax(masked_fill(scores, ~visible & sees_any, -math.inf))
    return masked_fill(p, ~sees_any, 0.0)

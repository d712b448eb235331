"""Attention: causal and fused, as a GPT needs it, and with any mask.

Shape letters as in `fused.py`; S is the number of keys where it is not T.
"""

from __future__ import annotations

import math
from typing import Any

from kernels.options import DropoutOptions
from tinytensor.backend import array_module, device_of, kernels_for
from tinytensor.ops.arguments import as_tensor
from tinytensor.ops.dtypes import floating
from tinytensor.ops.elementwise import float16_as_float32, masked_fill, where
from tinytensor.ops.fused import dropout as drop_out
from tinytensor.ops.fused import require_probability, softmax
from tinytensor.ops.linalg import matmul
from tinytensor.ops.rotary import require_rotary, rotate_packed
from tinytensor.ops.shape import stack, swapaxes
from tinytensor.random import first_row, next_seed
from tinytensor.tensor import Function, Tensor, TensorLike, as_array


class CausalAttention(Function):
    """y_i = sum_{j <= i} p_ij v_j,  p_i = softmax_j(q_i . k_j / sqrt(D)), for every head (Vaswani et al. 2017)

    gv_j = sum_i p_ij g_i,  ds_ij = p_ij (g_i . v_j - g_i . y_i) / sqrt(D),  gq_i = sum_j ds_ij k_j,
    gk_j = sum_i ds_ij q_i.  p is recomputed from the log-sum-exp of each row rather than saved, so memory grows with T
    and not with T^2 (Dao et al. 2022, arXiv:2205.14135). Dropout multiplies p by m / (1 - p_drop). With rotary
    positions q and k are those that `Rotary` returns, and gq and gk are rotated back.
    """

    def __init__(self, dropout, seed, first_row, rotary_theta=None):
        self.dropout, self.seed, self.first_row, self.rotary_theta = dropout, seed, first_row, rotary_theta

    def forward(self, qkv):
        qkv = floating(qkv)
        if self.rotary_theta is not None:
            qkv = rotate_packed(qkv, self.rotary_theta)
        _, time, _, heads, size = qkv.shape
        self.scale = size**-0.5
        self.options = DropoutOptions(self.dropout, self.seed, self.first_row * heads * time)
        y, lse = kernels_for(qkv).attention_forward(qkv, self.scale, self.options)
        self.qkv, self.y, self.lse = self.save(qkv, y, lse)
        return y

    def vjp(self, g):
        gqkv = kernels_for(g).attention_backward(g, self.qkv, self.y, self.lse, self.scale, self.options)
        if self.rotary_theta is not None:
            gqkv = rotate_packed(gqkv, self.rotary_theta, direction=-1, in_place=True)
        return (gqkv,)


@float16_as_float32
def packed_causal_attention(qkv: TensorLike, dropout: float = 0.0, rotary_theta: float | None = None) -> Tensor:
    """Causal self-attention of queries, keys and values in one array: qkv (B, T, 3, H, D) -> (B, T, H, D).

    rotary_theta: rotate queries and keys by their positions first, with this base (`rotary`).
    Composed: `composed.packed_causal_attention`. This is the layout in which GPT-2's `c_attn` produces them, so a model
    need not copy anything.
    """
    qkv = as_tensor(qkv)
    shape = qkv.shape
    if len(shape) != 5 or shape[2] != 3 or not shape[4]:
        raise ValueError(f"packed_causal_attention: qkv has shape {shape}: must be (B, T, 3, H, D), D at least 1")
    require_probability("packed_causal_attention: dropout", dropout)
    if rotary_theta is not None:
        require_rotary("packed_causal_attention", shape[4], rotary_theta)
    return CausalAttention(dropout, next_seed() if dropout else 0, first_row(), rotary_theta)(qkv)


@float16_as_float32
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

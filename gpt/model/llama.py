"""The block of Llama and of what followed: Qwen, OLMo 2; and GPT-NeoX, which came before it.

It is GPT-2's block (`layers.py`) with any of these changes, each an option of GPTConfig: RMS norm, rotary positions,
fewer heads of keys and values than of queries, heads of any size, queries and keys that are normalized, a gated MLP,
attention and MLP side by side. Names of parameters are GPT-2's as well.
Shape letters: B batch, T time, C channels (n_embd), H heads of queries, G of keys and of values, D head size, F inner.
"""

from __future__ import annotations

from collections.abc import Callable

import tinytensor as tt
from gpt.model.config import GATED, GPTConfig
from gpt.model.layers import INIT_STD, MLP, attention_scale, residual_std
from gpt.model.rotary import frequencies, parse_scaling
from tinytensor import nn


def make_norm(config: GPTConfig) -> nn.Module:
    """The norm of the residual stream."""
    if config.norm_layer == "rms":
        return nn.RMSNorm(config.n_embd, config.norm_eps)
    return nn.LayerNorm(config.n_embd, config.bias, config.norm_eps)


class GroupedAttention(nn.Module):
    """Causal self-attention in which H / G heads of queries share one of keys and one of values."""

    def __init__(self, config: GPTConfig, layer: int):
        self.heads, self.kv_heads, self.size = config.n_head, config.kv_heads, config.head_size
        self.scale = attention_scale(config, layer)
        self.rotary_theta = config.rotary_theta if config.positions == "rotary" else None
        rotated = int(config.rotary_fraction * self.size)
        self.frequencies = frequencies(rotated, config.rotary_theta, parse_scaling(config.rotary_scaling))
        self.c_attn = nn.Linear(config.n_embd, config.qkv_width, config.bias or config.qkv_bias, INIT_STD)
        self.c_proj = nn.Linear(self.heads * self.size, config.n_embd, config.bias, residual_std(config))
        self.per_head = config.qk_norm == "head"
        widths = [self.size if self.per_head else heads * self.size for heads in (self.heads, self.kv_heads)]
        normed = config.qk_norm != "none"
        self.q_norm, self.k_norm = (nn.RMSNorm(width, config.norm_eps) if normed else None for width in widths)
        self.dropout = config.dropout
        self.resid_dropout = nn.Dropout(config.dropout)

    def project(self, x: tt.Tensor) -> tt.Tensor:
        """Queries, keys and values of x (B, T, C), not yet rotated: (B, T, H + 2 G, D)."""
        qkv = self.c_attn(x).reshape(*x.shape[:2], self.heads + 2 * self.kv_heads, self.size)
        if self.q_norm is None or self.k_norm is None:
            return qkv
        q, k, v = tt.split(qkv, [self.heads, self.kv_heads, self.kv_heads], axis=2)
        return tt.concat([self._normed(q, self.q_norm), self._normed(k, self.k_norm), v], axis=2)

    def _normed(self, x: tt.Tensor, norm: nn.Module) -> tt.Tensor:
        """Each head of x (B, T, N, D) normalized, or all N D numbers together."""
        return norm(x) if self.per_head else norm(x.reshape(*x.shape[:2], -1)).reshape(*x.shape)

    def forward(self, x: tt.Tensor) -> tt.Tensor:
        y = tt.packed_causal_attention(
            self.project(x),
            self.dropout if self.training else 0.0,
            frequencies=None if self.rotary_theta is None else self.frequencies,
            kv_heads=self.kv_heads,
            scale=self.scale,
        )
        return self.resid_dropout(self.c_proj(y.reshape(*x.shape[:2], -1)))  # (B,T,H,D) -> (B,T,HD) -> (B,T,C)


class GatedMLP(nn.Module):
    """SwiGLU: silu(a) b, with both a and b from the first layer, then the second (Shazeer 2020, arXiv:2002.05202)."""

    def __init__(self, config: GPTConfig):
        self.c_fc = nn.Linear(config.n_embd, config.fc_width, config.bias, INIT_STD)
        self.c_proj = nn.Linear(config.inner, config.n_embd, config.bias, residual_std(config))
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: tt.Tensor) -> tt.Tensor:
        x = self.c_fc(x)  # (B,T,C) -> (B,T,2F)
        if self.training:  # in less memory
            return self.dropout(self.c_proj(x, tt.swiglu_linear))
        a, b = tt.split(x, x.shape[-1] // 2, axis=-1)
        return self.c_proj(tt.silu(a) * b)  # (B,T,F) -> (B,T,C)


class LlamaBlock(nn.Module):
    """GPT-2's block with other parts, and two further ways to join them: norm "output", and side by side."""

    def __init__(self, config: GPTConfig, layer: int):
        self.pre_norm = config.norm == "pre"
        self.norm_output, self.parallel = config.norm == "output", config.parallel
        self.ln_1 = make_norm(config)
        self.attn = GroupedAttention(config, layer)
        self.ln_2 = make_norm(config)
        self.ln_1.keeps_float32 = self.ln_2.keeps_float32 = config.norm == "post"  # they return the residual stream
        self.mlp = GatedMLP(config) if config.activation == GATED else MLP(config)

    def forward(self, x: tt.Tensor, attend: Callable[[tt.Tensor], tt.Tensor] | None = None) -> tt.Tensor:
        """x (B, T, C) -> (B, T, C). attend: what to call instead of `attn`; the KV cache has its own."""
        attend = attend or self.attn
        if self.norm_output:
            x = x + self.ln_1(attend(x))
            return x + self.ln_2(self.mlp(x))
        if self.parallel:
            return x + attend(self.ln_1(x)) + self.mlp(self.ln_2(x))
        if self.pre_norm:
            x = x + attend(self.ln_1(x))
            return x + self.mlp(self.ln_2(x))
        x = self.ln_1(x + attend(x))
        return self.ln_2(x + self.mlp(x))

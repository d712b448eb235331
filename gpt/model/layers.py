"""The parts of GPT-2's transformer: attention, MLP, and the block that joins them.

Parameter names, shapes and initialization are GPT-2's (Radford et al. 2019), so weights move in and out unchanged.
Shape letters: B batch, T time, C channels (n_embd), H heads, D = C / H.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import tinytensor as tt
from gpt.model.config import GPTConfig
from tinytensor import nn

INIT_STD = 0.02  # of every weight matrix, as in GPT-2
ROTARY_THETA = 10000.0  # as in the paper on rotary positions (Su et al. 2021)


class Attention(nn.Module):
    """Causal self-attention with H heads. rotary_theta: None, or the base of rotary positions."""

    def __init__(self, config: GPTConfig, layer: int):
        self.heads = config.n_head
        self.scale = attention_scale(config, layer)
        self.rotary_theta = ROTARY_THETA if config.positions == "rotary" else None
        self.frequencies = None  # those that follow from theta
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd, config.bias, INIT_STD)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd, config.bias, residual_std(config))
        self.dropout = config.dropout
        self.resid_dropout = nn.Dropout(config.dropout)

    def project(self, x: tt.Tensor) -> tt.Tensor:
        """Queries, keys and values of x (B, T, C), not yet rotated: (B, T, 3, H, D)."""
        batch, time, channels = x.shape
        return self.c_attn(x).reshape(batch, time, 3, self.heads, channels // self.heads)

    def heads_of(self, x: tt.Tensor) -> tt.Tensor:
        """The results of all heads side by side, (B, T, C), before c_proj."""
        dropout = self.dropout if self.training else 0.0
        y = tt.packed_causal_attention(self.project(x), dropout, self.rotary_theta, scale=self.scale)
        return y.reshape(*x.shape)  # (B,T,H,D) -> (B,T,C)

    def forward(self, x: tt.Tensor) -> tt.Tensor:
        return self.resid_dropout(self.c_proj(self.heads_of(x)))


class MLP(nn.Module):
    """Two linear layers with a non-linearity between them, at four times the width or another F."""

    def __init__(self, config: GPTConfig):
        self.c_fc = nn.Linear(config.n_embd, config.inner, config.bias, INIT_STD)
        self.activation = config.activation
        self.c_proj = nn.Linear(config.inner, config.n_embd, config.bias, residual_std(config))
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: tt.Tensor) -> tt.Tensor:
        x = self.c_fc(x)  # (B,T,C) -> (B,T,F)
        if self.activation == "gelu" and self.training:  # in less memory
            return self.dropout(self.c_proj(x, tt.gelu_linear))
        if self.activation == "relu":
            y = x.relu()
        else:
            y = tt.gelu(x, approximate="tanh" if self.activation == "gelu" else "none")
        return self.dropout(self.c_proj(y))  # (B,T,F) -> (B,T,C)


class Block(nn.Module):
    """Attention, then MLP, each added to the residual stream x.

    norm "pre" (GPT-2) normalizes the input of each sublayer; "post" (the original transformer) the sum after each.
    """

    def __init__(self, config: GPTConfig, layer: int):
        self.pre_norm = config.norm == "pre"
        self.ln_1 = nn.LayerNorm(config.n_embd, config.bias, config.norm_eps)
        self.attn = Attention(config, layer)
        self.ln_2 = nn.LayerNorm(config.n_embd, config.bias, config.norm_eps)
        self.mlp = MLP(config)
        self.ln_1.keeps_float32 = self.ln_2.keeps_float32 = not self.pre_norm  # they return the residual stream
        self.like_gpt2 = self.pre_norm and config.activation == "gelu" and not config.dropout

    def forward(self, x: tt.Tensor, attend: Callable[[tt.Tensor], tt.Tensor] | None = None) -> tt.Tensor:
        """x (B, T, C) -> (B, T, C). attend: what to call instead of `attn`; the KV cache has its own."""
        if self.like_gpt2 and self.training and attend is None:
            return self._in_fewer_passes(x)
        attend = attend or self.attn
        if self.pre_norm:
            x = x + attend(self.ln_1(x))
            return x + self.mlp(self.ln_2(x))
        x = self.ln_1(x + attend(x))
        return self.ln_2(x + self.mlp(x))

    def _in_fewer_passes(self, x: tt.Tensor) -> tt.Tensor:
        """The same, with each bias added by what reads the layer's product next rather than in a pass of its own."""
        attn, mlp, ln_2 = self.attn, self.mlp, self.ln_2
        y = attn.c_proj(attn.heads_of(self.ln_1(x)), product)
        x, y = tt.add_layer_norm(x, y, attn.c_proj.bias, ln_2.weight, ln_2.bias, ln_2.eps)
        y = mlp.c_fc(y, product)  # (B,T,C) -> (B,T,F)
        y = mlp.c_proj(y, partial(gelu_product, mlp.c_fc.bias))  # (B,T,F) -> (B,T,C)
        return tt.bias_add(x, y, mlp.c_proj.bias)


def product(x: tt.Tensor, weight: tt.Tensor, bias: tt.Tensor | None = None) -> tt.Tensor:
    """`tt.linear` without its bias."""
    return tt.linear(x, weight)


def gelu_product(x_bias: tt.Tensor | None, x: tt.Tensor, weight: tt.Tensor, bias: tt.Tensor | None = None) -> tt.Tensor:
    """`tt.gelu_linear` of x + x_bias without the layer's own bias."""
    return tt.gelu_linear(x, weight, None, x_bias)


def attention_scale(config: GPTConfig, layer: int) -> float:
    """Scores are divided by sqrt(D), and in a configuration of GPT-2's (Mistral) by the number of the layer, too."""
    return config.head_size**-0.5 / (layer + 1 if config.inverse_layer_scale else 1)


def residual_std(config: GPTConfig) -> float:
    """GPT-2 scales the projections into the residual stream, two per layer, so that its variance does not grow."""
    return INIT_STD * (2 * config.n_layer) ** -0.5

"""The models: GPT-2's transformer, and the bigram table that a course starts with.

Floor 5, on `tinytensor.nn`. Parameter names, shapes and initialisation are GPT-2's (Radford et al. 2019), so weights
move in and out unchanged. Shape letters: B batch, T time, C channels (n_embd), H heads, D = C / H, V vocabulary.
Read `trainer.py` next.
"""

from __future__ import annotations

import tinytensor as tt
from gpt.options import GPTConfig
from tinytensor import nn

INIT_STD = 0.02  # of every weight matrix, as in GPT-2


class Attention(nn.Module):
    """Causal self-attention with H heads."""

    def __init__(self, config: GPTConfig):
        self.heads = config.n_head
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd, config.bias, INIT_STD)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd, config.bias, _residual_std(config))
        self.dropout = config.dropout
        self.resid_dropout = nn.Dropout(config.dropout)

    def forward(self, x):
        batch, time, channels = x.shape
        qkv = self.c_attn(x).reshape(batch, time, 3, self.heads, channels // self.heads)  # (B,T,3C) -> (B,T,3,H,D)
        y = tt.packed_causal_attention(qkv, self.dropout if self.training else 0.0)
        return self.resid_dropout(self.c_proj(y.reshape(batch, time, channels)))  # (B,T,H,D) -> (B,T,C)


class MLP(nn.Module):
    """Two linear layers with four times the width between them."""

    def __init__(self, config: GPTConfig):
        self.c_fc = nn.Linear(config.n_embd, 4 * config.n_embd, config.bias, INIT_STD)
        self.gelu = config.activation == "gelu"
        self.c_proj = nn.Linear(4 * config.n_embd, config.n_embd, config.bias, _residual_std(config))
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x):
        x = self.c_fc(x)  # (B,T,C) -> (B,T,4C)
        y = tt.gelu_linear(x, self.c_proj.weight, self.c_proj.bias) if self.gelu else self.c_proj(x.relu())
        return self.dropout(y)


class Block(nn.Module):
    """Attention, then MLP, each added to the residual stream x.

    norm "pre" (GPT-2) normalises what each of them reads; "post" (the original transformer) what each has written.
    """

    def __init__(self, config: GPTConfig):
        self.pre_norm = config.norm == "pre"
        self.ln_1 = nn.LayerNorm(config.n_embd, config.bias)
        self.attn = Attention(config)
        self.ln_2 = nn.LayerNorm(config.n_embd, config.bias)
        self.mlp = MLP(config)

    def forward(self, x):
        if self.pre_norm:
            x = x + self.attn(self.ln_1(x))
            return x + self.mlp(self.ln_2(x))
        x = self.ln_1(x + self.attn(x))
        return self.ln_2(x + self.mlp(x))


class Transformer(nn.Module):
    """Token and position embeddings, the blocks, and a last layer norm: ids (B, T) -> (B, T, C)."""

    def __init__(self, config: GPTConfig):
        self.wte = nn.Embedding(config.vocab_size, config.n_embd, INIT_STD)
        self.wpe = nn.Embedding(config.block_size, config.n_embd, INIT_STD)
        self.drop = nn.Dropout(config.dropout)
        self.h = nn.Sequential(*(Block(config) for _ in range(config.n_layer)))
        self.ln_f = nn.LayerNorm(config.n_embd, config.bias)

    def forward(self, ids):
        x = self.drop(self.wte(ids) + self.wpe.weight[: ids.shape[1]])  # (B,T,C) + (T,C)
        return self.ln_f(self.h(x))


class LMHead(nn.Module):
    """Turns channels into a score for each token, by the rows of `weight` (V, C)."""

    def __init__(self, weight: nn.Parameter):
        self.weight = weight

    def forward(self, x):
        return x @ self.weight.T  # (B,T,C) @ (C,V) -> (B,T,V)


class GPT(nn.Module):
    """A GPT-2. With `tied`, the head's weight is the token embedding (Press & Wolf 2017, arXiv:1608.05859)."""

    def __init__(self, config: GPTConfig):
        self.config = config
        self.transformer = Transformer(config)
        tied = self.transformer.wte.weight
        shape = config.vocab_size, config.n_embd
        self.lm_head = LMHead(tied if config.tied else nn.Parameter(tt.randn(*shape) * INIT_STD))

    def forward(self, ids, targets=None):
        """ids (B, T) integers, T at most block_size -> logits (B, T, V), or with targets (B, T) the mean loss ()."""
        if ids.shape[1] > self.config.block_size:
            raise ValueError(f"{ids.shape[1]} tokens do not fit the model's block size of {self.config.block_size}")
        x = self.transformer(ids)
        if targets is None:
            return self.lm_head(x)
        return tt.linear_cross_entropy(x, self.lm_head.weight, targets)


class Bigram(nn.Module):
    """Predicts each token from the one before it alone: a table of V x V scores."""

    def __init__(self, config: GPTConfig):
        self.config = config
        self.table = nn.Embedding(config.vocab_size, config.vocab_size, INIT_STD)

    def forward(self, ids, targets=None):
        """ids (B, T) -> logits (B, T, V), or with targets (B, T) the mean loss ()."""
        logits = self.table(ids)
        return logits if targets is None else tt.cross_entropy(logits, targets)


def _residual_std(config: GPTConfig) -> float:
    """GPT-2 scales down what is added to the residual stream, 2 additions a layer, so that its variance stays 1."""
    return INIT_STD * (2 * config.n_layer) ** -0.5

"""GPT-2: embeddings, blocks, a final layer norm, and a head that scores every token of the vocabulary.

Parameter names, shapes and initialization are GPT-2's (Radford et al. 2019), so weights move in and out unchanged.
Shape letters: B batch, T time, C channels (n_embd), V vocabulary.
"""

from __future__ import annotations

from typing import Any

import tinytensor as tt
from gpt.model.config import GPTConfig
from gpt.model.layers import INIT_STD, Block
from gpt.model.llama import LlamaBlock, make_norm
from tinytensor import nn


class Transformer(nn.Module):
    """Token and position embeddings, the blocks, and a final layer norm: ids (B, T) -> (B, T, C).

    With rotary positions `wpe` is None: attention rotates queries and keys instead. Options that GPT-2 does not have
    make the blocks Llama's (`llama.py`).
    """

    def __init__(self, config: GPTConfig):
        self.wte = nn.Embedding(config.vocab_size, config.n_embd, INIT_STD)
        learned = config.positions == "learned"
        self.wpe = nn.Embedding(config.block_size, config.n_embd, INIT_STD) if learned else None
        self.drop = nn.Dropout(config.dropout)
        block = Block if config.like_gpt2 else LlamaBlock
        self.h = nn.Sequential(*(block(config, layer) for layer in range(config.n_layer)))
        self.ln_f = make_norm(config)

    def embed(self, ids, positions=None) -> tt.Tensor:
        """What the first block gets for ids (B, T) at `positions` (B, T), by default from 0 on: (B, T, C)."""
        x = self.wte(ids)
        if self.wpe is None:
            return x
        return x + (self.wpe.weight[: ids.shape[1]] if positions is None else self.wpe(positions))  # (T,C) or (B,T,C)

    def forward(self, ids) -> tt.Tensor:
        return self.ln_f(self.h(self.drop(self.embed(ids))))


class LMHead(nn.Module):
    """The logits of every token of the vocabulary: x @ weight.T, with weight (V, C)."""

    def __init__(self, weight: nn.Parameter):
        self.weight = weight

    def forward(self, x: tt.Tensor) -> tt.Tensor:
        return tt.linear(x, self.weight.T)  # (B,T,C) @ (C,V) -> (B,T,V)


class GPT(nn.Module):
    """A GPT-2. With `tied`, the head's weight is the token embedding (Press & Wolf 2017, arXiv:1608.05859).

    decoder: a faster way through the blocks for single tokens, as `gpt/generation/packed.py` sets it.
    """

    decoder: Any = None

    def __init__(self, config: GPTConfig):
        self.config = config
        self.transformer = Transformer(config)
        tied = self.transformer.wte.weight
        shape = config.vocab_size, config.n_embd
        self.lm_head = LMHead(tied if config.tied else nn.Parameter(tt.randn(*shape) * INIT_STD))

    def forward(self, ids, targets=None) -> tt.Tensor:
        """ids (B, T) integers, T at most block_size -> logits (B, T, V), or with targets (B, T) the mean loss ().

        ids and targets may be Tensors, arrays or nested lists. Raises ValueError for ids of another shape.
        """
        ids = ids if isinstance(ids, tt.Tensor) else tt.Tensor(ids)
        if ids.ndim != 2:
            raise ValueError(f"ids has shape {ids.shape}: must be (B, T)")
        if ids.shape[1] > self.config.block_size:
            raise ValueError(f"{ids.shape[1]} tokens do not fit the model's block size of {self.config.block_size}")
        x = self.transformer(ids)
        if targets is None:
            return self.lm_head(x)
        return tt.linear_cross_entropy(x, self.lm_head.weight, targets)

"""The bigram table: the simplest language model, with which courses start."""

from __future__ import annotations

import tinytensor as tt
from gpt.model.config import GPTConfig
from gpt.model.layers import INIT_STD
from tinytensor import nn


class Bigram(nn.Module):
    """Predicts each token from the previous one alone: a table of V x V logits."""

    def __init__(self, config: GPTConfig):
        self.config = config
        self.table = nn.Embedding(config.vocab_size, config.vocab_size, INIT_STD)

    def forward(self, ids, targets=None) -> tt.Tensor:
        """ids (B, T) -> logits (B, T, V), or with targets (B, T) the mean loss ()."""
        logits = self.table(ids)
        return logits if targets is None else tt.cross_entropy(logits, targets)

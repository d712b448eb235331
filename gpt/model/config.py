"""A model's hyperparameters."""

from dataclasses import dataclass

from gpt.errors import UserError
from gpt.options import check_options, option


@dataclass(frozen=True)
class GPTConfig:
    """A model's hyperparameters. Raises UserError for impossible ones."""

    vocab_size: int = option(0, "size of the vocabulary; 0 takes the tokenizer's", at_least=0)
    block_size: int = option(128, "longest context, in tokens", at_least=1)
    n_layer: int = option(4, "transformer blocks", at_least=1)
    n_head: int = option(4, "attention heads in each block", at_least=1)
    n_embd: int = option(128, "width of the residual stream; a multiple of --n-head", at_least=1)
    dropout: float = option(0.0, "probability of dropping an activation", at_least=0, below=1)
    bias: bool = option(True, "biases in the linear layers and layer norms, as in GPT-2")
    activation: str = option("gelu", "non-linearity of the feed-forward layers", choices=("gelu", "relu"))
    positions: str = option(
        "learned", "a learned vector for each position, or queries and keys rotated", choices=("learned", "rotary")
    )
    norm: str = option("pre", "layer norm before each sublayer, or after its residual", choices=("pre", "post"))
    tied: bool = option(True, "share the token embedding with the output layer")

    def __post_init__(self) -> None:
        check_options(self)
        if self.n_embd % self.n_head:
            raise UserError(f"--n-embd {self.n_embd}: must be a multiple of --n-head {self.n_head}")
        if self.positions == "rotary" and self.n_embd // self.n_head % 2:
            raise UserError(
                f"--n-embd {self.n_embd}: with --positions rotary, must be a multiple of 2 * --n-head, "
                f"{2 * self.n_head}: a head is rotated in pairs"
            )


def parameter_count(kind: str, config: GPTConfig) -> int:
    """How many values a model's parameters have, without making it. kind: "gpt" or "bigram"."""
    if kind == "bigram":
        return config.vocab_size**2
    c, norms = config.n_embd, 2 if config.bias else 1
    layer = 12 * c**2 + 2 * norms * c + (9 * c if config.bias else 0)
    positions = config.block_size if config.positions == "learned" else 0
    tables = (config.vocab_size * (1 if config.tied else 2) + positions) * c
    return tables + config.n_layer * layer + norms * c

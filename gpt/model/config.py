"""A model's hyperparameters."""

from dataclasses import dataclass, fields

from gpt.errors import UserError
from gpt.model.rotary import parse_scaling
from gpt.options import check_options, option

LAYERS = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")  # the linear layers of a block
GATED = "swiglu"  # the activation with a second half in the first layer of the MLP, which multiplies


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
    activation: str = option(
        "gelu",
        "non-linearity of the feed-forward layers; gelu is GPT-2's, by tanh, gelu_erf the exact one",
        choices=("gelu", "gelu_erf", "relu", GATED),
    )
    positions: str = option(
        "learned", "a learned vector for each position, or queries and keys rotated", choices=("learned", "rotary")
    )
    norm: str = option(
        "pre",
        "normalize the input of each sublayer, the sum after it, or its output before the sum (OLMo 2)",
        choices=("pre", "post", "output"),
    )
    tied: bool = option(True, "share the token embedding with the output layer")
    n_inner: int = option(0, "width of the feed-forward layers; 0 is 4 x --n-embd, with swiglu about 8/3", at_least=0)
    norm_eps: float = option(1e-5, "added to the variance in each norm", above=0, below=1)
    inverse_layer_scale: bool = option(False, "divide the attention scores of layer i by i + 1")
    # What GPT-2's blocks do not have: if any of these differs from its default, the blocks are those of llama.py.
    norm_layer: str = option("layer", "layer norm, or RMS norm, which Llama has", choices=("layer", "rms"))
    n_kv_head: int = option(0, "heads of keys and values, each for several of queries; 0 for --n-head", at_least=0)
    head_dim: int = option(0, "size of an attention head; 0 is --n-embd / --n-head", at_least=0)
    qkv_bias: bool = option(False, "with --no-bias: biases of queries, keys and values all the same (Qwen 2)")
    qk_norm: str = option(
        "none",
        "RMS norm of each head of queries and keys (Qwen 3), or of all (OLMo 2)",
        choices=("none", "head", "full"),
    )
    parallel: bool = option(False, "attention and MLP side by side instead of in sequence (GPT-NeoX)")
    rotary_theta: float = option(10000.0, "base of rotary positions", above=0, below=float("inf"))
    rotary_fraction: float = option(1.0, "part of each head that is rotated", above=0, at_most=1)
    rotary_scaling: str = option("", "linear:FACTOR, or llama3:FACTOR,LOW,HIGH,CONTEXT, for longer contexts")

    def __post_init__(self) -> None:
        check_options(self)
        parse_scaling(self.rotary_scaling)
        if not self.head_dim and self.n_embd % self.n_head:
            raise UserError(f"--n-embd {self.n_embd}: must be a multiple of --n-head {self.n_head}")
        if self.n_head % self.kv_heads:
            raise UserError(f"--n-kv-head {self.n_kv_head}: must divide --n-head {self.n_head}")
        if self.positions == "rotary" and self.rotary_fraction == 1 and self.head_size % 2:
            if self.head_dim:
                raise UserError(f"--head-dim {self.head_dim}: must be even with --positions rotary")
            raise UserError(
                f"--n-embd {self.n_embd}: with --positions rotary, must be a multiple of 2 * --n-head, "
                f"{2 * self.n_head}: a head is rotated in pairs"
            )
        rotated = int(self.rotary_fraction * self.head_size)
        if self.positions == "rotary" and self.rotary_fraction < 1 and (rotated % 2 or not rotated):
            raise UserError(
                f"--rotary-fraction {self.rotary_fraction}: would rotate {rotated} of the {self.head_size} values of a "
                "head, which must be an even number above 0, as they are rotated in pairs"
            )
        if self.parallel and self.norm != "pre":
            raise UserError(f"--parallel: needs --norm pre, not {self.norm}")

    @property
    def like_gpt2(self) -> bool:
        """Whether the blocks are GPT-2's (`layers.py`), not those of `llama.py`."""
        names = [field.name for field in fields(self)]
        newer = names[names.index("norm_layer") :]
        return (
            self.activation != GATED
            and self.norm != "output"
            and all(getattr(self, name) == getattr(GPTConfig, name) for name in newer)
        )

    @property
    def head_size(self) -> int:
        """D."""
        return self.head_dim or self.n_embd // self.n_head

    @property
    def kv_heads(self) -> int:
        """Heads of keys, and as many of values: G."""
        return self.n_kv_head or self.n_head

    @property
    def qkv_width(self) -> int:
        """Queries, keys and values of a token: the columns of c_attn."""
        return (self.n_head + 2 * self.kv_heads) * self.head_size

    @property
    def inner(self) -> int:
        """Width of the feed-forward layers: the rows of the MLP's c_proj. By default, those of GPT-2 and Llama."""
        if self.n_inner or self.activation != GATED:
            return self.n_inner or 4 * self.n_embd
        return -(-8 * self.n_embd // 48) * 16  # 8/3, with which the three matrices have the values of two, in 16s

    @property
    def fc_width(self) -> int:
        """The columns of the MLP's c_fc."""
        return self.inner * (2 if self.activation == GATED else 1)


def parameter_count(kind: str, config: GPTConfig) -> int:
    """How many values a model's parameters have, without making it. kind: "gpt" or "bigram"."""
    outside, block = parameter_sizes(kind, config)
    return sum(outside.values()) + config.n_layer * sum(block.values())


def parameter_sizes(kind: str, config: GPTConfig) -> tuple[dict[str, int], dict[str, int]]:
    """How many values each parameter has: {name: values} outside of the blocks, and in each block by its name there."""
    c, size = config.n_embd, config.head_size
    if kind == "bigram":
        return {"table.weight": config.vocab_size**2}, {}
    outside = {"transformer.wte.weight": config.vocab_size * c}
    if config.positions == "learned":
        outside["transformer.wpe.weight"] = config.block_size * c
    outside |= _norm("transformer.ln_f", config)
    if not config.tied:
        outside["lm_head.weight"] = config.vocab_size * c
    block = _norm("ln_1", config) | _norm("ln_2", config)
    for name, (inputs, outputs) in layer_shapes(config).items():
        block[f"{name}.weight"] = inputs * outputs
        if config.bias or (config.qkv_bias and name == "attn.c_attn"):
            block[f"{name}.bias"] = outputs
    if config.qk_norm != "none":
        heads = (1, 1) if config.qk_norm == "head" else (config.n_head, config.kv_heads)
        block |= {"attn.q_norm.weight": heads[0] * size, "attn.k_norm.weight": heads[1] * size}
    return outside, block


def _norm(name: str, config: GPTConfig) -> dict[str, int]:
    has_bias = config.bias and config.norm_layer == "layer"
    return {f"{name}.{part}": config.n_embd for part in ("weight", "bias")[: 1 + has_bias]}


def layer_shapes(config: GPTConfig) -> dict[str, tuple[int, int]]:
    """The linear layers of a block by name, with the shapes (in, out) of their weights."""
    c, size = config.n_embd, config.head_size
    shapes = (c, config.qkv_width), (config.n_head * size, c), (c, config.fc_width), (config.inner, c)
    return dict(zip(LAYERS, shapes, strict=True))

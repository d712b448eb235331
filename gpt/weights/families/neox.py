"""GPT-NeoX, the family of Pythia: rotary positions of a part of each head, attention and MLP side by side.

Its layers have biases everywhere, so a model without is stored with zeros, as for GPT-2. The rows of query_key_value
are ordered by head, then by query, key and value; our columns of c_attn the other way round.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from gpt.errors import UserError
from gpt.model import GPTConfig
from gpt.weights.families.common import (
    EMBEDDING,
    HEAD,
    MAX_SHOWN,
    Stored,
    describe_scaling,
    describe_sizes,
    differing,
    parts,
    read_rotary,
    read_sizes,
    require,
    split_name,
    with_biases,
)

ACTIVATIONS = {"gelu": "gelu_erf", "gelu_new": "gelu", "gelu_pytorch_tanh": "gelu", "gelu_fast": "gelu", "relu": "relu"}
FIXED = {
    "positions": "rotary",
    "norm_layer": "layer",
    "norm": "pre",
    "qk_norm": "none",
    "qkv_bias": False,
    "inverse_layer_scale": False,
}
OUTSIDE = {
    EMBEDDING: "gpt_neox.embed_in.weight",
    "transformer.ln_f.weight": "gpt_neox.final_layer_norm.weight",
    "transformer.ln_f.bias": "gpt_neox.final_layer_norm.bias",
    HEAD: "embed_out.weight",
}
IN_BLOCK = {
    "ln_1": "input_layernorm",
    "ln_2": "post_attention_layernorm",
    "attn.c_attn": "attention.query_key_value",
    "attn.c_proj": "attention.dense",
    "mlp.c_fc": "mlp.dense_h_to_4h",
    "mlp.c_proj": "mlp.dense_4h_to_h",
}


def parse(content: Mapping[str, Any]) -> GPTConfig:
    """The GPTConfig that a `config.json` describes; UserError for a setting that is not supported here."""
    settings = read_sizes(content)
    require(content, {"attention_bias": True})
    activation = content.get("hidden_act", "gelu")
    if activation not in list(ACTIVATIONS):
        raise UserError(f"hidden_act is {activation!s:.{MAX_SHOWN}}, not one of {', '.join(ACTIVATIONS)}")
    return GPTConfig(
        **settings,
        activation=ACTIVATIONS[activation],
        parallel=content.get("use_parallel_residual", True),
        norm_eps=content.get("layer_norm_eps", 1e-5),
        tied=content.get("tie_word_embeddings", False),
        **read_rotary({"rotary_pct": 0.25, **content}, "rotary_emb_base", "rotary_pct"),
    )


def describe(config: GPTConfig) -> dict[str, Any]:
    """Hugging Face's settings of a model that `why_not` has no objection to."""
    return {
        "model_type": "gpt_neox",
        "architectures": ["GPTNeoXForCausalLM"],
        **describe_sizes(config),
        "hidden_act": {"gelu": "gelu_new", "gelu_erf": "gelu", "relu": "relu"}[config.activation],
        "use_parallel_residual": config.parallel,
        "layer_norm_eps": config.norm_eps,
        "rotary_emb_base": config.rotary_theta,
        "rotary_pct": config.rotary_fraction,
        **describe_scaling(config),
        "tie_word_embeddings": config.tied,
    }


def why_not(config: GPTConfig) -> str | None:
    """The reason why a model is no GPT-NeoX, or None if it is one."""
    if config.activation == "swiglu":
        return "--activation swiglu: GPT-NeoX has none"
    if config.kv_heads != config.n_head or config.head_size * config.n_head != config.n_embd:
        return "--n-kv-head, --head-dim: GPT-NeoX has --n-head heads of --n-embd / --n-head values"
    return differing(config, FIXED, "GPT-NeoX")


def stored(config: GPTConfig, arrays: Mapping[str, np.ndarray]) -> dict[str, Stored]:
    """Views of our parameters {our name: array} under Hugging Face's names, in its layout; zeros for missing biases."""
    found = {}
    for name, array in with_biases(arrays, config).items():
        if name in OUTSIDE:
            found[OUTSIDE[name]] = Stored(array, array.shape)
            continue
        layer, module, parameter = split_name(name)
        (piece,) = parts(array, [array.shape[-1]])
        if module == "attn.c_attn":
            by_part = piece.view.reshape(3, config.n_head, config.head_size, *piece.shape[1:])
            piece = Stored(by_part.swapaxes(0, 1), piece.shape)
        found[f"gpt_neox.layers.{layer}.{IN_BLOCK[module]}.{parameter}"] = piece
    return found

"""Llama, and Qwen 2, Qwen 3 and OLMo 2, which share its names: what differs between them is in KINDS.

PyTorch's layers hold (out, in). Our c_attn is their q_proj, k_proj and v_proj side by side, our c_fc their gate_proj
and up_proj. SmolLM 2 and TinyLlama are Llamas.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

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
)


class Kind(NamedTuple):
    """A family by its model_type. fixed: what our settings always are; eps: of its norms, if a file leaves it out."""

    architecture: str
    fixed: dict[str, Any]
    eps: float
    head_dim: bool = False  # whether heads may have any size


COMMON = {
    "positions": "rotary",
    "norm_layer": "rms",
    "activation": "swiglu",
    "norm": "pre",
    "parallel": False,
    "rotary_fraction": 1.0,
    "inverse_layer_scale": False,
    "qk_norm": "none",
    "qkv_bias": False,
}
KINDS = {
    "llama": Kind("LlamaForCausalLM", COMMON, 1e-6, head_dim=True),
    "qwen2": Kind("Qwen2ForCausalLM", COMMON | {"bias": False, "qkv_bias": True}, 1e-6),
    "qwen3": Kind("Qwen3ForCausalLM", COMMON | {"bias": False, "qk_norm": "head"}, 1e-6, head_dim=True),
    "olmo2": Kind("Olmo2ForCausalLM", COMMON | {"bias": False, "qk_norm": "full", "norm": "output"}, 1e-5),
}
# Settings of which only these values are supported here
ALLOWED = {"hidden_act": "silu", "use_sliding_window": False, "clip_qkv": None}
OUTSIDE = {EMBEDDING: "model.embed_tokens.weight", "transformer.ln_f.weight": "model.norm.weight", HEAD: HEAD}
IN_BLOCK = {
    "attn.c_attn": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attn.c_proj": ("self_attn.o_proj",),
    "attn.q_norm": ("self_attn.q_norm",),
    "attn.k_norm": ("self_attn.k_norm",),
    "mlp.c_fc": ("mlp.gate_proj", "mlp.up_proj"),
    "mlp.c_proj": ("mlp.down_proj",),
}
NORMS = {  # by the setting `norm`
    "pre": {"ln_1": ("input_layernorm",), "ln_2": ("post_attention_layernorm",)},
    "output": {"ln_1": ("post_attention_layernorm",), "ln_2": ("post_feedforward_layernorm",)},
}


def parse(content: Mapping[str, Any]) -> GPTConfig:
    """The GPTConfig that a `config.json` describes; UserError for a setting that is not supported here."""
    kind = KINDS[content["model_type"]]
    settings = read_sizes(content)
    require(content, ALLOWED)
    if others := set(content.get("layer_types") or []) - {"full_attention"}:
        raise UserError(f"layer_types contains {min(others)!s:.{MAX_SHOWN}}, here it can only be full_attention")
    attention_bias = content.get("attention_bias", False)
    bias = kind.fixed.get("bias", content.get("mlp_bias", False))
    if attention_bias != bias and content["model_type"] != "qwen2":
        raise UserError(f"attention_bias is {attention_bias!r:.{MAX_SHOWN}}, here it can only be {bias}, as in the MLP")
    settings["n_kv_head"] = content.get("num_key_value_heads") or content["num_attention_heads"]
    if kind.head_dim:
        settings["head_dim"] = content.get("head_dim") or 0
    settings["tied"] = content.get("tie_word_embeddings", False)
    settings["norm_eps"] = content.get("rms_norm_eps", kind.eps)
    return GPTConfig(**{**settings, "bias": bias, **kind.fixed, **read_rotary(content, "rope_theta")})


def describe(config: GPTConfig, model_type: str) -> dict[str, Any]:
    """Hugging Face's settings of a model that `why_not` has no objection to."""
    kind = KINDS[model_type]
    described = {
        "model_type": model_type,
        "architectures": [kind.architecture],
        **describe_sizes(config),
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_size,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rotary_theta,
        **describe_scaling(config),
        "tie_word_embeddings": config.tied,
    }
    if model_type == "llama":
        described |= {"attention_bias": config.bias, "mlp_bias": config.bias}
    return described


def why_not(config: GPTConfig, model_type: str) -> str | None:
    """The reason why a model is none of that model_type, or None if it is."""
    kind = KINDS[model_type]
    if reason := differing(config, kind.fixed, kind.architecture):
        return reason
    if not kind.head_dim and config.head_size * config.n_head != config.n_embd:
        return f"--head-dim {config.head_dim}: {kind.architecture} has heads of --n-embd / --n-head values"
    return None


def stored(config: GPTConfig, arrays: Mapping[str, np.ndarray]) -> dict[str, Stored]:
    """Views of our parameters {our name: array} under Hugging Face's names, in its layout."""
    sizes = {
        "attn.c_attn": [config.n_head * config.head_size, *[config.kv_heads * config.head_size] * 2],
        "mlp.c_fc": [config.inner] * 2,
    }
    names, found = IN_BLOCK | NORMS[config.norm], {}
    for name, array in arrays.items():
        if name in OUTSIDE:
            found[OUTSIDE[name]] = Stored(array, array.shape)
            continue
        layer, module, parameter = split_name(name)
        pieces = parts(array, sizes.get(module, [array.shape[-1]]))
        for target, piece in zip(names[module], pieces, strict=True):
            found[f"model.layers.{layer}.{target}.{parameter}"] = piece
    return found

"""Hugging Face's names and configurations, and ours: how a GPT-2 is described in `config.json`, and what it lacks.

Parameter names and layouts are GPT-2's. Where the architecture is GPT-2's too, Hugging Face's
`GPT2LMHeadModel.from_pretrained` reads what is written here. GPT-2 always has biases: a model without them is saved
with zeros in their place.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from gpt.errors import UserError
from gpt.model import GPTConfig
from gpt.options import build
from gpt.tokenizers.load import Tokenizer

CONFIG_FILE = "config.json"
POSITIONS = "transformer.wpe.weight"
EMBEDDINGS = ("transformer.wte.weight", POSITIONS, "lm_head.weight", "table.weight")
# Hugging Face's names for our activations; its "gelu", without tanh, is another function.
ACTIVATIONS = {"gelu_new": "gelu", "gelu_pytorch_tanh": "gelu", "relu": "relu"}
# Settings of Hugging Face's GPT-2 of which only the default is supported here.
FIXED = {
    "layer_norm_epsilon": 1e-5,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
}
# Buffers that old versions saved with the weights: the causal mask
MASKS = (".attn.bias", ".attn.masked_bias")

T = TypeVar("T")


def read_config(directory: Path) -> tuple[str, GPTConfig]:
    """Kind ("gpt" or "bigram") and GPTConfig of a model directory, ours or one of Hugging Face's GPT-2."""
    path = directory / CONFIG_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if "tinytensor" in content:
            return content["tinytensor"]["model"], build(GPTConfig, content["tinytensor"])
        if content.get("model_type") == "gpt2":
            return "gpt", from_gpt2(content, path)
        raise UserError(
            f"{path}: is neither a model of tinytensor nor a GPT-2 (model_type {content.get('model_type')})"
        )
    except FileNotFoundError:
        raise UserError(f"{directory}: contains no model (no {CONFIG_FILE}); give the directory of a run") from None
    except (OSError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f"{path}: is not the configuration of a model ({error!r})") from None


def from_gpt2(content: Mapping[str, Any], path: Path) -> GPTConfig:
    """The GPTConfig of the parsed `config.json` of a GPT-2; UserError for a setting that is not supported here."""
    for name, value in FIXED.items():
        if content.get(name, value) != value:
            raise UserError(f"{path}: {name} is {content[name]}, here it can only be {value}")
    if content.get("n_inner") not in (None, 4 * content["n_embd"]):
        raise UserError(f"{path}: n_inner is {content['n_inner']}, here it can only be {4 * content['n_embd']}")
    activation = content.get("activation_function", "gelu_new")
    if activation not in ACTIVATIONS:
        raise UserError(f"{path}: activation_function is {activation}, not one of {', '.join(ACTIVATIONS)}")
    return GPTConfig(
        vocab_size=content["vocab_size"],
        block_size=content["n_positions"],
        n_layer=content["n_layer"],
        n_head=content["n_head"],
        n_embd=content["n_embd"],
        dropout=content.get("resid_pdrop", 0.1),
        activation=ACTIVATIONS[activation],
        tied=content.get("tie_word_embeddings", True),
    )


def describe(kind: str, config: GPTConfig, tokenizer: Tokenizer | None = None) -> dict[str, Any]:
    """The content of `config.json`: our own section, and GPT-2's keys or the reason why it is not a GPT-2."""
    ours = {"tinytensor": {"model": kind, **asdict(config)}}
    if reason := why_not_gpt2(kind, config):
        return {"not_gpt2": reason, **ours}
    end_of_text = tokenizer.end_of_text if tokenizer else None
    return {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "vocab_size": config.vocab_size,
        "n_positions": config.block_size,
        "n_embd": config.n_embd,
        "n_layer": config.n_layer,
        "n_head": config.n_head,
        "activation_function": {"gelu": "gelu_new", "relu": "relu"}[config.activation],
        "layer_norm_epsilon": FIXED["layer_norm_epsilon"],
        "resid_pdrop": config.dropout,
        "embd_pdrop": config.dropout,
        "attn_pdrop": config.dropout,
        "tie_word_embeddings": config.tied,
        "bos_token_id": end_of_text,
        "eos_token_id": end_of_text,
        "torch_dtype": "float32",
        **ours,
    }


def why_not_gpt2(kind: str, config: GPTConfig) -> str | None:
    """The reason why GPT-2 cannot express a model, or None if it can."""
    if kind != "gpt":
        return f"--model {kind}: is not a transformer"
    if config.norm != "pre":
        return f"--norm {config.norm}: GPT-2 has its layer norms before each sublayer (--norm pre), and one at the end"
    return None


def our_names(found: Mapping[str, T]) -> dict[str, T]:
    """The same values by our names: the hub's GPT-2 lack the prefix, and contain masks."""
    prefixed = ("transformer.", *EMBEDDINGS)
    full = {name if name.startswith(prefixed) else f"transformer.{name}": value for name, value in found.items()}
    return {name: value for name, value in full.items() if not name.endswith(MASKS)}


def with_biases(arrays: Mapping[str, np.ndarray], config: GPTConfig) -> dict[str, np.ndarray]:
    """The arrays of a model, with zeros for the biases that GPT-2 has and a model with bias=False does not."""
    filled = dict(arrays)
    if not config.bias:
        for name, weight in arrays.items():
            if name.endswith(".weight") and name not in EMBEDDINGS:
                filled.setdefault(name.removesuffix("weight") + "bias", np.zeros(weight.shape[-1], weight.dtype))
    return filled

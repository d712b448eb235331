"""Hugging Face's names and configurations, and ours: how a GPT-2 is described in `config.json`, and what it lacks.

Parameter names and layouts are GPT-2's. Where the architecture is GPT-2's too, Hugging Face's
`GPT2LMHeadModel.from_pretrained` reads what is written here. GPT-2 always has biases: a model without them is saved
with zeros in their place.

`transformers` copies our section of `config.json` unread when it saves a model that it has changed. So if the file
describes a GPT-2, Hugging Face's keys hold, and our section adds only what they cannot express: that biases are left
out. Whether they still are, the weights tell (`load.py`).
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from gpt.errors import UserError
from gpt.files import read_json
from gpt.model import MODELS, GPTConfig
from gpt.tokenizers.load import Tokenizer

CONFIG_FILE = "config.json"
EMBEDDING, POSITIONS, HEAD = "transformer.wte.weight", "transformer.wpe.weight", "lm_head.weight"
EMBEDDINGS = (EMBEDDING, POSITIONS, HEAD, "table.weight")
# Hugging Face's names for our activations; its "gelu", without tanh, is another function.
ACTIVATIONS = {"gelu_new": "gelu", "gelu_pytorch_tanh": "gelu", "relu": "relu"}
# Our names for Hugging Face's settings of GPT-2, and what they are if a file leaves them out.
KEYS = {
    "vocab_size": "vocab_size",
    "block_size": "n_positions",
    "n_layer": "n_layer",
    "n_head": "n_head",
    "n_embd": "n_embd",
    "dropout": "resid_pdrop",
    "tied": "tie_word_embeddings",
}
DEFAULTS = {
    "vocab_size": 50257,
    "n_positions": 1024,
    "n_layer": 12,
    "n_head": 12,
    "n_embd": 768,
    "n_inner": None,
    "resid_pdrop": 0.1,
    "activation_function": "gelu_new",
    "tie_word_embeddings": True,
}
# names that Hugging Face accepts as well
OTHER_NAMES = {
    "max_position_embeddings": "n_positions",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "hidden_size": "n_embd",
}
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
        return parse_config(read_json(path))
    except FileNotFoundError:
        raise UserError(f"{directory}: contains no model (no {CONFIG_FILE}); give the directory of a run") from None
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: is not the configuration of a model ({error})") from None


def is_ours(directory: Path) -> bool:
    """Whether tinytensor wrote the model directory, as far as its `config.json` tells."""
    return "tinytensor" in read_json(directory / CONFIG_FILE)


def parse_config(content: Mapping[str, Any]) -> tuple[str, GPTConfig]:
    """Kind and GPTConfig of a parsed `config.json`. Raises UserError, or ValueError for values of the wrong type."""
    ours = content.get("tinytensor")
    kind, config = ("gpt", GPTConfig()) if ours is None else from_section(ours)
    if content.get("model_type") == "gpt2":
        if reason := why_not_gpt2(kind, config):
            raise UserError(f"describes a GPT-2, and in its section tinytensor a model that is none ({reason})")
        return kind, dataclasses.replace(from_gpt2(content), bias=config.bias)
    if ours is None:
        raise UserError(f"is neither a model of tinytensor nor a GPT-2 (model_type {content.get('model_type')!s:.60})")
    return kind, config


def from_section(section: Any) -> tuple[str, GPTConfig]:
    """Kind and GPTConfig of our section of a `config.json`; UserError or ValueError if it has impossible values."""
    if not isinstance(section, dict) or section.get("model") not in list(MODELS):
        raise ValueError(f"its section tinytensor is not a model: one of {', '.join(MODELS)}")
    fields = [field.name for field in dataclasses.fields(GPTConfig)]
    return section["model"], GPTConfig(**{name: section[name] for name in fields if name in section})


def from_gpt2(content: Mapping[str, Any]) -> GPTConfig:
    """The GPTConfig that Hugging Face's keys describe; UserError for a setting that is not supported here."""
    found = dict(content)
    for other, name in OTHER_NAMES.items():
        if other in found and found.setdefault(name, found[other]) != found[other]:
            raise UserError(f"{name} is {found[name]!r:.60}, and {other}, which means the same, {found[other]!r:.60}")
    found = DEFAULTS | found
    for name, value in FIXED.items():
        if found.get(name, value) != value:
            raise UserError(f"{name} is {found[name]!r:.60}, here it can only be {value}")
    activation, config = found["activation_function"], GPTConfig(**{ours: found[name] for ours, name in KEYS.items()})
    if found["n_inner"] not in (None, 4 * config.n_embd):
        raise UserError(f"n_inner is {found['n_inner']!r:.60}, here it can only be {4 * config.n_embd}")
    if activation not in list(ACTIVATIONS):
        raise UserError(f"activation_function is {activation!s:.60}, not one of {', '.join(ACTIVATIONS)}")
    return dataclasses.replace(config, activation=ACTIVATIONS[activation])


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
    if config.positions != "learned":
        return f"--positions {config.positions}: GPT-2 adds a learned vector for each position (--positions learned)"
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

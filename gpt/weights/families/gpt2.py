"""GPT-2: how Hugging Face describes it in `config.json`, and what it lacks. Names and layouts are ours.

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
from typing import Any, TypeVar

import numpy as np

from gpt.errors import UserError
from gpt.model import GPTConfig
from gpt.weights.families.common import EMBEDDINGS, MAX_SHOWN, Stored, require

# Hugging Face's names for our activations, the preferred one first; its "gelu" is the exact one, without tanh.
ACTIVATIONS = {"gelu_new": "gelu", "gelu_pytorch_tanh": "gelu", "gelu": "gelu_erf", "relu": "relu"}
# Our names for Hugging Face's settings of GPT-2, and what they are if a file leaves them out.
KEYS = {
    "vocab_size": "vocab_size",
    "block_size": "n_positions",
    "n_layer": "n_layer",
    "n_head": "n_head",
    "n_embd": "n_embd",
    "dropout": "resid_pdrop",
    "tied": "tie_word_embeddings",
    "norm_eps": "layer_norm_epsilon",
    "inverse_layer_scale": "scale_attn_by_inverse_layer_idx",
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
    "layer_norm_epsilon": 1e-5,
    "scale_attn_by_inverse_layer_idx": False,
}
# names that Hugging Face accepts as well
OTHER_NAMES = {
    "max_position_embeddings": "n_positions",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "hidden_size": "n_embd",
}
# Settings of Hugging Face's GPT-2 of which only the default is supported here.
FIXED = {"scale_attn_weights": True, "add_cross_attention": False}
T = TypeVar("T")


def parse(content: Mapping[str, Any]) -> GPTConfig:
    """The GPTConfig that Hugging Face's keys describe; UserError for a setting that is not supported here."""
    found = dict(content)
    for other, name in OTHER_NAMES.items():
        if other in found and found.setdefault(name, found[other]) != found[other]:
            raise UserError(
                f"{name} is {found[name]!r:.{MAX_SHOWN}}, and {other}, which means the same, "
                f"{found[other]!r:.{MAX_SHOWN}}"
            )
    found = DEFAULTS | found
    require(found, FIXED)
    activation, config = found["activation_function"], GPTConfig(**{ours: found[name] for ours, name in KEYS.items()})
    if found["n_inner"] not in (None, 4 * config.n_embd):
        config = dataclasses.replace(config, n_inner=found["n_inner"])
    if activation not in list(ACTIVATIONS):
        raise UserError(f"activation_function is {activation!s:.{MAX_SHOWN}}, not one of {', '.join(ACTIVATIONS)}")
    return dataclasses.replace(config, activation=ACTIVATIONS[activation])


def describe(config: GPTConfig) -> dict[str, Any]:
    """Hugging Face's settings of a model that `why_not` has no objection to."""
    names = {ours: theirs for theirs, ours in reversed(ACTIVATIONS.items())}
    settings = asdict(config)
    return {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        **{theirs: settings[ours] for ours, theirs in KEYS.items()},
        "n_inner": config.n_inner or None,
        "activation_function": names[config.activation],
        "embd_pdrop": config.dropout,
        "attn_pdrop": config.dropout,
    }


def why_not(config: GPTConfig) -> str | None:
    """The reason why GPT-2 cannot express a model, or None if it can."""
    if config.norm != "pre":
        return f"--norm {config.norm}: GPT-2 has its layer norms before each sublayer (--norm pre), and one at the end"
    if config.positions != "learned":
        return f"--positions {config.positions}: GPT-2 adds a learned vector for each position (--positions learned)"
    return None if config.like_gpt2 else "its blocks have options that GPT-2's do not"


def stored(config: GPTConfig, arrays: Mapping[str, np.ndarray]) -> dict[str, Stored]:
    """Our parameters {our name: array} as the files have them: the same."""
    return {name: Stored(array, array.shape) for name, array in arrays.items()}


def normalized_names(found: Mapping[str, T]) -> dict[str, T]:
    """The same values by our names: the hub's GPT-2 lack the prefix."""
    prefixed = ("transformer.", *EMBEDDINGS)
    return {name if name.startswith(prefixed) else f"transformer.{name}": value for name, value in found.items()}

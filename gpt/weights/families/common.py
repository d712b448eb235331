"""What the families share: our names, views of parameters in other layouts, and how settings are read and refused."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from gpt.errors import UserError
from gpt.model import GPTConfig
from gpt.model.rotary import parse_scaling

CONFIG_FILE = "config.json"
PEFT_CONFIG_FILE = "adapter_config.json"  # of adapters that PEFT reads, which are no model by themselves
EMBEDDING, POSITIONS, HEAD = "transformer.wte.weight", "transformer.wpe.weight", "lm_head.weight"
EMBEDDINGS = (EMBEDDING, POSITIONS, HEAD, "table.weight")
BLOCK = "transformer.h."  # begins the names of a block's parameters, before its number
# our names for the sizes of a model, and those of all families but GPT-2
SIZES = {
    "vocab_size": "vocab_size",
    "block_size": "max_position_embeddings",
    "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads",
    "n_embd": "hidden_size",
    "n_inner": "intermediate_size",
}
MAX_SHOWN = 60  # characters of a value in a message


class Stored(NamedTuple):
    """A view of one of our parameters in the layout of a file, and the shape that it has there."""

    view: np.ndarray
    shape: tuple[int, ...]


def parts(array: np.ndarray, sizes: Iterable[int]) -> list[Stored]:
    """A linear layer's weight (in, out) or bias (out,) as several of PyTorch's layout, (out_i, in) or (out_i,)."""
    views = np.split(array.T, np.cumsum([*sizes])[:-1])
    return [Stored(view, view.shape) for view in views]


def with_biases(arrays: Mapping[str, np.ndarray], config: GPTConfig) -> dict[str, np.ndarray]:
    """The arrays of a model, with zeros for the biases that a family has and a model with bias=False does not."""
    filled = dict(arrays)
    if not config.bias:
        for name, weight in arrays.items():
            if name.endswith(".weight") and name not in EMBEDDINGS:
                filled.setdefault(name.removesuffix("weight") + "bias", np.zeros(weight.shape[-1], weight.dtype))
    return filled


def read_sizes(content: Mapping[str, Any]) -> dict[str, Any]:
    """Our SIZES of a parsed `config.json`. UserError if one is missing."""
    if missing := [name for name in SIZES.values() if name not in content]:
        raise UserError(f"{missing[0]} is missing")
    return {ours: content[theirs] for ours, theirs in SIZES.items()}


def describe_sizes(config: GPTConfig) -> dict[str, Any]:
    """A family's names and values of the SIZES of a model."""
    return {theirs: getattr(config, ours) for ours, theirs in SIZES.items()} | {"intermediate_size": config.inner}


def split_name(name: str) -> tuple[str, str, str]:
    """Layer, module and parameter that a name in a block consists of, such as "0", "attn.c_attn" and "weight"."""
    layer, _, rest = name.removeprefix(BLOCK).partition(".")
    module, _, parameter = rest.rpartition(".")
    return layer, module, parameter


def require(found: Mapping[str, Any], allowed: Mapping[str, Any]) -> None:
    """Raise UserError for the first setting that is there and has another value than the one that is allowed."""
    for name, value in allowed.items():
        if found.get(name, value) != value:
            raise UserError(f"{name} is {found[name]!r:.{MAX_SHOWN}}, here it can only be {value}")


def read_rotary(found: Mapping[str, Any], theta: str, fraction: str = "partial_rotary_factor") -> dict[str, Any]:
    """Our settings of rotary positions from a family's; UserError for a kind of scaling that is not supported here.

    theta, fraction: what older versions of transformers call these. Newer ones have all in `rope_parameters`.
    """
    settings = {**(found.get("rope_scaling") or {}), **(found.get("rope_parameters") or {})}
    kind = settings.get("rope_type", settings.get("type", "default"))
    names = {"default": [], "linear": ["factor"]}
    names["llama3"] = ["factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"]
    if kind not in names:
        raise UserError(f"rope_type is {kind!r:.{MAX_SHOWN}}, here it can only be one of {', '.join(names)}")
    numbers = ",".join(repr(float(settings[name])) for name in names[kind])
    return {
        "positions": "rotary",
        "rotary_theta": float(settings.get("rope_theta", found.get(theta, 10000.0))),
        "rotary_fraction": float(settings.get("partial_rotary_factor", found.get(fraction, 1.0))),
        "rotary_scaling": f"{kind}:{numbers}" if numbers else "",
    }


def describe_scaling(config: GPTConfig) -> dict[str, Any]:
    """Hugging Face's `rope_scaling` of a model."""
    scaling = parse_scaling(config.rotary_scaling)
    if scaling is None:
        return {"rope_scaling": None}
    if not scaling.context:
        return {"rope_scaling": {"rope_type": "linear", "factor": scaling.factor}}
    return {
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": scaling.factor,
            "low_freq_factor": scaling.low,
            "high_freq_factor": scaling.high,
            "original_max_position_embeddings": int(scaling.context),
        }
    }


def differing(config: GPTConfig, needed: Mapping[str, Any], family: str) -> str | None:
    """The first setting of a model that differs from those that a family has, as a sentence; None if none does."""
    for name, value in needed.items():
        if getattr(config, name) != value:
            flag = name.replace("_", "-")
            return f"--{flag} {getattr(config, name)}: {family} has --{flag} {value}"
    return None

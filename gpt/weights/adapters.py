"""Model directories that hold the adapters of a LoRA alone, and where the weights are that they belong to.

The best model of such a run is its adapters in `best/`, whose `config.json` describes the model and has a section
`lora`, and the frozen weights in `base/` beside it, copied from the model of `--init-from` when the run was created.
So a run can be moved, copied and resumed whatever happens to that model, and its manifest covers these files as well.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpt.errors import UserError, did_you_mean
from gpt.files import read_json, replace_json
from gpt.model import GPTConfig
from gpt.model.config import LAYERS, layer_shapes
from gpt.model.lora import merge
from gpt.tokenizers.load import Tokenizer
from gpt.weights.directory import NO_WEIGHTS, WEIGHTS_FILE
from gpt.weights.families.common import BLOCK, CONFIG_FILE, Stored
from gpt.weights.families.registry import Family, describe
from gpt.weights.safetensors import entries, fill

BASE = "base"  # the directory of a run's frozen weights
SECTION = "lora"  # of config.json


@dataclass(frozen=True)
class LoRA:
    """The settings of adapters: `layers` as in `layer_shapes`."""

    rank: int
    alpha: float
    layers: tuple[str, ...]

    @property
    def scale(self) -> float:
        """What A B is multiplied by."""
        return self.alpha / self.rank


def create_adapter_directory(directory: Path, config: GPTConfig, tokenizer: Tokenizer, lora: LoRA) -> None:
    """Make a directory for the adapters of a GPT; `save_weights` adds them. transformers refuses to load it."""
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save(directory)
    section = {"rank": lora.rank, "alpha": lora.alpha, "layers": list(lora.layers)}
    ours = describe("gpt", config)["tinytensor"]
    replace_json(directory / CONFIG_FILE, {SECTION: section, "tinytensor": ours})


def read_lora(directory: Path) -> LoRA | None:
    """The settings of the adapters that a model directory holds; None if it holds a whole model. Raises UserError."""
    path = directory / CONFIG_FILE
    try:
        section = read_json(path).get(SECTION)
        if section is None:
            return None
        rank, alpha, layers = section["rank"], section["alpha"], section["layers"]
        if type(rank) is not int or rank < 1:
            raise ValueError(f"rank {rank!r:.60}")
        if type(alpha) not in (int, float) or not 0 <= alpha <= sys.float_info.max:
            raise ValueError(f"alpha {alpha!r:.60}")
        if type(layers) is not list or any(name not in LAYERS or layers.count(name) > 1 for name in layers):
            raise ValueError(f"layers {layers!r:.60}")
        return LoRA(rank, alpha, tuple(layers))
    except FileNotFoundError:
        return None  # as whoever needs the file will say
    except (OSError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f"{path}: is not the configuration of a model ({error})") from None


def base_of(directory: Path) -> Path:
    """The directory of the weights that adapters belong to. UserError if it is missing."""
    base = directory.absolute().parent / BASE
    if not (base / CONFIG_FILE).exists():
        raise UserError(
            f"{directory}: has adapters alone, and {base} with the weights that they belong to is missing: restore it "
            "from a copy, or give the whole run"
        )
    return base


def merge_adapters(model: Any, directory: Path, lora: LoRA) -> None:
    """Add the adapters in a directory to the weights of a model on the CPU, which has none. Raises UserError."""
    merge(model, read_adapters(directory, model.config, lora), lora.scale)


def read_adapters(directory: Path, config: GPTConfig, lora: LoRA) -> dict[str, np.ndarray]:
    """{name: array} of the adapters in a directory. UserError if they are missing or do not fit the model."""
    shapes, adapters = dict[str, tuple[int, int]](), dict[str, np.ndarray]()
    for name in lora.layers:
        inputs, outputs = layer_shapes(config)[name]
        for layer in range(config.n_layer):
            shapes[f"{BLOCK}{layer}.{name}.lora_a"] = inputs, lora.rank
            shapes[f"{BLOCK}{layer}.{name}.lora_b"] = lora.rank, outputs
    try:
        found = entries(directory / WEIGHTS_FILE)
        for name, shape in shapes.items():  # what `fill` will refuse is not made: the rank may be any number
            adapters[name] = np.empty(shape if name in found and found[name].shape == shape else 0, np.float32)
        fill({name: Stored(array, shapes[name]) for name, array in adapters.items()}, found)
    except FileNotFoundError as error:
        raise UserError(f"{error.filename}: missing; {NO_WEIGHTS}") from None
    except ValueError as error:
        raise UserError(f"{directory}: its adapters do not fit its {CONFIG_FILE} ({error})") from None
    return adapters


def find_layers(text: str, family: Family, config: GPTConfig) -> tuple[str, ...]:
    """The layers of a block that `--lora-targets` names, as in `layer_shapes`; all of them for an empty text.

    A layer has several names: `mlp.c_fc`, `c_fc`, and those of its parts in the family of the model, such as gate_proj
    and up_proj, which have to be given together. UserError for an unknown name, and for a part alone.
    """
    names = {layer: {layer, layer.partition(".")[2]} for layer in layer_shapes(config)}
    parts = family_names(family, config)
    wanted = {name.strip() for name in text.split(",")} if text else set()
    if "" in wanted:
        raise UserError(f"--lora-targets {text}: has a comma without a name beside it")
    known = set().union(*names.values(), *parts.values())
    for name in sorted(wanted):
        if name not in known:
            has = did_you_mean(name, known) or f"; it has {', '.join(sorted(known))}"
            raise UserError(f"--lora-targets {name}: the model has no such layer{has}")
    chosen = [layer for layer in names if not wanted or names[layer] & wanted]
    for layer in [layer for layer in names if layer not in chosen and parts[layer] & wanted]:
        if missing := sorted(parts[layer] - wanted):
            given = sorted(parts[layer] & wanted)[0]
            raise UserError(
                f"--lora-targets {given}: is one layer with {' and '.join(missing)} here: name these too, or {layer}"
            )
        chosen.append(layer)
    return tuple(layer for layer in names if layer in chosen)


def family_names(family: Family, config: GPTConfig) -> dict[str, set[str]]:
    """{our name of a layer: what a family calls it, or the parts that it consists of there}."""
    found = {}
    for layer, shape in layer_shapes(config).items():
        weight = np.broadcast_to(np.float32(0), shape)
        stored = family.stored(config, {f"{BLOCK}0.{layer}.weight": weight})
        found[layer] = {name.split(".")[-2] for name in stored if name.endswith(".weight")}
    return found

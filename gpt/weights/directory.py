"""Model directories: configuration, tokenizer and weights, enough to generate text with or to train from."""

from pathlib import Path
from typing import Any

import numpy as np

from gpt.files import replace_file, replace_json
from gpt.model import GPTConfig
from gpt.tokenizers.load import Tokenizer
from gpt.weights.families.common import CONFIG_FILE, with_biases
from gpt.weights.families.registry import Family, describe, special_ids
from gpt.weights.safetensors import host_arrays, write

BEST = "best"  # the directory of a run's best model
WEIGHTS_FILE = "model.safetensors"
NO_WEIGHTS = "the first evaluation of a run writes it, so train for longer"
# Hugging Face's loader requires this entry; it means PyTorch's layout.
METADATA = {"format": "pt"}


def create_model_directory(directory: Path, kind: str, config: GPTConfig, tokenizer: Tokenizer) -> None:
    """Make `directory` with the model's `config.json` and tokenizer; `save_weights` adds the weights."""
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save(directory)
    replace_json(directory / CONFIG_FILE, describe(kind, config, tokenizer))


def write_export(directory: Path, family: Family, model: Any, tokenizer: Tokenizer) -> None:
    """Fill a directory with a model on the CPU in a family's format: configuration, tokenizer and weights."""
    config = model.config
    if family.ours:
        create_model_directory(directory, "gpt", config, tokenizer)
        save_weights(directory, config, model.state_dict())
        return
    tokenizer.save(directory)
    replace_json(directory / CONFIG_FILE, family.describe(config) | special_ids(tokenizer))
    stored = family.stored(config, model.state_dict())
    arrays = {name: np.asarray(place.view, order="C").reshape(place.shape) for name, place in stored.items()}
    replace_file(directory / WEIGHTS_FILE, lambda path: write(path, arrays, METADATA))


def save_weights(directory: Path, config: GPTConfig, state: dict[str, Any]) -> None:
    """Replace `model.safetensors` atomically by the arrays of a state dict, from any device."""
    arrays = with_biases(host_arrays(state), config)
    replace_file(directory / WEIGHTS_FILE, lambda path: write(path, arrays, METADATA))

"""Model directories: weights, configuration and tokenizer, enough to generate text with.

Floor 5, above `files`, `tokenizer` and `model`. Names and layout are GPT-2's, so where the architecture is
GPT-2's too, Hugging Face's `GPT2LMHeadModel.from_pretrained` reads the directory as it is. GPT-2 always has
biases: a model without them is saved with zeros in their place. Read `gpt.generate` next.
"""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

import tinytensor as tt
from gpt.config import GPTConfig, build
from gpt.errors import UserError
from gpt.files import replace_file, replace_json
from gpt.model import GPT, Bigram
from gpt.tokenizer import load_tokenizer

KINDS = {"gpt": GPT, "bigram": Bigram}
WEIGHTS, CONFIG = "model.safetensors", "config.json"
EMBEDDINGS = ("transformer.wte.weight", "transformer.wpe.weight", "lm_head.weight", "table.weight")


def create_model_directory(directory, kind, config, tokenizer):
    """Make `directory` with the model's `config.json` and tokenizer; `save_weights` adds the weights."""
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save(directory)
    replace_json(directory / CONFIG, describe(kind, config))


def save_weights(directory, config, state):
    """Replace `model.safetensors` by the arrays of `state`, at once or not at all."""
    arrays = {name: np.asarray(tt.to_numpy(value), order="C") for name, value in state.items()}
    arrays = fill_biases(arrays, config)
    header = {"format": "pt"}  # Hugging Face's loader asks for it; it means the layout that PyTorch uses
    replace_file(directory / WEIGHTS, lambda path: safetensors.numpy.save_file(arrays, path, metadata=header))


def load_model(directory, device):
    """A model directory's, or a run's best, model in evaluation mode, and its tokenizer. Raises UserError."""
    directory = Path(directory)
    if (directory / "best").is_dir():
        directory = directory / "best"
    kind, config = read_config(directory)
    model = KINDS[kind](config)
    try:
        model.load_state_dict(read_weights(directory, model))
    except ValueError as error:
        raise UserError(f"{directory}: its weights do not fit its {CONFIG} ({error})") from None
    model.to(device)
    model.eval()
    return model, load_tokenizer(directory)


def read_config(directory):
    """Kind and GPTConfig of a model directory."""
    path = directory / CONFIG
    try:
        content = json.loads(path.read_text(encoding="utf-8"))["tinytensor"]
        return content["model"], build(GPTConfig, content)
    except FileNotFoundError:
        raise UserError(f"{directory}: holds no model (no {CONFIG}); give the directory of a run") from None
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: is not the configuration of a tinytensor model ({error!r})") from None


def read_weights(directory, model):
    """The arrays for a model; the zeros that stand for biases it does not have are left out."""
    path = directory / WEIGHTS
    try:
        arrays = safetensors.numpy.load_file(path)
    except FileNotFoundError:
        raise UserError(f"{path}: missing; the first evaluation of a run writes it, so train for longer") from None
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"{path}: damaged ({error})") from None
    expected = model.state_dict()
    return {name: value for name, value in arrays.items() if name in expected or not name.endswith(".bias")}


def fill_biases(arrays, config):
    """The arrays with zeros for the biases that GPT-2 has and a model with bias=False has not."""
    if config.bias:
        return arrays
    filled = dict(arrays)
    for name, weight in arrays.items():
        if name.endswith(".weight") and name not in EMBEDDINGS:
            filled.setdefault(name.removesuffix("weight") + "bias", np.zeros(weight.shape[-1], weight.dtype))
    return filled


def describe(kind, config):
    """The content of `config.json`: our own section, and GPT-2's keys where the architecture is GPT-2's."""
    ours = {"tinytensor": {"model": kind, **asdict(config)}}
    if kind != "gpt" or config.norm != "pre":
        return ours
    return {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "vocab_size": config.vocab_size,
        "n_positions": config.block_size,
        "n_embd": config.n_embd,
        "n_layer": config.n_layer,
        "n_head": config.n_head,
        "activation_function": {"gelu": "gelu_new", "relu": "relu"}[config.activation],
        "layer_norm_epsilon": 1e-5,
        "resid_pdrop": config.dropout,
        "embd_pdrop": config.dropout,
        "attn_pdrop": config.dropout,
        "tie_word_embeddings": config.tied,
        "bos_token_id": None,
        "eos_token_id": None,
        "torch_dtype": "float32",
        **ours,
    }

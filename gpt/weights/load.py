"""Model directories: weights, configuration and tokenizer, enough to generate text with or to train on.

Floor 5, above `files`, `weights`, `tokenizer` and `model`. Names and layout are GPT-2's, so where the architecture is
GPT-2's too, Hugging Face's `GPT2LMHeadModel.from_pretrained` reads the directory as it is, and its directories, or the
hub's, are read here. GPT-2 always has biases: a model without them is saved with zeros in their place. Read
`gpt.model.cache` next.
"""

import dataclasses
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import safetensors.numpy

import tinytensor as tt
from gpt.errors import UserError
from gpt.files import replace_file, replace_json
from gpt.model.gpt import GPT, Bigram
from gpt.options import GPTConfig, build, flag
from gpt.tokenizers.files import FILE_NAME as TOKENIZER
from gpt.tokenizers.load import GPT2_FILES, load_tokenizer, read_gpt2_files
from gpt.weights.safetensors import entries, fill

KINDS = {"gpt": GPT, "bigram": Bigram}
WEIGHTS, CONFIG, INDEX = "model.safetensors", "config.json", "model.safetensors.index.json"
POSITIONS = "transformer.wpe.weight"
EMBEDDINGS = ("transformer.wte.weight", POSITIONS, "lm_head.weight", "table.weight")
HUB = "hf:"
HUB_FILES = [CONFIG, WEIGHTS, INDEX, "model-*.safetensors", TOKENIZER, *GPT2_FILES]
# What Hugging Face calls our activations; "gelu", without tanh, is another function.
ACTIVATIONS = {"gelu_new": "gelu", "gelu_pytorch_tanh": "gelu", "relu": "relu"}
# Settings of Hugging Face's GPT-2 that can have one value here, also the default there.
FIXED = {
    "layer_norm_epsilon": 1e-5,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
}
# Buffers, not weights, of old versions: the causal mask
MASKS = (".attn.bias", ".attn.masked_bias")


def create_model_directory(directory, kind, config, tokenizer):
    """Make `directory` with the model's `config.json` and tokenizer; `save_weights` adds the weights."""
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save(directory)
    replace_json(directory / CONFIG, describe(kind, config, tokenizer))


def save_weights(directory, config, state):
    """Replace `model.safetensors` by the arrays of `state`, at once or not at all."""
    arrays = {name: np.asarray(tt.to_numpy(value), order="C") for name, value in state.items()}
    arrays = fill_biases(arrays, config)
    header = {"format": "pt"}  # Hugging Face's loader asks for it; it means the layout that PyTorch uses
    replace_file(directory / WEIGHTS, lambda path: safetensors.numpy.save_file(arrays, path, metadata=header))


def load_model(name, device):
    """The model in evaluation mode, and its tokenizer, of a model directory, a run's best, or `hf:NAME`.

    Raises UserError.
    """
    directory = find_directory(name)
    kind, config = read_config(directory)
    tokenizer = tokenizer_of(directory, config)
    model = KINDS[kind](config)
    fill_model(model, directory)
    model.to(device)
    model.eval()
    return model, tokenizer


def find_directory(name):
    """The model directory that `name` means: itself, the best of a run, or one from the hub."""
    if str(name).startswith(HUB):
        return download(str(name).removeprefix(HUB))
    directory = Path(name)
    return directory / "best" if (directory / "best").is_dir() else directory


def download(name):
    """The directory of a model of the Hugging Face hub, fetched or from its cache on this machine."""
    try:
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(name, allow_patterns=HUB_FILES))
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"{HUB}{name}: cannot be fetched from the hub ({reason}); for a local copy, save {CONFIG}, {WEIGHTS} and "
            f"{TOKENIZER} of {name} in a directory and give that directory instead"
        ) from None


def read_config(directory):
    """Kind and GPTConfig of a model directory, ours or one of Hugging Face's GPT-2."""
    path = directory / CONFIG
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
        raise UserError(f"{directory}: holds no model (no {CONFIG}); give the directory of a run") from None
    except (OSError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f"{path}: is not the configuration of a model ({error!r})") from None


def from_gpt2(content, path):
    """The GPTConfig of the parsed `config.json` of a GPT-2; UserError where it is one that we do not have."""
    for name, value in FIXED.items():
        if content.get(name, value) != value:
            raise UserError(f"{path}: {name} is {content[name]}, here it can only be {value}")
    if content.get("n_inner") not in (None, 4 * content["n_embd"]):
        raise UserError(f"{path}: n_inner is {content['n_inner']}, here it can only be {4 * content['n_embd']}")
    activation = content.get("activation_function", "gelu_new")
    if activation not in ACTIVATIONS:
        raise UserError(f"{path}: activation_function is {activation}, none of {', '.join(ACTIVATIONS)}")
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


def tokenizer_of(directory, config):
    """The tokenizer in a model directory; UserError if it has more tokens than the model."""
    old = not (directory / TOKENIZER).exists() and all((directory / name).exists() for name in GPT2_FILES)
    tokenizer = read_gpt2_files(directory) if old else load_tokenizer(directory)
    if tokenizer.vocab_size > config.vocab_size:
        raise UserError(
            f"{directory}: its tokenizer has {tokenizer.vocab_size} tokens, but its model {config.vocab_size}: "
            "they do not belong together"
        )
    return tokenizer


def load_model_tokenizer(name):
    """The tokenizer of the model directory, run, or `hf:NAME`. Raises UserError."""
    directory = find_directory(name)
    return tokenizer_of(directory, read_config(directory)[1])


def same_tokens(one, other):
    """Whether each token number stands for the same bytes in two tokenizers."""
    size = one.vocab_size
    return size == other.vocab_size and all(one.decode_bytes([i]) == other.decode_bytes([i]) for i in range(size))


def fill_model(model, directory, shorten=False):
    """Read the weights of a model directory into a model on the CPU; UserError if they are not there or do not fit.

    shorten: of the positions only as many are read as the model has.
    """
    try:
        found = gpt2_names(weight_entries(directory))
    except FileNotFoundError as error:
        raise UserError(
            f"{error.filename}: missing; the first evaluation of a run writes it, so train for longer"
        ) from None
    config = model.config
    if shorten:  # the first rows of a matrix come first in the file, too
        positions = found.get(POSITIONS)
        if positions and positions.shape[0] > config.block_size:
            found[POSITIONS] = dataclasses.replace(positions, shape=(config.block_size, *positions.shape[1:]))
    # The second copy of a tied head, and the zeros for biases that a model does not have, have no place in it.
    wanted = {
        name: where
        for name, where in found.items()
        if not (config.tied and name == "lm_head.weight") and (config.bias or not name.endswith(".bias"))
    }
    try:
        fill(dict(model.named_parameters()), wanted)
    except ValueError as error:
        raise UserError(f"{directory}: its weights do not fit its {CONFIG} ({error})") from None


def weight_entries(directory):
    """{name: Entry} of the weights in a model directory, be they in one file or in several that an index lists."""
    index = directory / INDEX
    if (directory / WEIGHTS).exists() or not index.exists():
        return entries(directory / WEIGHTS)
    try:
        files = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f"{index}: damaged ({error!r})") from None
    return {name: where for file in files for name, where in entries(directory / file).items()}


def gpt2_names(found):
    """The same entries under the names they have here: the hub's GPT-2 lack the prefix, and hold masks."""
    prefixed = ("transformer.", *EMBEDDINGS)
    full = {name if name.startswith(prefixed) else f"transformer.{name}": where for name, where in found.items()}
    return {name: where for name, where in full.items() if not name.endswith(MASKS)}


def fill_biases(arrays, config):
    """The arrays with zeros for the biases that GPT-2 has and a model with bias=False has not."""
    if config.bias:
        return arrays
    filled = dict(arrays)
    for name, weight in arrays.items():
        if name.endswith(".weight") and name not in EMBEDDINGS:
            filled.setdefault(name.removesuffix("weight") + "bias", np.zeros(weight.shape[-1], weight.dtype))
    return filled


def why_not_gpt2(kind, config):
    """The reason why GPT-2 cannot express a model, or None if it can."""
    if kind != "gpt":
        return f"--model {kind}: is no transformer"
    if config.norm != "pre":
        return f"--norm {config.norm}: GPT-2 has its layer norms before each sublayer (--norm pre), and one at the end"
    return None


def describe(kind, config, tokenizer=None):
    """The content of `config.json`: our own section, and GPT-2's keys, or the reason why it is none."""
    ours = {"tinytensor": {"model": kind, **asdict(config)}}
    if reason := why_not_gpt2(kind, config):
        return {"not_gpt2": reason, **ours}
    end_of_text = tokenizer and tokenizer.end_of_text
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


def inherit(name, changes):
    """The settings of a model that starts as a copy of the model `name`: all but dropout and a shorter block size.

    changes: {name: value} of the flags that were given. Raises UserError for those that would make another model.
    """
    kind, config = read_config(find_directory(name))
    settings = {"model": kind, **asdict(config)}
    for field, value in changes.items():
        shorter = field == "block_size" and value <= config.block_size
        if field in settings and value != settings[field] and field != "dropout" and not shorter:
            raise UserError(f"{flag(field)} {value}: the model of --init-from {name} has {settings[field]}")
    return settings | {field: changes[field] for field in ("block_size", "dropout") if field in changes}


def start_from(model, name):
    """Make the weights of `model`, whose settings `inherit` gave, those of the model `name`. Raises UserError."""
    place = model.parameters()[0].device
    model.to("cpu")
    fill_model(model, find_directory(name), shorten=True)
    model.to(place)

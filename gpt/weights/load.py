"""Finding and loading models: a run's best, a model directory, or one from the Hugging Face hub."""

import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

import tinytensor as tt
from gpt.errors import UserError, reaching_hub
from gpt.files import copy, read_json
from gpt.model import MODELS, GPTConfig
from gpt.model.config import parameter_count
from gpt.model.lora import base_state
from gpt.options import COMMIT, HUB, flag, split_revision
from gpt.tokenizers.files import COMPANIONS, TOKENIZER_FILE
from gpt.tokenizers.load import GPT2_FILES, Tokenizer, load_tokenizer, read_gpt2_files, require_lossless
from gpt.weights.adapters import base_of, find_layers, merge_adapters, read_lora
from gpt.weights.directory import BEST, NO_WEIGHTS, WEIGHTS_FILE
from gpt.weights.families.common import CONFIG_FILE, POSITIONS
from gpt.weights.families.registry import family_of, read_config
from gpt.weights.safetensors import Entry, entries, fill, has_values

INDEX_FILE = "model.safetensors.index.json"
PICKLES = "pytorch_model*.bin"
SPARE_PARAMETERS = 1 << 16  # that a configuration may claim beyond twice those in the file
HUB_FILES = [CONFIG_FILE, WEIGHTS_FILE, INDEX_FILE, "model-*.safetensors", TOKENIZER_FILE, *COMPANIONS, *GPT2_FILES]


def load_model(name: str | Path, device: tt.Device | str) -> tuple[Any, Tokenizer]:
    """The model, in evaluation mode, and its tokenizer, of a model directory, a run's best, or `hf:NAME@REVISION`.

    Raises UserError.
    """
    directory = find_directory(name)
    kind, config = model_config(directory)
    tokenizer = tokenizer_of(directory, config)
    model = MODELS[kind](config)
    fill_model(model, directory)
    model.to(device)
    model.eval()
    return model, tokenizer


def find_directory(name: str | Path) -> Path:
    """The model directory that `name` means: itself, the best of a run, or one from the hub. UserError if empty."""
    if not str(name):
        raise UserError("the name of the model is empty: give the directory of a run, or . for this one")
    if str(name).startswith(HUB):
        return download(str(name).removeprefix(HUB))
    directory = Path(name)
    return directory / BEST if (directory / BEST).is_dir() else directory


def pinned(name: str) -> str:
    """`hf:NAME` as `hf:NAME@COMMIT`, which means the same files for ever; any other name as it is."""
    if not name.startswith(HUB):
        return name
    repository, _ = split_revision(name.removeprefix(HUB))
    commit = find_directory(name).name  # the hub's cache has a directory for each commit
    return f"{HUB}{repository}@{commit}" if COMMIT.fullmatch(commit) else name


def download(name: str) -> Path:
    """The directory of a model NAME or NAME@REVISION of the hub, downloaded or from its cache on this machine."""
    repository, revision = split_revision(name)
    needed = f"{CONFIG_FILE}, {WEIGHTS_FILE} and {TOKENIZER_FILE}"
    with reaching_hub(HUB + name, f"save {needed} of {name} in a directory and give that directory instead"):
        from huggingface_hub import snapshot_download

        path = snapshot_download(repository, revision=revision, allow_patterns=HUB_FILES)
    return Path(path)


def model_config(directory: Path) -> tuple[str, GPTConfig]:
    """Kind and GPTConfig of a model directory by its configuration and its weights. Raises UserError.

    One of ours without biases is saved with zeros in their place. Where they are zeros no longer, it has been trained
    elsewhere, and has biases.
    """
    kind, config = read_config(directory)
    if read_lora(directory):
        base_kind, base = model_config(base_of(directory))
        if (kind, config) != (base_kind, replace(base, block_size=config.block_size, dropout=config.dropout)):
            raise UserError(f"{directory}: its {CONFIG_FILE} describes another model than {base_of(directory)}")
        return kind, config
    found = weights(directory)
    claimed, stored = parameter_count(kind, config), sum(math.prod(entry.shape) for entry in found.values())
    if claimed > 2 * stored + SPARE_PARAMETERS:  # refused before anything of that size is allocated
        raise UserError(
            f"{directory}: its weights do not fit its {CONFIG_FILE} ({stored} parameters instead of {claimed})"
        )
    biases = [entry for name, entry in found.items() if name.endswith(".bias")]
    ours = family_of(directory).ours and not config.qkv_bias
    if ours and not config.bias and not all(has_values(entry, np.zeros(entry.shape, np.float32)) for entry in biases):
        config = replace(config, bias=True)
    return kind, config


def tokenizer_of(directory: Path, config: GPTConfig) -> Tokenizer:
    """The tokenizer in a model directory; UserError if it has more tokens than the model."""
    only_old = not (directory / TOKENIZER_FILE).exists() and all((directory / name).is_file() for name in GPT2_FILES)
    tokenizer = read_gpt2_files(directory) if only_old else load_tokenizer(directory)
    if tokenizer.vocab_size > config.vocab_size:
        raise UserError(
            f"{directory}: its tokenizer has {tokenizer.vocab_size} tokens, but its model {config.vocab_size}: "
            "they do not belong together"
        )
    return tokenizer


def load_model_tokenizer(name: str) -> Tokenizer:
    """The tokenizer of a model directory, run, or `hf:NAME`, to encode a corpus with. UserError if it loses text."""
    directory = find_directory(name)
    tokenizer = tokenizer_of(directory, read_config(directory)[1])
    require_lossless(tokenizer, name)
    return tokenizer


def same_tokens(one: Tokenizer, other: Tokenizer) -> bool:
    """Whether each token id stands for the same bytes in two tokenizers."""
    size = one.vocab_size
    return size == other.vocab_size and all(one.decode_bytes([i]) == other.decode_bytes([i]) for i in range(size))


def fill_model(model: Any, directory: Path, shorten: bool = False) -> None:
    """Read the weights of a model directory into a model on the CPU; UserError if they are missing or do not fit.

    shorten: read only as many positions as the model has. Adapters are merged into the weights that they belong to.
    """
    if lora := read_lora(directory):
        fill_model(model, base_of(directory), shorten=True)
        merge_adapters(model, directory, lora)
        return
    found, family = weights(directory), family_of(directory)
    config = model.config
    if shorten:  # the first rows of a matrix come first in the file, too
        positions = found.get(POSITIONS)
        if positions and positions.shape[0] > config.block_size:
            found[POSITIONS] = replace(positions, shape=(config.block_size, *positions.shape[1:]))
    parameters = family.stored(config, base_state(model))
    # The second copy of a tied head, and zeros for biases that a model does not have, are ignored.
    wanted = {
        name: entry
        for name, entry in found.items()
        if not (config.tied and name == family.head)
        and (config.bias or not name.endswith(".bias") or name in parameters or not family.ours)
    }
    try:
        fill(parameters, wanted)
    except ValueError as error:
        raise UserError(f"{directory}: its weights do not fit its {CONFIG_FILE} ({error})") from None
    head, embedding = family.head, family.embedding
    if config.tied and head in found and not has_values(found[head], parameters[embedding].view):
        raise UserError(
            f"{directory}: {CONFIG_FILE} ties {head} to {embedding}, but the file has other values for it: set "
            "tie_word_embeddings to false if they are meant"
        )


def weights(directory: Path) -> dict[str, Entry]:
    """{name in its family: Entry} of the weights in a model directory. UserError if they are missing or corrupt."""
    family = family_of(directory)
    try:
        return family.normalized_names(weight_entries(directory))
    except FileNotFoundError as error:
        advice = NO_WEIGHTS
        if any(directory.glob(PICKLES)) or "tinytensor" not in read_json(directory / CONFIG_FILE):
            advice = (
                f"if the model is in {PICKLES}, a format that can run code when it is read, convert it where you trust "
                f"it, with transformers: {family.architecture}.from_pretrained(DIR).save_pretrained(DIR)"
            )
        raise UserError(f"{error.filename}: missing; {advice}") from None


def weight_entries(directory: Path) -> dict[str, Entry]:
    """{name: Entry} of the weights in a model directory, whether in one file or in several that an index lists."""
    index = directory / INDEX_FILE
    if (directory / WEIGHTS_FILE).exists() or not index.exists():
        return entries(directory / WEIGHTS_FILE)
    try:
        files = sorted(set(read_json(index)["weight_map"].values()))
        if elsewhere := [file for file in files if file in ("", "..") or Path(file).name != file]:
            raise ValueError(f"{elsewhere[0]!r} is not a file beside it")
    except (OSError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f"{index}: corrupt ({error})") from None
    return {name: entry for file in files for name, entry in entries(directory / file).items()}


def inherit(name: str, changes: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a model that starts as a copy of the model `name`: all but dropout and a shorter block size.

    With LoRA, also the layers that get adapters, by our names.
    changes: {name: value} of the flags that were given. Raises UserError for those that would make another model.
    """
    kind, config = model_config(find_directory(name))
    settings: dict[str, Any] = {"model": kind, **asdict(config)}
    for field, value in changes.items():
        shorter = field == "block_size" and value <= config.block_size
        if field in settings and value != settings[field] and field != "dropout" and not shorter:
            raise UserError(f"{flag(field)} {value}: the model of --init-from {name} has {settings[field]}")
    if changes.get("lora_rank"):
        settings["lora_targets"] = ",".join(adapted_layers(name, changes.get("lora_targets", "")))
    return settings | {field: changes[field] for field in ("block_size", "dropout") if field in changes}


def adapted_layers(name: str, targets: str) -> tuple[str, ...]:
    """The layers that `--lora-targets` names in the model `name`. UserError if it has none of them."""
    directory = find_directory(name)
    if read_lora(directory):
        raise UserError(
            f"--init-from {name}: has adapters: merge them first with python -m gpt.export, and start from the result"
        )
    kind, config = read_config(directory)
    if kind != "gpt":
        raise UserError(f"--init-from {name}: a {kind} model has no layers for adapters")
    return find_layers(targets, family_of(directory), config)


def store_base(name: str, target: Path) -> None:
    """Make `target` a directory with the configuration and the weights of the model `name`, without its tokenizer."""
    directory = find_directory(name)
    files = {entry.path for entry in weight_entries(directory).values()} | {directory / CONFIG_FILE}
    if (directory / INDEX_FILE).exists():
        files.add(directory / INDEX_FILE)
    target.mkdir()
    for file in files:
        copy(file, target / file.name)


def start_from(model: Any, name: str) -> None:
    """Copy the weights of the model `name` into `model`, whose settings `inherit` gave. Raises UserError."""
    device = model.parameters()[0].device
    model.to("cpu")
    fill_model(model, find_directory(name), shorten=True)
    model.to(device)

"""What every tokenizer shares: the dtype of its token ids, and the files that it is saved in.

The files are Hugging Face's, so `transformers.AutoTokenizer` loads a run's directory as it is.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gpt.files import parse_json, read_text, replace_json, replace_text

TOKENIZER_FILE = "tokenizer.json"
TOKENIZER_CONFIG_FILE = "tokenizer_config.json"
TEMPLATE_FILE, GENERATION_FILE = "chat_template.jinja", "generation_config.json"
# Files that belong to a tokenizer from elsewhere, and are saved again as they were.
COMPANIONS = (TOKENIZER_CONFIG_FILE, "special_tokens_map.json", TEMPLATE_FILE, GENERATION_FILE)
DTYPES: dict[str, np.dtype] = {"uint16": np.dtype("<u2"), "uint32": np.dtype("<u4")}


def token_dtype(vocab_size: int) -> np.dtype:
    """The smallest unsigned dtype that holds every token id: uint16 up to 65,536 tokens, otherwise uint32."""
    return DTYPES["uint16" if vocab_size <= 2**16 else "uint32"]


def read_companions(directory: Path) -> dict[str, str]:
    """{name: text} of the COMPANIONS in a directory; those that cannot be read are left out."""
    texts = {}
    for name in COMPANIONS:
        try:
            texts[name] = read_text(directory / name)
        except (OSError, ValueError):
            continue
    return texts


def companion_json(companions: Mapping[str, str], name: str) -> dict[str, Any]:
    """The parsed object in one of the companions; empty if there is none or it is something else."""
    try:
        content = parse_json(companions.get(name, "{}"))
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def special_names(companions: Mapping[str, str]) -> dict[str, str]:
    """The special tokens that a configuration names: {"bos_token": "<s>", ...}."""
    found = {}
    for name, value in companion_json(companions, TOKENIZER_CONFIG_FILE).items():
        if name.endswith("_token"):
            content = value.get("content") if isinstance(value, dict) else value
            if isinstance(content, str):
                found[name] = content
    return found


def stop_ids(companions: Mapping[str, str]) -> list[int]:
    """The token ids that end an answer by `generation_config.json`."""
    ids = companion_json(companions, GENERATION_FILE).get("eos_token_id")
    return [i for i in (ids if isinstance(ids, list) else [ids]) if type(i) is int]


def save_files(
    directory: str | Path, content: object, end_of_text: str | None, companions: Mapping[str, str] | None = None
) -> None:
    """Write a parsed `tokenizer.json` and the configuration that tells transformers how to load it.

    end_of_text: the token between documents, if there is one. companions: {name: text} of files that were there.
    """
    directory = Path(directory)
    companions = companions or {}
    for name, text in companions.items():
        replace_text(directory / name, text)
    # With clean-up on, transformers drops spaces before punctuation when it decodes.
    config: dict[str, object] = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    if end_of_text is not None:
        config |= {"bos_token": end_of_text, "eos_token": end_of_text}
    if TOKENIZER_CONFIG_FILE not in companions:
        replace_json(directory / TOKENIZER_CONFIG_FILE, config)
    # Written last, because a directory with this file counts as one with a tokenizer.
    replace_text(directory / TOKENIZER_FILE, json.dumps(content) + "\n")

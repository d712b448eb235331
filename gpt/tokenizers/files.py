"""What every tokenizer shares: the dtype of its token ids, and the files that it is saved in.

The files are Hugging Face's, so `transformers.AutoTokenizer` loads a run's directory as it is.
"""

import json
from pathlib import Path

import numpy as np

from gpt.files import replace_json, replace_text

TOKENIZER_FILE = "tokenizer.json"
TOKENIZER_CONFIG_FILE = "tokenizer_config.json"
DTYPES: dict[str, np.dtype] = {"uint16": np.dtype("<u2"), "uint32": np.dtype("<u4")}


def token_dtype(vocab_size: int) -> np.dtype:
    """The smallest unsigned dtype that holds every token id: uint16 up to 65,536 tokens, otherwise uint32."""
    return DTYPES["uint16" if vocab_size <= 2**16 else "uint32"]


def save_files(directory: str | Path, content: object, end_of_text: str | None) -> None:
    """Write a parsed `tokenizer.json` and the configuration that tells transformers how to load it.

    end_of_text: the token between documents, if there is one.
    """
    directory = Path(directory)
    # With clean-up on, transformers drops spaces before punctuation when it decodes.
    config: dict[str, object] = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    if end_of_text is not None:
        config |= {"bos_token": end_of_text, "eos_token": end_of_text}
    replace_json(directory / TOKENIZER_CONFIG_FILE, config)
    # Written last, because a directory with this file counts as one with a tokenizer.
    replace_text(directory / TOKENIZER_FILE, json.dumps(content) + "\n")

"""What every tokenizer shares: the type that holds its numbers, and the files it is saved in.

Floor 5, above `files`. The files are Hugging Face's, so `transformers.AutoTokenizer` loads a run's directory
as it is. Read `gpt.tokenizers.characters` and `gpt.tokenizers.bpe` next, the two tokenizers.
"""

import json
from pathlib import Path

import numpy as np

from gpt.files import replace_file, replace_json

FILE_NAME = "tokenizer.json"
CONFIG_NAME = "tokenizer_config.json"
DTYPES = {"uint16": np.dtype("<u2"), "uint32": np.dtype("<u4")}


def token_dtype(vocab_size):
    """The smallest unsigned type that holds every token number: uint16 up to 65,536 tokens, else uint32."""
    return DTYPES["uint16" if vocab_size <= 2**16 else "uint32"]


def save_files(directory, content, end_of_text):
    """Write a parsed `tokenizer.json` and the configuration that tells transformers how to load it.

    `end_of_text` is the token (str) between documents, or None.
    """
    directory = Path(directory)
    # Without the clean-up off, transformers drops spaces before punctuation when it decodes.
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    if end_of_text is not None:
        config |= {"bos_token": end_of_text, "eos_token": end_of_text}
    replace_json(directory / CONFIG_NAME, config)
    text = json.dumps(content) + "\n"
    # Last, since a directory that has this file has a tokenizer.
    replace_file(directory / FILE_NAME, lambda beside: beside.write_text(text, encoding="utf-8"))

"""What every tokenizer shares: the dtype of its token ids, and the files that it is saved in.

The files are Hugging Face's, so `transformers.AutoTokenizer` loads a run's directory as it is.
"""

import json
import stat
from pathlib import Path
from typing import Any

import numpy as np

from gpt.files import replace_json, replace_text

TOKENIZER_FILE = "tokenizer.json"
TOKENIZER_CONFIG_FILE = "tokenizer_config.json"
MAX_JSON_BYTES = 1 << 28
DTYPES: dict[str, np.dtype] = {"uint16": np.dtype("<u2"), "uint32": np.dtype("<u4")}


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text; ValueError if it is not JSON, or too deeply nested for Python's parser."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("its brackets are nested too deeply") from None


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file that may come from anywhere.

    Raises ValueError if it is something else or has more than 256 MiB, OSError if it cannot be read.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):  # a named pipe would be waited for, a device read without end
        raise ValueError("not a regular file")
    if status.st_size > MAX_JSON_BYTES:
        raise ValueError(f"{status.st_size} bytes are too many for it")
    content = parse_json(path.read_bytes())
    if not isinstance(content, dict):
        raise ValueError("not a JSON object")
    return content


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

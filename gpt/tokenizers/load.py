"""Text to token numbers and back: what a tokenizer is, and how to find one.

Floor 5, above `characters` and `bpe`. A tokenizer has the methods of `Tokenizer`; `load_tokenizer` finds the
right class for a saved one by the model in its `tokenizer.json`. Read `gpt.corpus.embedded` next for where the text
comes from.
"""

import json
from pathlib import Path
from typing import Protocol

import numpy as np

from gpt.errors import UserError
from gpt.tokenizers.bpe import BpeTokenizer
from gpt.tokenizers.characters import CharTokenizer
from gpt.tokenizers.files import FILE_NAME

KINDS = {"WordLevel": CharTokenizer, "BPE": BpeTokenizer}
GPT2_FILES = ("vocab.json", "merges.txt")
GPT2_ON_HUB = "openai-community/gpt2"


class Tokenizer(Protocol):
    """What the rest of the package asks of a tokenizer."""

    vocab_size: int
    end_of_text: int | None  # the token between documents, if there is one

    def encode(self, text: str) -> np.ndarray: ...  # (count,) of token_dtype(vocab_size)

    def decode(self, ids) -> str: ...

    def decode_bytes(self, ids) -> bytes: ...  # UTF-8, perhaps cut within a character

    def save(self, directory: Path) -> None: ...


def load_tokenizer(directory):
    """The tokenizer saved in `directory`; UserError if there is none or it cannot be read."""
    return read_tokenizer(Path(directory) / FILE_NAME)


def read_tokenizer(path):
    """The tokenizer of a `tokenizer.json`, written here or by Hugging Face's libraries. Raises UserError."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return KINDS[content["model"]["type"]].load(content)
    except FileNotFoundError:
        raise UserError(f"{path}: missing, so tokens cannot be turned into text") from None
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f"{path}: damaged or of an unknown type ({error})") from None


def find_tokenizer(name):
    """The existing tokenizer that `--tokenizer name` means: a file, a folder, or `gpt2`. Raises UserError."""
    path = Path(name)
    if path.is_file():
        return read_tokenizer(path)
    if (path / FILE_NAME).is_file():
        return load_tokenizer(path)
    if all((path / file).is_file() for file in GPT2_FILES):
        return read_gpt2_files(path)
    if path.is_dir():
        raise UserError(f"--tokenizer {name}: the folder holds neither {FILE_NAME} nor {' and '.join(GPT2_FILES)}")
    if name == "gpt2":
        return download_gpt2()
    raise UserError(f"--tokenizer {name}: is none of char, bpe, gpt2, and no such file or folder")


def read_gpt2_files(directory):
    """The tokenizer of GPT-2's `vocab.json` and `merges.txt`."""
    vocabulary, merges = (directory / name for name in GPT2_FILES)
    try:
        content = json.loads(vocabulary.read_text(encoding="utf-8"))
        return BpeTokenizer.from_merges(content, merges.read_text(encoding="utf-8"))
    except (OSError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f"{directory}: {' and '.join(GPT2_FILES)} are damaged ({error})") from None


def download_gpt2():
    """GPT-2's tokenizer from the Hugging Face hub, or from its cache on this machine."""
    try:
        from huggingface_hub import hf_hub_download

        path = hf_hub_download(GPT2_ON_HUB, FILE_NAME)
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"--tokenizer gpt2: cannot be fetched from the hub ({reason}); for a local copy, save {FILE_NAME} of "
            f"{GPT2_ON_HUB} in a folder and give that folder as --tokenizer"
        ) from None
    return read_tokenizer(Path(path))

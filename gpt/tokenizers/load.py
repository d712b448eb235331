"""What a tokenizer is, and how to find a saved one.

`load_tokenizer` chooses the class by the type of the model in `tokenizer.json`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from gpt.errors import UserError, reaching_hub
from gpt.files import read_json
from gpt.tokenizers.bpe import BpeTokenizer
from gpt.tokenizers.characters import CharTokenizer
from gpt.tokenizers.files import TOKENIZER_FILE, read_companions
from gpt.tokenizers.sentencepiece import SentencePieceTokenizer

KINDS: dict[str, Any] = {"WordLevel": CharTokenizer, "BPE": BpeTokenizer}
BYTE_FALLBACK = {"BPE": SentencePieceTokenizer}  # of models that fall back to bytes instead of working on them
GPT2_FILES = ("vocab.json", "merges.txt")
MAX_SHOWN = 40  # characters of a text in a message
GPT2_ON_HUB, GPT2_COMMIT = "openai-community/gpt2", "607a30d783dfa663caf39e06633721c8d4cfcd7e"


class Tokenizer(Protocol):
    """The interface that the other rooms use."""

    vocab_size: int
    end_of_text: int | None  # the token between documents, if there is one
    stop_ids: frozenset[int]  # the tokens that end an answer, end_of_text among them
    beginning: list[int]  # tokens that come before a prompt
    companions: Mapping[str, str]  # {name: text} of files from elsewhere, such as a chat template

    def encode(self, text: str, *, special: bool = False) -> np.ndarray:
        """Token ids (count,) of token_dtype(vocab_size). special: what looks like a special token is one."""

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of token ids."""

    def decode_bytes(self, ids: Sequence[int] | np.ndarray) -> bytes:
        """The UTF-8 of token ids; it may end within a character."""

    def lost_text(self) -> str | None:
        """A text that decoding its tokens does not give back, if one was found among those that were tried."""

    def save(self, directory: str | Path) -> None:
        """Write the tokenizer's files into a directory."""


def load_tokenizer(directory: str | Path) -> Tokenizer:
    """The tokenizer saved in `directory`; UserError if there is none or it cannot be read."""
    return read_tokenizer(Path(directory) / TOKENIZER_FILE)


def read_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer of a `tokenizer.json`, written here or by Hugging Face's libraries. Raises UserError."""
    try:
        content = read_json(path)
        kinds = KINDS | (BYTE_FALLBACK if content["model"].get("byte_fallback") else {})
        return kinds[content["model"]["type"]].load(content, read_companions(path.parent))
    except FileNotFoundError:
        raise UserError(f"{path}: missing, so token ids cannot be turned into text") from None
    except (OSError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f"{path}: corrupt or of an unknown type ({error})") from None


def find_tokenizer(name: str) -> Tokenizer:
    """The existing tokenizer that `--tokenizer name` means: a file, a folder, or `gpt2`. UserError if it loses text."""
    if not name:
        raise UserError("--tokenizer: is empty; give char, bpe, gpt2, or a file or folder, . for this one")
    tokenizer = open_tokenizer(name)
    require_lossless(tokenizer, f"--tokenizer {name}")
    return tokenizer


def require_lossless(tokenizer: Tokenizer, name: str) -> None:
    """Raise UserError if a tokenizer, whose name the message begins with, is seen to lose text."""
    text = tokenizer.lost_text()
    if text is not None:
        back = tokenizer.decode(tokenizer.encode(text))
        raise UserError(f"{name}: loses text: {shortened(text)} encoded and decoded is {shortened(back)}")


def shortened(text: str) -> str:
    """A text as Python writes it, without what is too much for a message."""
    return repr(text) if len(text) <= MAX_SHOWN else repr(text[:MAX_SHOWN]) + " ..."


def open_tokenizer(name: str) -> Tokenizer:
    """`find_tokenizer` before anything is tried."""
    path = Path(name)
    if path.is_file():
        return read_tokenizer(path)
    if (path / TOKENIZER_FILE).is_file():
        return load_tokenizer(path)
    if all((path / file).is_file() for file in GPT2_FILES):
        return read_gpt2_files(path)
    if path.is_dir():
        raise UserError(f"--tokenizer {name}: the folder has neither {TOKENIZER_FILE} nor {' and '.join(GPT2_FILES)}")
    if name == "gpt2":
        return download_gpt2()
    raise UserError(f"--tokenizer {name}: not one of char, bpe, gpt2, and no such file or folder")


def read_gpt2_files(directory: Path) -> Tokenizer:
    """The tokenizer of GPT-2's `vocab.json` and `merges.txt`."""
    vocabulary, merges = (directory / name for name in GPT2_FILES)
    try:
        return BpeTokenizer.from_merges(read_json(vocabulary), merges.read_text(encoding="utf-8"))
    except (OSError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f"{directory}: {' and '.join(GPT2_FILES)} are corrupt ({error})") from None


def download_gpt2() -> Tokenizer:
    """GPT-2's tokenizer from the Hugging Face hub, or from its cache on this machine."""
    remedy = f"save {TOKENIZER_FILE} of {GPT2_ON_HUB} in a folder and give that folder as --tokenizer instead"
    with reaching_hub("--tokenizer gpt2", remedy):
        from huggingface_hub import hf_hub_download

        path = hf_hub_download(GPT2_ON_HUB, TOKENIZER_FILE, revision=GPT2_COMMIT)
    return read_tokenizer(Path(path))

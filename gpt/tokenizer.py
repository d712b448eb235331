"""Text to token numbers and back.

Floor 5, above `errors`. A tokenizer has the methods of `Tokenizer`; `load_tokenizer` finds the right class
for a saved one by the `type` in its `tokenizer.json`. Read `gpt.corpora` next for where the text comes from.
"""

import json
from pathlib import Path
from typing import Protocol

import numpy as np

from gpt.errors import UserError

FILE_NAME = "tokenizer.json"
UNSEEN = np.uint32(0xFFFFFFFF)


class Tokenizer(Protocol):
    """What the rest of the package asks of a tokenizer."""

    vocab_size: int

    def encode(self, text: str) -> np.ndarray: ...  # (len,) of token_dtype(vocab_size)

    def decode(self, ids) -> str: ...

    def save(self, directory: Path) -> None: ...


def token_dtype(vocab_size):
    """The smallest unsigned type that holds every token number: uint16 up to 65,536 tokens, else uint32."""
    return np.dtype("<u2" if vocab_size <= 2**16 else "<u4")


def code_points(text):
    """The Unicode code points of a string as a uint32 array (len,)."""
    # surrogatepass: a command line with bytes that are no UTF-8 reaches Python as lone surrogates
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")


class CharTokenizer:
    """One token for each distinct character, numbered in the order of their code points."""

    def __init__(self, characters):
        self.characters = "".join(sorted(set(characters)))
        self.vocab_size = len(self.characters)
        self._points = code_points(self.characters)
        # One row more than the largest known code point: everything beyond it is looked up there, and unseen.
        self._table = np.full(int(self._points.max(initial=0)) + 2, UNSEEN, dtype=np.uint32)
        self._table[self._points] = np.arange(self.vocab_size, dtype=np.uint32)

    @classmethod
    def train(cls, pieces):
        """The tokenizer of every character in an iterable of strings, in constant memory."""
        seen = np.zeros(0x110000, dtype=bool)
        for piece in pieces:
            seen[code_points(piece)] = True
        return cls(map(chr, np.flatnonzero(seen)))

    def encode(self, text, unknown=None):
        """Token numbers (len(text),). Unseen characters are an error, or become the character `unknown`."""
        ids = self._table[np.minimum(code_points(text), len(self._table) - 1)]
        unseen = ids == UNSEEN
        if unseen.any():
            if unknown is None:
                where = int(unseen.argmax())
                raise UserError(
                    f"character {text[where]!r} at position {where} is none of the {self.vocab_size} characters of "
                    "the training text: leave it out or train on text that has it"
                )
            ids[unseen] = self.encode(unknown)[0]
        return ids.astype(token_dtype(self.vocab_size))

    def decode(self, ids):
        """The text of a sequence of token numbers."""
        return self._points[np.asarray(ids, dtype=np.int64)].tobytes().decode("utf-32-le", "surrogatepass")

    def save(self, directory):
        """Write `tokenizer.json` into `directory`."""
        content = json.dumps({"type": "char", "characters": self.characters})
        (Path(directory) / FILE_NAME).write_text(content + "\n", encoding="utf-8")

    @classmethod
    def load(cls, content):
        """The tokenizer of a parsed `tokenizer.json`."""
        return cls(content["characters"])


KINDS = {"char": CharTokenizer}


def load_tokenizer(directory):
    """The tokenizer saved in `directory`; UserError if there is none or it cannot be read."""
    path = Path(directory) / FILE_NAME
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return KINDS[content["type"]].load(content)
    except FileNotFoundError:
        raise UserError(f"{path}: missing, so tokens cannot be turned into text") from None
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: damaged or of an unknown type ({error})") from None

"""What is done with each piece of a source, in any process: documents chosen, put on a side, and encoded.

Floor 5, above `documents` and `tokenizer`. Everything here is a function of its arguments, so it does not
matter which process does it, or how often. Read `gpt.prepare` next.
"""

import hashlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from gpt.corpus.documents import Damage, documents
from gpt.tokenizers.characters import code_points
from gpt.tokenizers.files import DTYPES
from gpt.tokenizers.load import load_tokenizer

SPLITS = ("train", "val")


@dataclass(frozen=True)
class Choice:
    """Which documents are taken, and which of them are for validation: shares in [0, 1]."""

    column: str  # the text's, in tables and JSON lines
    sample: float
    val_share: float

    def split(self, text):
        """`train`, `val` or None for a document, by a hash of its text alone."""
        digest = hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=16).digest()
        place, chance = (int.from_bytes(half, "little") / 2**64 for half in (digest[:8], digest[8:]))
        if chance >= self.sample:
            return None
        return "val" if place < self.val_share else "train"

    def documents(self, unit):
        """Yield (split, Document) for the documents of a list of pieces that are taken, (None, Damage) for damages."""
        for piece in unit:
            for item in [piece] if isinstance(piece, Damage) else documents(piece, self.column):
                if isinstance(item, Damage):
                    yield None, item
                elif split := self.split(item.text):
                    yield split, item


@dataclass(frozen=True)
class Encoded:
    """The tokens of a unit as the bytes of the token files, with counts of what they were made from."""

    tokens: dict  # {split: bytes}
    documents: dict  # {split: int}
    text_bytes: int
    size: int  # bytes of the source
    damaged: list  # of str


@lru_cache(maxsize=1)
def tokenizer_in(directory):
    """The tokenizer of a directory, loaded once in each process."""
    return load_tokenizer(directory)


def encode(directory, choice, dtype, unit):
    """A unit (a list of Pieces and Damages) Encoded by the tokenizer in `directory`, in the type named `dtype`."""
    tokenizer, kind = tokenizer_in(directory), DTYPES[dtype]
    end = np.array([tokenizer.end_of_text], kind).tobytes()
    tokens, counts = {name: [] for name in SPLITS}, dict.fromkeys(SPLITS, 0)
    damaged, text_bytes = [], 0
    for split, item in choice.documents(unit):
        if split is None:
            damaged.append(str(item))
            continue
        counts[split] += 1
        text_bytes += len(item.text.encode("utf-8", "replace"))
        tokens[split].append(tokenizer.encode(item.text).astype(kind).tobytes())
        if item.ends:
            tokens[split].append(end)
    joined = {name: b"".join(parts) for name, parts in tokens.items()}
    return Encoded(joined, counts, text_bytes, unit_size(unit), damaged)


def characters(choice, unit):
    """The distinct characters (str) of a unit's documents, and the bytes of the source that it accounts for."""
    seen = np.zeros(0x110000, dtype=bool)
    for split, item in choice.documents(unit):
        if split:
            seen[code_points(item.text)] = True
    return "".join(map(chr, np.flatnonzero(seen))), unit_size(unit)


def unit_size(unit):
    """The bytes of the source that a unit accounts for."""
    return sum(piece.size for piece in unit if not isinstance(piece, Damage))

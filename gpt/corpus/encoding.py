"""What is done with each unit of a source, in any process: read, split into training and validation, and encoded.

A unit is a list of pieces. Everything here is a function of its arguments, so it does not matter which process does it,
or how often.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from gpt.corpus.documents import read_piece
from gpt.corpus.pieces import Document, Piece, Unreadable
from gpt.corpus.split import SPLITS, SplitRule
from gpt.errors import UserError
from gpt.tokenizers.characters import CharTokenizer, code_points
from gpt.tokenizers.files import DTYPES
from gpt.tokenizers.load import Tokenizer, load_tokenizer

Unit = list[Piece | Unreadable]
CHECKED_TOKENS = 4096  # decoded at each end of the first document of a unit: a sample, as it takes time


@dataclass(frozen=True)
class Reader:
    """How units are read: the column of the text in tables and JSON lines, and the split."""

    column: str
    rule: SplitRule

    def read(self, unit: Unit) -> Iterator[tuple[str | None, Document | Unreadable]]:
        """Yield ("train" or "val", Document) and (None, Unreadable) for what a unit contains."""
        for piece in unit:
            yield from self.rule.apply(read_piece(piece, self.column))


@dataclass(frozen=True)
class Encoded:
    """The tokens of a unit as the bytes of the token files, with counts of what they were made from."""

    tokens: dict[str, bytes]  # by split; those of dialogs also by the names of their files of answers
    documents: dict[str, int]
    text_bytes: int
    size: int  # bytes of the source
    unreadable: list[str]


@lru_cache(maxsize=1)
def cached_tokenizer(directory: str) -> Tokenizer:
    """The tokenizer of a directory, loaded once in each process."""
    return load_tokenizer(directory)


def encode(directory: str, reader: Reader, dtype: str, unit: Unit) -> Encoded:
    """A unit, Encoded by the tokenizer in `directory` as the dtype of that name."""
    tokenizer, kind = cached_tokenizer(directory), DTYPES[dtype]
    end = b"" if tokenizer.end_of_text is None else np.array([tokenizer.end_of_text], kind).tobytes()
    tokens: dict[str, list[bytes]] = {name: [] for name in SPLITS}
    counts, unreadable, text_bytes = dict.fromkeys(SPLITS, 0), [], 0
    for name, (split, item) in ((piece.name, found) for piece in unit for found in reader.read([piece])):
        if isinstance(item, Unreadable):
            unreadable.append(str(item))
        elif split:
            text, ids = item.text.encode("utf-8", "replace"), encode_document(tokenizer, item.text, name)
            if not text_bytes:
                check_round_trip(tokenizer, text, ids)
            text_bytes += len(text)
            tokens[split].append(ids.astype(kind).tobytes())
            if item.ends:
                counts[split] += 1
                tokens[split].append(end)
    joined = {name: b"".join(parts) for name, parts in tokens.items()}
    return Encoded(joined, counts, text_bytes, unit_size(unit), unreadable)


def encode_document(tokenizer: Tokenizer, text: str, name: str) -> np.ndarray:
    """The token ids (count,) of a text of the file `name`. UserError with the first character that has no token."""
    try:
        return tokenizer.encode(text)
    except UserError:
        if not isinstance(tokenizer, CharTokenizer):
            raise
        place = next(i for i, character in enumerate(text) if character not in tokenizer.characters)
        raise UserError(
            f"{name}: character {text[place]!r} in {text[max(place - 20, 0) : place + 20]!r} is none of the "
            f"{tokenizer.vocab_size} characters of the model of --init-from, or of --tokenizer: leave it out of the "
            "text, or train a model on text that has it"
        ) from None


def check_round_trip(tokenizer: Tokenizer, text: bytes, ids: np.ndarray) -> None:
    """Raise UserError if the beginning or the end of a text's token ids (count,) is not that of the text in UTF-8."""
    begin, end = (tokenizer.decode_bytes(part) for part in (ids[:CHECKED_TOKENS], ids[-CHECKED_TOKENS:]))
    if not (text.startswith(begin) and text.endswith(end) and (len(ids) > CHECKED_TOKENS or text == begin)):
        start = repr(text[:40].decode("utf-8", "ignore"))
        raise UserError(f"the tokenizer loses text of a document that begins with {start}: choose another --tokenizer")


def characters(reader: Reader, unit: Unit) -> tuple[str, int]:
    """The distinct characters of a unit's documents, and the bytes of the source that it accounts for."""
    seen = np.zeros(0x110000, dtype=bool)
    for _, item in reader.read(unit):
        if isinstance(item, Document):
            seen[code_points(item.text)] = True
    return "".join(map(chr, np.flatnonzero(seen))), unit_size(unit)


def unit_size(unit: Unit) -> int:
    """The bytes of the source that a unit accounts for."""
    return sum(piece.size for piece in unit if isinstance(piece, Piece))

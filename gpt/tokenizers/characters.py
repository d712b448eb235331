"""One token for each character: the simplest tokenizer, and a fast one, since encoding is a table look-up."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from gpt.errors import UserError
from gpt.tokenizers.files import save_files, token_dtype

UNSEEN = np.uint32(0xFFFFFFFF)
# Unicode's control character of this name. Only vocabularies of corpora that consist of documents contain it.
END_OF_TEXT = "\x03"


def code_points(text: str) -> np.ndarray:
    """The Unicode code points of a string as a uint32 array (len,)."""
    # surrogatepass: command-line bytes that are not UTF-8 reach Python as lone surrogates
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")


class CharTokenizer:
    """One token for each distinct character, numbered in code-point order."""

    def __init__(self, characters: Iterable[str]):
        self.characters = "".join(sorted(set(characters)))
        self.vocab_size = len(self.characters)
        self._points = code_points(self.characters)
        # One row more than the largest known code point: everything beyond it is looked up there, and unseen.
        self._table = np.full(int(self._points.max(initial=0)) + 2, UNSEEN, dtype=np.uint32)
        self._table[self._points] = np.arange(self.vocab_size, dtype=np.uint32)
        self.end_of_text = int(self.encode(END_OF_TEXT)[0]) if END_OF_TEXT in self.characters else None
        self.stop_ids = frozenset(() if self.end_of_text is None else (self.end_of_text,))
        self.beginning: list[int] = []
        self.companions: Mapping[str, str] = {}

    def encode(self, text: str, unknown: str | None = None, *, special: bool = False) -> np.ndarray:
        """Token ids (len(text),). Unseen characters become the character `unknown`; without one, UserError.

        special: as for other tokenizers; here each character is its own token anyway.
        """
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

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of a sequence of token ids."""
        return self._points[np.asarray(ids, dtype=np.int64)].tobytes().decode("utf-32-le", "surrogatepass")

    def decode_bytes(self, ids: Sequence[int] | np.ndarray) -> bytes:
        """The UTF-8 bytes of a sequence of token ids."""
        return self.decode(ids).encode("utf-8", "replace")

    def lost_text(self) -> None:
        """None: a text without unseen characters is always given back."""

    def save(self, directory: str | Path) -> None:
        """Write `tokenizer.json` and `tokenizer_config.json` into `directory`."""
        content: dict[str, object] = {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [],
            "normalizer": None,
            "pre_tokenizer": {
                "type": "Split",
                "pattern": {"Regex": r"[\s\S]"},
                "behavior": "Isolated",
                "invert": False,
            },
            "post_processor": None,
            "decoder": {"type": "Fuse"},
            "model": {
                "type": "WordLevel",
                "vocab": {character: i for i, character in enumerate(self.characters)},
                "unk_token": "<unknown>",  # not in the vocabulary, so that an unseen character is an error there too
            },
        }
        save_files(directory, content, None if self.end_of_text is None else END_OF_TEXT)

    @classmethod
    def load(cls, content: dict, companions: Mapping[str, str] | None = None) -> "CharTokenizer":
        """The tokenizer of a parsed `tokenizer.json`; ValueError if it is not one that `save` writes."""
        vocabulary = content["model"]["vocab"]
        tokenizer = cls("".join(vocabulary))
        if list(vocabulary) != list(tokenizer.characters) or list(vocabulary.values()) != [*range(len(vocabulary))]:
            raise ValueError("its vocabulary does not consist of single characters in code-point order")
        return tokenizer

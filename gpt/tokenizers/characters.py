"""One token for each character: the plainest tokenizer, and a fast one, since it is a table look-up.

Floor 5, above `vocabulary`. Read `gpt.tokenizers.bpe` next, which joins frequent neighbours into longer tokens.
"""

import numpy as np

from gpt.errors import UserError
from gpt.tokenizers.files import save_files, token_dtype

UNSEEN = np.uint32(0xFFFFFFFF)
# Unicode's own character for it. Only prepared corpora, which consist of documents, have it in their vocabulary.
END_OF_TEXT = "\x03"


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
        self.end_of_text = int(self.encode(END_OF_TEXT)[0]) if END_OF_TEXT in self.characters else None

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

    def decode_bytes(self, ids):
        """The UTF-8 bytes of a sequence of token numbers."""
        return self.decode(ids).encode("utf-8", "replace")

    def save(self, directory):
        """Write `tokenizer.json` and `tokenizer_config.json` into `directory`."""
        content = {
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
                "vocab": {character: number for number, character in enumerate(self.characters)},
                "unk_token": "<unknown>",  # not in the vocabulary, so that an unseen character is an error there too
            },
        }
        save_files(directory, content, None if self.end_of_text is None else END_OF_TEXT)

    @classmethod
    def load(cls, content):
        """The tokenizer of a parsed `tokenizer.json`; ValueError if it is not one that `save` writes."""
        vocabulary = content["model"]["vocab"]
        tokenizer = cls("".join(vocabulary))
        if list(vocabulary) != list(tokenizer.characters) or list(vocabulary.values()) != [*range(len(vocabulary))]:
            raise ValueError("its vocabulary is not one of single characters in the order of their code points")
        return tokenizer

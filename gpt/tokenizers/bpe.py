"""Byte-level byte-pair encoding: GPT-2's tokenizer, and any trained here in its manner.

Floor 5, above `vocabulary`. Text is cut into words by GPT-2's pattern, a word starts as its UTF-8 bytes, and
the pair of neighbours that was learnt first is merged, again and again. The `tokenizers` library trains and
defines the result; `tiktoken` computes the same numbers faster, so it encodes where `same_as_tiktoken` holds.

Why that suffices. `tokenizers` merges the pair with the lowest rank, `tiktoken` the pair whose *joined bytes*
have the lowest rank. Let every token come from exactly one merge, in the order of the ranks, and be the result
of encoding its own bytes. Suppose the two differ first where neighbours x, y with xy = t are merged, but t's
merge is another pair. Nothing has been merged across the borders of xy so far, so the same merges in the same
order happen when t is encoded alone, which therefore passes through x, y. It ends in t, and the only way from
two tokens to t is t's own merge: so x, y is that pair. Read `gpt.tokenizers.load` next.
"""

import json
from functools import cache
from itertools import pairwise

import numpy as np

from gpt.errors import UserError
from gpt.tokenizers.files import save_files, token_dtype

END_OF_TEXT = "<|endoftext|>"
SMALLEST_VOCABULARY = 257  # one for each byte, and the end of text
# GPT-2's pattern, with possessive quantifiers: the same words, since no alternative could match after giving back.
WORDS = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"
GPT2_PRE_TOKENIZER = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}


def library():
    """The optional `tokenizers` package; UserError if it is not installed."""
    try:
        import tokenizers
    except ImportError:
        raise UserError("byte-pair encoding needs tokenizers: pip install 'tinytensor[data]'") from None
    return tokenizers


@cache
def byte_characters():
    """GPT-2's printable character for each byte, {character: byte}: itself where printable, else from U+0100 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


def token_bytes(token):
    """The bytes of a token as it is written in a vocabulary; KeyError if a character stands for no byte."""
    return bytes(map(byte_characters().__getitem__, token))


class BpeTokenizer:
    """A byte-level byte-pair encoding; any text can be encoded, and decoding gives it back.

    What looks like a special token in a text is text. Lone surrogates, which are no text, become question marks.
    """

    def __init__(self, tokenizer):
        self._tokenizer = tokenizer  # a tokenizers.Tokenizer
        tokenizer.encode_special_tokens = True
        content = json.loads(tokenizer.to_str())
        require_byte_level(content)
        self._bytes = bytes_by_number(content)
        self.vocab_size = len(self._bytes)
        self.end_of_text = tokenizer.token_to_id(END_OF_TEXT)
        self._tiktoken = tiktoken_encoding(content) if same_as_tiktoken(content) else None

    @classmethod
    def train(cls, texts, vocab_size):
        """The encoding with at most `vocab_size` tokens that `tokenizers` learns from an iterable of strings."""
        tokenizers = library()
        tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
        add_byte_level(tokenizer)
        trainer = tokenizers.trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=[END_OF_TEXT],
            initial_alphabet=sorted(byte_characters()),
            show_progress=False,
        )
        tokenizer.train_from_iterator(texts, trainer)
        return cls(tokenizer)

    @classmethod
    def load(cls, content):
        """The tokenizer of a parsed `tokenizer.json`; ValueError if it is not a byte-level BPE."""
        tokenizers = library()
        try:
            tokenizer = tokenizers.Tokenizer.from_str(json.dumps(content))
        except Exception as error:  # the library raises no narrower class
            raise ValueError(str(error)) from None
        return cls(tokenizer)

    @classmethod
    def from_merges(cls, vocabulary, merges):
        """The tokenizer of GPT-2's own files: the parsed `vocab.json` and the text of `merges.txt`."""
        tokenizers = library()
        lines = merges.removeprefix("#version: 0.2\n").split("\n")
        pairs = [tuple(line.split(" ")) for line in lines if line]
        try:
            tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=pairs))
        except Exception as error:  # the library raises no narrower class
            raise ValueError(str(error)) from None
        add_byte_level(tokenizer)
        tokenizer.add_special_tokens([END_OF_TEXT])
        return cls(tokenizer)

    def encode(self, text):
        """Token numbers (count,) of token_dtype(vocab_size)."""
        text = text.encode("utf-8", "replace").decode("utf-8")
        if self._tiktoken:
            try:
                ids = self._tiktoken.encode_to_numpy(text, disallowed_special=())
                return ids.astype(token_dtype(self.vocab_size))
            except ValueError:
                pass  # a run of about a million spaces overflows the stack of its regular expressions
        ids = self._tokenizer.encode(text, add_special_tokens=False).ids
        return np.array(ids, dtype=token_dtype(self.vocab_size))

    def decode_bytes(self, ids):
        """The bytes of a sequence of token numbers; tokens may end in the middle of a character."""
        return b"".join([self._bytes[number] for number in ids])

    def decode(self, ids):
        """The text of a sequence of token numbers; bytes that are no UTF-8 become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", "replace")

    def save(self, directory):
        """Write `tokenizer.json` and `tokenizer_config.json` into `directory`."""
        end_of_text = None if self.end_of_text is None else END_OF_TEXT
        save_files(directory, json.loads(self._tokenizer.to_str()), end_of_text)


def add_byte_level(tokenizer):
    """Give a tokenizers.Tokenizer GPT-2's way of cutting text into words, and of putting bytes together."""
    tokenizers = library()
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()


def require_byte_level(content):
    """Raise ValueError unless a parsed `tokenizer.json` encodes every text so that decoding gives it back."""
    if content["model"]["type"] != "BPE":
        raise ValueError(f"its model is {content['model']['type']}, not BPE")
    if content["normalizer"] is not None:
        raise ValueError("its normalizer changes the text")
    pre_tokenizer = content["pre_tokenizer"] or {}
    steps = [step for step in pre_tokenizer.get("pretokenizers", [pre_tokenizer]) if step.get("type") == "ByteLevel"]
    if not steps or any(step["add_prefix_space"] for step in steps):
        raise ValueError("it does not work on bytes as GPT-2's does")
    if missing := byte_characters().keys() - content["model"]["vocab"].keys():
        raise ValueError(f"its vocabulary lacks {len(missing)} of the 256 bytes")


def bytes_by_number(content):
    """The bytes of each token in a list, b"" where a number is unused; ValueError if a token is not made of bytes."""
    added = {token["content"]: token["id"] for token in content["added_tokens"]}
    numbers = content["model"]["vocab"] | added
    table = [b""] * (max(numbers.values()) + 1)
    for token, number in numbers.items():
        try:
            table[number] = token.encode("utf-8") if token in added else token_bytes(token)
        except KeyError:
            raise ValueError(f"token {number}, {token!r}, is not written in GPT-2's characters for bytes") from None
    return table


def same_as_tiktoken(content):
    """Whether `tiktoken` provably gives the same numbers as `tokenizers`; the reason is at the top of this file."""
    model, added = content["model"], content["added_tokens"]
    if model["dropout"] or not GPT2_PRE_TOKENIZER.items() <= content["pre_tokenizer"].items():
        return False
    if not all(token["special"] for token in added):
        return False  # such tokens are cut out of every text
    merges = [tuple(merge) for merge in model["merges"]]
    joined = [model["vocab"]["".join(merge)] for merge in merges]
    in_order = all(a < b for a, b in pairwise(joined))
    special = {token["id"] for token in added}
    complete = set(model["vocab"].values()) - special == {*joined, *map(model["vocab"].get, byte_characters())}
    return in_order and complete and encodes_itself(model["vocab"], merges, joined)


def encodes_itself(vocabulary, merges, numbers):
    """Whether merging the bytes of each of the tokens `numbers` ends in that one token."""
    tokenizers = library()
    plain = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=merges))
    encodings = plain.encode_batch(["".join(merge) for merge in merges], add_special_tokens=False)
    return all(encoding.ids == [number] for encoding, number in zip(encodings, numbers, strict=True))


def tiktoken_encoding(content):
    """The same encoding for `tiktoken`, or None where that is not installed."""
    try:
        import tiktoken
    except ImportError:
        return None
    special = {token["content"] for token in content["added_tokens"]}
    vocabulary = content["model"]["vocab"].items()
    ranks = {token_bytes(token): number for token, number in vocabulary if token not in special}
    return tiktoken.Encoding("tinytensor", pat_str=WORDS, mergeable_ranks=ranks, special_tokens={})

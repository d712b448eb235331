"""Byte-level byte-pair encoding: GPT-2's tokenizer, and new ones of the same kind trained on a corpus.

GPT-2's pattern cuts the text into words; a word starts as its UTF-8 bytes, and the adjacent pair with the lowest merge
rank is merged, repeatedly. The `tokenizers` library trains and defines the result. `tiktoken` computes the same ids
faster, so it encodes wherever `same_as_tiktoken` holds.

Why that condition suffices. `tokenizers` merges the pair with the lowest rank; `tiktoken` merges the pair whose
*concatenation* has the lowest rank as a token. Let every token be produced by exactly one merge, in rank order, and be
the encoding of its own bytes. Suppose the two libraries first differ where adjacent tokens x, y with xy = t are merged
although the merge that produces t is another pair. Nothing has been merged across the ends of xy so far, so encoding t
alone goes through the same merges in the same order, and reaches x, y. It ends in t, and the only step from two tokens
to t is the merge that produces t: so x, y is that pair, a contradiction.
"""

import json
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from gpt.errors import UserError, requires
from gpt.tokenizers.files import save_files, special_names, stop_ids, token_dtype

END_OF_TEXT = "<|endoftext|>"
MIN_VOCAB_SIZE = 257  # one for each byte, and the end of text
MAX_VOCAB_SIZE = 1 << 20  # `tokenizers` allocates that many entries before it learns
# GPT-2's pattern, with possessive quantifiers: the same words, since no match needs backtracking.
WORDS = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"
MAX_TOKENS = 1 << 24  # no vocabulary comes close
# Texts that show what a tokenizer loses, if it does: white space, signs of other vocabularies, equivalent spellings.
PROBES = (
    "  a  b   c ",
    "\ta\t\tb \n\n c\r\nd\r e\v\f\n",
    "a\u00a0b\u2003c\u3000d\u2028e\u200bf\ufeffg\ufffdh",
    "".join(map(chr, range(0x180))),
    "I'll don't IT'S 3.14 1234567890 \u0663 x\u00b2 \u00bd \u2460",
    "\u00e9 e\u0301 \ufb01 \u212b \uff46 \u0130 \u0131 \u00df \u017f",
    "\u2581a \u2581\u2581 b \u0120c \u010a ##d</w> <unk> <s> [CLS]",
    "日本語 한국어 العربية हि ไทย 👩\u200d👧 \U0010ffff",
    "many words " * 5000,
)
GPT2_PRE_TOKENIZER = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}


def import_tokenizers() -> Any:
    """The optional `tokenizers` package; UserError if it is not installed."""
    with requires("tokenizers"):
        import tokenizers
    return tokenizers


@cache
def byte_characters() -> dict[str, int]:
    """GPT-2's printable character for each byte, {character: byte}: itself if printable, otherwise from U+0100 up."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


def token_bytes(token: str) -> bytes:
    """The bytes of a token as spelled in a vocabulary; KeyError if one of its characters stands for no byte."""
    return bytes(map(byte_characters().__getitem__, token))


class BpeTokenizer:
    """A byte-level byte-pair encoding, which encodes any text without loss; see `lost_text` for those from elsewhere.

    What looks like a special token in a text is encoded as text. Lone surrogates, which UTF-8 cannot represent, become
    question marks.
    """

    def __init__(self, tokenizer: Any, companions: Mapping[str, str] | None = None):  # a tokenizers.Tokenizer
        self._tokenizer, self.companions = tokenizer, companions or {}
        tokenizer.encode_special_tokens = True
        tokenizer.no_truncation()
        tokenizer.no_padding()
        content = json.loads(tokenizer.to_str())
        self._added = [token["content"] for token in content["added_tokens"]]
        self._bytes = self.token_table(content)
        self.vocab_size = len(self._bytes)
        self._normalizes = (content["normalizer"] or {}).get("type") == "NFC"
        names = special_names(self.companions)
        ends = [tokenizer.token_to_id(name) for name in (END_OF_TEXT, names.get("eos_token", END_OF_TEXT))]
        self.end_of_text: int | None = next((i for i in ends if i is not None), None)
        self.stop_ids = frozenset(i for i in (*ends, *stop_ids(self.companions)) if i is not None)
        self.beginning = beginning(tokenizer)
        self._tiktoken = tiktoken_encoding(content) if same_as_tiktoken(content) else None

    def token_table(self, content: dict) -> list[bytes]:
        """The bytes of each token of a parsed `tokenizer.json`; ValueError if it is not a byte-level BPE."""
        require_byte_level(content)
        return bytes_by_id(content)

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int, special: Sequence[str] = ()) -> "BpeTokenizer":
        """The encoding with at most `vocab_size` tokens that `tokenizers` learns from some texts.

        special: tokens besides the end of text that are never split.
        """
        tokenizers = import_tokenizers()
        tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
        add_byte_level(tokenizer)
        trainer = tokenizers.trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=[END_OF_TEXT, *special],
            initial_alphabet=sorted(byte_characters()),
            show_progress=False,
        )
        try:
            tokenizer.train_from_iterator(texts, trainer)
        except BaseException as error:
            if type(error).__name__ != "PanicException":  # of Rust; the library does not export the class
                raise
            raise UserError(f"the library tokenizers failed, perhaps for lack of memory or threads ({error})") from None
        return cls(tokenizer)

    @classmethod
    def load(cls, content: dict, companions: Mapping[str, str] | None = None) -> "BpeTokenizer":
        """The tokenizer of a parsed `tokenizer.json`; ValueError if it is not a byte-level BPE."""
        tokenizers = import_tokenizers()
        model = content["model"]
        if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
            raise ValueError("its tokens are marked as parts of words, as GPT-2's are not")
        require_ids([*model["vocab"].values(), *(token["id"] for token in content["added_tokens"])])
        try:
            tokenizer = tokenizers.Tokenizer.from_str(json.dumps(content))
        except Exception as error:  # the library raises no narrower class
            raise ValueError(str(error)) from None
        return cls(tokenizer, companions)

    @classmethod
    def from_merges(cls, vocabulary: dict[str, int], merges: str) -> "BpeTokenizer":
        """The tokenizer of GPT-2's own files: the parsed `vocab.json` and the text of `merges.txt`."""
        tokenizers = import_tokenizers()
        require_ids(vocabulary.values())
        lines = [line for line in merges.split("\n") if line and not line.startswith("#version")]
        pairs = [tuple(line.split(" ")) for line in lines]
        try:
            tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=pairs))
        except Exception as error:  # the library raises no narrower class
            raise ValueError(str(error)) from None
        add_byte_level(tokenizer)
        tokenizer.add_special_tokens([END_OF_TEXT])
        return cls(tokenizer)

    def with_companions(self, companions: Mapping[str, str]) -> "BpeTokenizer":
        """The same encoding with other files beside it, such as a chat template."""
        return type(self)(self._tokenizer, companions)

    def encode(self, text: str, *, special: bool = False) -> np.ndarray:
        """Token ids (count,) of token_dtype(vocab_size). special: what looks like a special token is one."""
        text = text.encode("utf-8", "replace").decode("utf-8")
        if special:
            self._tokenizer.encode_special_tokens = False
            try:
                ids = self._tokenizer.encode(text, add_special_tokens=False).ids
            finally:
                self._tokenizer.encode_special_tokens = True
            return np.array(ids, dtype=token_dtype(self.vocab_size))
        if self._tiktoken:
            try:
                ids = self._tiktoken.encode_to_numpy(text, disallowed_special=())
                return ids.astype(token_dtype(self.vocab_size))
            except ValueError:
                pass  # about a million spaces in a row overflow the stack of its regular expressions
        ids = self._tokenizer.encode(text, add_special_tokens=False).ids
        return np.array(ids, dtype=token_dtype(self.vocab_size))

    def decode_bytes(self, ids: Sequence[int] | np.ndarray) -> bytes:
        """The bytes of a sequence of token ids; tokens may end in the middle of a character."""
        return b"".join([self._bytes[i] for i in ids])

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of a sequence of token ids; bytes that are not UTF-8 become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", "replace")

    def lost_text(self) -> str | None:
        """The first of some difficult texts that decoding its tokens does not give back, or None.

        Equivalent spellings of a character count as the same if the tokenizer normalizes them (NFC), as Qwen's does.
        """
        around_added = [pattern.replace("{}", token) for token in self._added for pattern in ("a {} b", "{}", "\n{}\t")]
        return next((text for text in (*PROBES, *around_added) if self._lost(text)), None)

    def _lost(self, text: str) -> bool:
        back = self.decode(self.encode(text))
        return back != text and not (self._normalizes and back == unicodedata.normalize("NFC", text))

    def save(self, directory: str | Path) -> None:
        """Write `tokenizer.json` and `tokenizer_config.json` into `directory`."""
        end_of_text = None if self.end_of_text is None else self._tokenizer.id_to_token(self.end_of_text)
        save_files(directory, json.loads(self._tokenizer.to_str()), end_of_text, self.companions)


def add_byte_level(tokenizer: Any) -> None:
    """Give a tokenizers.Tokenizer GPT-2's pre-tokenizer, which cuts text into words, and its byte-level decoder."""
    tokenizers = import_tokenizers()
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()


def beginning(tokenizer: Any) -> list[int]:
    """The special tokens that a tokenizers.Tokenizer puts before every text, as Llama's does."""
    plain = tokenizer.encode("a", add_special_tokens=False).ids
    ids = tokenizer.encode("a").ids
    start = next((i for i in range(len(ids)) if ids[i : i + len(plain)] == plain), 0)
    return ids[:start]


def require_ids(ids: Collection[int]) -> None:
    """Raise ValueError for ids beyond any vocabulary: the library would run out of memory and end the process."""
    if beyond := [i for i in ids if not 0 <= i < MAX_TOKENS]:
        raise ValueError(f"it has the token id {beyond[0]}")


def require_byte_level(content: dict) -> None:
    """Raise ValueError if a parsed `tokenizer.json` is not a byte-level BPE, or can be seen to lose text."""
    if content["model"]["type"] != "BPE":
        raise ValueError(f"its model is {content['model']['type']}, not BPE")
    if (content["normalizer"] or {"type": "NFC"})["type"] != "NFC":
        raise ValueError("its normalizer changes the text")
    pre_tokenizer = content["pre_tokenizer"] or {}
    steps = pre_tokenizer.get("pretokenizers", [pre_tokenizer])
    byte_level = [step for step in steps if step.get("type") == "ByteLevel"]
    if not byte_level or any(step["add_prefix_space"] for step in byte_level):
        raise ValueError("it does not work on bytes as GPT-2's does")
    if any(step.get("behavior") == "Removed" and not step["invert"] for step in steps):
        raise ValueError("its pre-tokenizer removes text")
    if missing := byte_characters().keys() - content["model"]["vocab"].keys():
        raise ValueError(f"its vocabulary lacks {len(missing)} of the 256 bytes")


def bytes_by_id(content: dict) -> list[bytes]:
    """The bytes of each token, b"" for an unused id; ValueError if a token is not spelled in GPT-2's characters."""
    added = {token["content"]: token["id"] for token in content["added_tokens"]}
    ids = content["model"]["vocab"] | added
    table = [b""] * (max(ids.values()) + 1)
    for token, i in ids.items():
        try:
            table[i] = token.encode("utf-8") if token in added else token_bytes(token)
        except KeyError:
            raise ValueError(f"token {i}, {token!r}, is not spelled in GPT-2's characters for bytes") from None
    return table


def same_as_tiktoken(content: dict) -> bool:
    """Whether `tiktoken` provably gives the same ids as `tokenizers`; the proof is at the top of this file."""
    model, added = content["model"], content["added_tokens"]
    if (
        model["dropout"]
        or content["normalizer"]
        or not GPT2_PRE_TOKENIZER.items() <= (content["pre_tokenizer"] or {}).items()
    ):
        return False
    if not all(token["special"] for token in added):
        return False  # tokens that are not special are matched in every text before the merges
    merges = [tuple(merge) for merge in model["merges"]]
    results = [model["vocab"]["".join(merge)] for merge in merges]
    in_order = all(a < b for a, b in pairwise(results))
    special = {token["id"] for token in added}
    complete = set(model["vocab"].values()) - special == {*results, *map(model["vocab"].get, byte_characters())}
    return in_order and complete and encode_themselves(model["vocab"], merges, results)


def encode_themselves(vocabulary: dict[str, int], merges: list[tuple[str, ...]], results: list[int]) -> bool:
    """Whether the bytes of each token in `results`, those that the merges produce, encode to that one token."""
    tokenizers = import_tokenizers()
    plain = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=merges))
    encodings = plain.encode_batch(["".join(merge) for merge in merges], add_special_tokens=False)
    return all(encoding.ids == [result] for encoding, result in zip(encodings, results, strict=True))


def tiktoken_encoding(content: dict) -> Any:
    """The same encoding for `tiktoken`, or None if that is not installed."""
    try:
        import tiktoken
    except ImportError:
        return None
    special = {token["content"] for token in content["added_tokens"]}
    vocabulary = content["model"]["vocab"].items()
    ranks = {token_bytes(token): rank for token, rank in vocabulary if token not in special}
    return tiktoken.Encoding("tinytensor", pat_str=WORDS, mergeable_ranks=ranks, special_tokens={})

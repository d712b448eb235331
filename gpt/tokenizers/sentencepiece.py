"""The tokenizer of Llama 2 and TinyLlama: a byte-pair encoding of characters, with bytes for those that it lacks.

It comes from the library SentencePiece, whose habits it has in `tokenizer.json` too: spaces are written as U+2581, a
text begins with one more, and `<0x0A>` is the token of a byte. Its own library is not needed.
"""

from collections.abc import Sequence

import numpy as np

from gpt.tokenizers.bpe import BpeTokenizer

SPACE = "\u2581"
BYTE_TOKENS = {f"<0x{byte:02X}>": bytes([byte]) for byte in range(256)}
PREPEND = {"type": "Prepend", "prepend": SPACE}
REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}


class SentencePieceTokenizer(BpeTokenizer):
    """Encodes any text, as its vocabulary has all bytes; U+2581 itself comes back as a space."""

    def token_table(self, content: dict) -> list[bytes]:
        """The bytes of each token of a parsed `tokenizer.json`; ValueError if it works in another way."""
        normalizer, pre_tokenizer = content["normalizer"] or {}, content["pre_tokenizer"] or {}
        by_normalizer = normalizer.get("normalizers") == [PREPEND, REPLACE] and not pre_tokenizer
        by_metaspace = not normalizer and pre_tokenizer.get("type") == "Metaspace" and not pre_tokenizer["split"]
        if by_metaspace:
            by_metaspace = pre_tokenizer["replacement"] == SPACE and pre_tokenizer["prepend_scheme"] != "never"
        if not by_normalizer and not by_metaspace:
            raise ValueError("its spaces are not those of SentencePiece, written as U+2581 and one before each text")
        vocabulary = content["model"]["vocab"]
        if missing := BYTE_TOKENS.keys() - vocabulary.keys():
            raise ValueError(f"its vocabulary lacks {len(missing)} of the 256 bytes")
        added = {token["content"]: token["id"] for token in content["added_tokens"]}
        table = [b""] * (max([*vocabulary.values(), *added.values()]) + 1)
        for token, i in vocabulary.items():
            table[i] = BYTE_TOKENS.get(token, token.replace(SPACE, " ").encode("utf-8"))
        for token, i in added.items():
            table[i] = token.encode("utf-8")
        return table

    def lost_text(self) -> str | None:
        """As for others, but for U+2581."""
        text = super().lost_text()
        return None if text is not None and SPACE in text else text

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of a sequence of token ids, without the space that it begins with."""
        return super().decode(ids).removeprefix(" ")

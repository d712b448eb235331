"""Tokens as text to look at: whatever bytes a token has, one can tell it from others and see that it is there."""

from __future__ import annotations

from gpt.tokenizers.load import Tokenizer

SIGNS = {" ": "␣", "\n": "↵", "\t": "⇥", "\r": "␍"}  # white space that one should see


def token_label(tokenizer: Tokenizer, token: int) -> str:
    r"""A token as a short text without white space or control characters.

    Bytes that are not whole characters, which byte-pair tokens may have, are written as `\xe2\x82`. A token that has no
    bytes, as unused ids have none, is written as `[ID]`.
    """
    found = tokenizer.decode_bytes([token])
    text = found.decode("utf-8", "backslashreplace")
    shown = "".join(SIGNS.get(c, c if c.isprintable() else c.encode("unicode_escape").decode()) for c in text)
    return shown or f"[{token}]"

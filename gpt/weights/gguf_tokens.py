"""The tokenizer of a GGUF file, in llama.cpp's form of GPT-2's: tokens spelled in characters for bytes, and merges."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gpt.directories import temporary_directory
from gpt.files import read_json
from gpt.tokenizers.bpe import byte_characters
from gpt.tokenizers.characters import CharTokenizer
from gpt.tokenizers.files import TOKENIZER_FILE
from gpt.tokenizers.load import Tokenizer

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5  # types of tokens
END_OF_TEXT = "<|endoftext|>"


def token_settings(tokenizer: Tokenizer, vocab_size: int) -> dict[str, Any]:
    """{setting: value} of a tokenizer, filled up with unused tokens to the model's vocabulary.

    llama.cpp must have a token that ends a text, and takes token 11 if none is named. Where a tokenizer has none, one
    is added at the end; its row of the embedding has to be zero, so that it is hardly ever drawn.
    """
    tokens, types, merges = of_characters(tokenizer) if isinstance(tokenizer, CharTokenizer) else of_bpe(tokenizer)
    unused = range(len(tokens), vocab_size)
    tokens += [f"[UNUSED{i}]" for i in unused]
    types += [UNUSED for _ in unused]
    end = tokenizer.end_of_text
    if end is None:
        end = len(tokens)
        tokens.append(END_OF_TEXT)
        types.append(CONTROL)
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": end,
        "tokenizer.ggml.eos_token_id": end,
        "tokenizer.ggml.add_bos_token": False,
    }


def of_bpe(tokenizer: Tokenizer) -> tuple[list[str], list[int], list[str]]:
    """Tokens, their types and the merges of a byte-pair encoding."""
    with temporary_directory() as directory:
        tokenizer.save(directory)
        content = read_json(Path(directory) / TOKENIZER_FILE)
    added = {token["id"]: token for token in content["added_tokens"]}
    spelling = {i: token for token, i in content["model"]["vocab"].items()}
    spelling |= {i: token["content"] for i, token in added.items()}
    types = dict.fromkeys(spelling, NORMAL)
    types |= {i: CONTROL if token["special"] else USER_DEFINED for i, token in added.items()}
    ids = range(tokenizer.vocab_size)
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in content["model"]["merges"]]
    return [spelling.get(i, f"[UNUSED{i}]") for i in ids], [types.get(i, UNUSED) for i in ids], merges


def of_characters(tokenizer: CharTokenizer) -> tuple[list[str], list[int], list[str]]:
    """The same of a tokenizer of characters, with the merges by which bytes become characters."""
    encoded = [character.encode("utf-8", "replace") for character in tokenizer.characters]
    types = [CONTROL if i == tokenizer.end_of_text else NORMAL for i in range(len(encoded))]
    return list(map(spelled, encoded)), types, list(byte_merges(encoded))


def byte_merges(encoded: list[bytes]) -> Iterator[str]:
    """Merges by which characters of several bytes become tokens: two bytes at first, then a third, a fourth."""
    for length in (2, 3, 4):
        prefixes = dict.fromkeys(data[:length] for data in encoded if len(data) >= length)
        yield from (f"{spelled(prefix[:-1])} {spelled(prefix[-1:])}" for prefix in prefixes)


def spelled(data: bytes) -> str:
    """Bytes in GPT-2's characters for them."""
    characters = {byte: character for character, byte in byte_characters().items()}
    return "".join(characters[byte] for byte in data)

"""The character tokenizer: ids in code-point order, and decoding undoes encoding."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt.errors import UserError
from gpt.tokenizers.characters import CharTokenizer
from gpt.tokenizers.files import token_dtype
from gpt.tokenizers.load import load_tokenizer

ANY_TEXT = st.text(st.characters(exclude_categories=()), min_size=1)


@given(ANY_TEXT)
def test_decoding_undoes_encoding(text):
    tokenizer = CharTokenizer(text)
    assert tokenizer.vocab_size == len(set(text))
    assert tokenizer.decode(tokenizer.encode(text)) == text


@given(ANY_TEXT)
def test_ids_are_ranks_among_the_sorted_characters(text):
    characters = sorted(set(text))
    np.testing.assert_array_equal(CharTokenizer(text).encode(text), [characters.index(c) for c in text])


@given(ANY_TEXT, st.text())
def test_unseen_characters_are_reported_or_replaced(known, text):
    tokenizer = CharTokenizer(known)
    expected = "".join(c if c in known else known[0] for c in text)
    assert tokenizer.decode(tokenizer.encode(text, unknown=known[0])) == expected
    unseen = [i for i, c in enumerate(text) if c not in known]
    if unseen:
        with pytest.raises(UserError, match=f"at position {unseen[0]} is none of the"):
            tokenizer.encode(text)


@given(ANY_TEXT)
def test_a_saved_tokenizer_loads_as_it_was(tmp_path_factory, text):
    directory = tmp_path_factory.mktemp("tokenizer")
    CharTokenizer(text).save(directory)
    assert load_tokenizer(directory).characters == CharTokenizer(text).characters


def test_empty_text_has_no_tokens():
    assert CharTokenizer("ab").encode("").shape == (0,)
    assert CharTokenizer("ab").decode([]) == ""


def test_tokens_take_two_bytes_until_they_cannot():
    assert token_dtype(2**16) == np.uint16
    assert token_dtype(2**16 + 1) == np.uint32
    many = "".join(map(chr, range(0x10000, 0x10000 + 70000)))
    ids = CharTokenizer(many).encode(many)
    assert ids.dtype == np.uint32
    np.testing.assert_array_equal(ids, np.arange(70000))


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"model": 3}', '{"model": {"type": "WordLevel"}}', '{"model": {"type": "Unigram"}}']
)
def test_a_corrupt_file_is_named(tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(UserError, match=r"tokenizer\.json: corrupt"):
        load_tokenizer(tmp_path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"tokenizer\.json: missing"):
        load_tokenizer(tmp_path)


def test_the_file_is_plain_json(tmp_path):
    CharTokenizer("bca").save(tmp_path)
    assert json.loads((tmp_path / "tokenizer.json").read_text())["model"]["vocab"] == {"a": 0, "b": 1, "c": 2}

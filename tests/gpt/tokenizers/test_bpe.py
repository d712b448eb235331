"""Byte-pair encoding: decoding undoes it, and the ids are those of Hugging Face's own libraries."""

import json
from pydoc_data.topics import topics

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gpt.errors import UserError
from gpt.tokenizers.bpe import BpeTokenizer, byte_characters, same_as_tiktoken
from gpt.tokenizers.load import find_tokenizer, load_tokenizer, read_tokenizer

tokenizers = pytest.importorskip("tokenizers", reason="byte-pair encoding needs tokenizers")

TRAINING_TEXT = [topics[name] for name in sorted(topics)[:30]] + ["naïve façade, größer — 日本語 😀"] * 20
WORDS = [
    "the",
    " statement",
    "don't",
    "'ll",
    "\n\n   ",
    " \t ",
    "3.14",
    "<|endoftext|>",
    "日本",
    " 😀",
    "é",
    "\x85",
    "\u3000",
]
TEXT = st.lists(st.one_of(st.text(), st.sampled_from(WORDS)), max_size=20).map("".join)


@pytest.fixture(scope="session")
def directory(tmp_path_factory):
    """A directory with a trained tokenizer in Hugging Face's files."""
    path = tmp_path_factory.mktemp("bpe")
    BpeTokenizer.train(TRAINING_TEXT, 700).save(path)
    return path


@pytest.fixture(scope="session")
def trained(directory):
    return load_tokenizer(directory)


@pytest.fixture(scope="session")
def gpt2_files(directory, tmp_path_factory):
    """The same tokenizer as GPT-2's two files, with the end-of-text token at the end of the vocabulary."""
    path = tmp_path_factory.mktemp("gpt2")
    model = json.loads((directory / "tokenizer.json").read_text())["model"]
    size = len(model["vocab"])
    vocabulary = {token: i - 1 if i else size - 1 for token, i in model["vocab"].items()}
    (path / "vocab.json").write_text(json.dumps(vocabulary))
    (path / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in model["merges"]))
    return path


def theirs(directory):
    """The library's own tokenizer of a directory; what looks like a special token is text, as it is for us."""
    tokenizer = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
    tokenizer.encode_special_tokens = True
    return tokenizer


@given(text=TEXT)
@example(text="")
@example(text=" ")
@example(text="x \n")
def test_decoding_undoes_encoding(trained, text):
    ids = trained.encode(text)
    assert trained.decode(ids) == text
    assert trained.decode_bytes(ids) == text.encode()
    assert ids.dtype == np.uint16


@given(text=TEXT)
def test_the_ids_are_those_of_the_tokenizers_library(directory, trained, text):
    assert trained.encode(text).tolist() == theirs(directory).encode(text, add_special_tokens=False).ids


def test_every_character_gets_the_librarys_ids(directory, trained):
    """The two libraries bring their own Unicode tables: a newer one would tell letters from signs differently."""
    step = 31  # all of them take half a minute, and showed no difference either
    texts = [f"a{chr(c)}b {chr(c)}1{chr(c)} " for c in range(0, 0x110000, step) if not 0xD800 <= c < 0xE000]
    expected = theirs(directory).encode("".join(texts), add_special_tokens=False).ids
    assert trained.encode("".join(texts)).tolist() == expected


def test_tiktoken_encodes_where_it_is_equivalent(trained):
    pytest.importorskip("tiktoken")
    assert trained._tiktoken is not None


def test_without_tiktoken_the_ids_are_the_same(directory, trained, monkeypatch):
    slow = load_tokenizer(directory)
    monkeypatch.setattr(slow, "_tiktoken", None)
    text = TRAINING_TEXT[0] + "\n\n 日本語 <|endoftext|> 😀"
    np.testing.assert_array_equal(slow.encode(text), trained.encode(text))


def test_a_million_spaces_are_encoded(trained):
    text = " " * 1_000_000 + "x"
    assert trained.decode(trained.encode(text)) == text


def test_training_is_deterministic_and_bounded():
    once, again = (BpeTokenizer.train(TRAINING_TEXT, 300) for _ in range(2))
    assert once.vocab_size == 300
    np.testing.assert_array_equal(once.encode(TRAINING_TEXT[0]), again.encode(TRAINING_TEXT[0]))


def test_no_text_encodes_to_the_end_of_text_token(trained):
    assert trained.decode([trained.end_of_text]) == "<|endoftext|>"
    assert trained.end_of_text not in trained.encode("one<|endoftext|>two")


def test_partial_characters_and_lone_surrogates_are_replaced(trained):
    assert trained.decode(trained.encode("日")[:1]) == "\ufffd"
    assert trained.decode(trained.encode("a\ud800")) == "a?"


@given(text=TEXT)
def test_gpt2s_two_files_give_the_same_tokens_with_their_ids(gpt2_files, trained, text):
    tokenizer = find_tokenizer(str(gpt2_files))
    assert tokenizer.end_of_text == trained.vocab_size - 1
    np.testing.assert_array_equal(tokenizer.encode(text), trained.encode(text) - 1)
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_saved_tokenizer_is_what_transformers_loads(directory, trained, gpt2_files, tmp_path):
    transformers = pytest.importorskip("transformers")
    find_tokenizer(str(gpt2_files)).save(tmp_path)
    text = "".join(WORDS).replace("<|endoftext|>", "") + TRAINING_TEXT[3]
    for path in (directory, tmp_path):
        auto = transformers.AutoTokenizer.from_pretrained(path)
        ids = load_tokenizer(path).encode(text).tolist()
        assert auto(text)["input_ids"] == ids
        assert auto.decode(ids) == text
        assert auto.eos_token_id == load_tokenizer(path).end_of_text
    gpt2 = transformers.GPT2TokenizerFast(str(gpt2_files / "vocab.json"), str(gpt2_files / "merges.txt"))
    assert gpt2(text)["input_ids"] == find_tokenizer(str(gpt2_files)).encode(text).tolist()


def unusual(merges):
    """A parsed tokenizer.json with the 256 bytes and these merges of ASCII characters."""
    plain = tokenizers.Tokenizer(tokenizers.models.BPE())
    plain.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    content = json.loads(plain.to_str())
    tokens = dict.fromkeys([*sorted(byte_characters()), *("".join(merge) for merge in merges)])
    content["model"] |= {"vocab": {token: i for i, token in enumerate(tokens)}, "merges": [list(m) for m in merges]}
    return content


@pytest.mark.parametrize(
    ("merges", "pieces"),
    [
        ([("a", "b"), ("b", "c"), ("a", "bc")], ["ab", "c"]),  # a token that its own bytes do not encode to
        ([("a", "b"), ("b", "c"), ("ab", "c"), ("a", "bc")], ["abc"]),  # one that two merges produce
    ],
)
def test_where_tiktoken_could_differ_it_is_not_used(merges, pieces):
    content = unusual(merges)
    assert not same_as_tiktoken(content)
    tokenizer = BpeTokenizer.load(content)
    assert [tokenizer.decode([token]) for token in tokenizer.encode("abc")] == pieces


def test_merges_whose_ids_are_out_of_order_are_not_encoded_by_tiktoken():
    content = unusual([("a", "b"), ("c", "d")])
    assert same_as_tiktoken(content)
    content["model"]["merges"].reverse()
    assert not same_as_tiktoken(content)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"normalizer": {"type": "Lowercase"}}, "its normalizer changes the text"),
        ({"pre_tokenizer": {"type": "Whitespace"}}, "does not work on bytes"),
        ({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}, "lacks 255 of the 256 bytes"),
        ({"model": {"type": "Unigram"}}, "of an unknown type"),
    ],
)
def test_a_lossy_tokenizer_is_refused(tmp_path, change, reason):
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(unusual([("a", "b")]) | change))
    with pytest.raises(UserError, match=rf"tokenizer\.json: .*{reason}"):
        read_tokenizer(path)


def test_missing_tokenizers_are_named(tmp_path, directory, monkeypatch):
    monkeypatch.chdir(directory)
    with pytest.raises(UserError, match="--tokenizer: is empty"):
        find_tokenizer("")
    with pytest.raises(UserError, match="--tokenizer nonesuch: not one of char, bpe, gpt2"):
        find_tokenizer("nonesuch")
    with pytest.raises(UserError, match=r"has neither tokenizer\.json nor vocab\.json and merges\.txt"):
        find_tokenizer(str(tmp_path))
    (tmp_path / "vocab.json").write_text("{}")
    (tmp_path / "merges.txt").write_text("a b\n")
    with pytest.raises(UserError, match=r"vocab\.json and merges\.txt are corrupt"):
        find_tokenizer(str(tmp_path))


BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}


def before_bytes(*steps):
    return {"type": "Sequence", "pretokenizers": [*steps, BYTE_LEVEL]}


def added(**changes):
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    return [{"id": 257, "content": "<tool>", **flags, **changes}]


def split_off(regex, invert=False):
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Removed", "invert": invert}


@pytest.mark.parametrize(
    "change",
    [
        {"pre_tokenizer": before_bytes({"type": "Whitespace"})},
        {"pre_tokenizer": before_bytes({"type": "WhitespaceSplit"})},
        {"pre_tokenizer": before_bytes({"type": "BertPreTokenizer"})},
        {"pre_tokenizer": before_bytes({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never"})},
        {"pre_tokenizer": before_bytes({"type": "CharDelimiterSplit", "delimiter": "x"})},
        {"pre_tokenizer": before_bytes(split_off(r"[\x20-\x7e]+", invert=True))},
        {"added_tokens": added(lstrip=True)},
        {"added_tokens": added(rstrip=True)},
    ],
    ids=str,
)
def test_a_tokenizer_that_loses_text_is_refused_where_a_corpus_is_encoded(tmp_path, change):
    (tmp_path / "tokenizer.json").write_text(json.dumps(unusual([("a", "b")]) | change))
    with pytest.raises(UserError, match=rf"--tokenizer {tmp_path}: loses text: .* encoded and decoded is "):
        find_tokenizer(str(tmp_path))


def test_a_pre_tokenizer_that_removes_text_is_refused(tmp_path):
    content = unusual([("a", "b")]) | {"pre_tokenizer": before_bytes(split_off("no probe contains this"))}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="its pre-tokenizer removes text"):
        find_tokenizer(str(tmp_path))


@pytest.mark.parametrize(
    "pre_tokenizer",
    [
        before_bytes({"type": "Digits", "individual_digits": True}),
        before_bytes({**split_off(r"\p{N}{1,3}"), "behavior": "Isolated"}),
        before_bytes(split_off(r"\s+|\S+", invert=True)),
    ],
    ids=str,
)
def test_a_tokenizer_that_only_cuts_otherwise_is_accepted(tmp_path, pre_tokenizer):
    content = unusual([("a", "b")]) | {"pre_tokenizer": pre_tokenizer, "added_tokens": added()}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    assert find_tokenizer(str(tmp_path)).decode([257]) == "<tool>"


def test_truncation_and_padding_are_switched_off(directory, trained, tmp_path):
    content = json.loads((directory / "tokenizer.json").read_text())
    content["truncation"] = {"max_length": 8, "stride": 0, "strategy": "LongestFirst", "direction": "Right"}
    padding = {"strategy": {"Fixed": 5000}, "direction": "Right", "pad_id": 3, "pad_type_id": 0, "pad_token": "!"}
    content |= {"padding": padding, "added_tokens": [token | {"special": False} for token in content["added_tokens"]]}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer._tiktoken is None
    text = TRAINING_TEXT[0]
    np.testing.assert_array_equal(tokenizer.encode(text), trained.encode(text))
    tokenizer.save(tmp_path)
    saved = json.loads((tmp_path / "tokenizer.json").read_text())
    assert saved["truncation"] is None
    assert saved["padding"] is None


def test_any_version_line_of_merges_is_skipped(gpt2_files, trained, tmp_path):
    (tmp_path / "vocab.json").write_text((gpt2_files / "vocab.json").read_text())
    merges = (gpt2_files / "merges.txt").read_text()
    longer = merges.replace("#version: 0.2", "#version: 0.2 - Trained by `huggingface/tokenizers`")
    for text in (longer, merges.removeprefix("#version: 0.2\n"), longer.replace("\n", "\r\n")):
        (tmp_path / "merges.txt").write_bytes(text.encode())
        np.testing.assert_array_equal(
            find_tokenizer(str(tmp_path)).encode("a sentence"), trained.encode("a sentence") - 1
        )


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt"])
@pytest.mark.parametrize("content", ["[" * 200_000, "[]", '{"a": "b"}', '{"a": -1}', '{"a": 1e99}', "a b c\n", "a\n"])
def test_hostile_files_of_gpt2_are_one_sentence(gpt2_files, tmp_path, name, content):
    for file in ("vocab.json", "merges.txt"):
        (tmp_path / file).write_text((gpt2_files / file).read_text())
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=r"vocab\.json and merges\.txt are corrupt"):
        find_tokenizer(str(tmp_path))


def test_an_enormous_token_id_is_refused_before_a_table_of_that_size_is_made():
    content = unusual([("a", "b")])
    content["model"]["vocab"]["ab"] = 2**32 - 1
    with pytest.raises(ValueError, match="it has the token id 4294967295"):
        BpeTokenizer.load(content)


def test_marks_of_parts_of_words_are_refused_before_the_library_panics():
    for change in ({"continuing_subword_prefix": "##"}, {"end_of_word_suffix": "</w>"}):
        content = unusual([("a", "b")])
        content["model"] |= change
        with pytest.raises(ValueError, match="its tokens are marked as parts of words"):
            BpeTokenizer.load(content)

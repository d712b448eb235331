"""Tokenizers as the families have them: their own rules to split text, special tokens, bytes as a way out."""

import json

import numpy as np
import pytest

from gpt.errors import UserError
from gpt.generation.stream import first_ids
from gpt.tokenizers.load import load_tokenizer

tokenizers = pytest.importorskip("tokenizers")
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers  # noqa: E402

TEXTS = ["Hello world, it's 2024!", "  two  spaces\n\n\ttab ", "na\u00efve caf\u00e9 \u65e5\u672c\u8a9e \U0001f600"]
TEXTS += ["x" * 50, "12345 a1b2 <s> </s>", ""]
LEARNED = ["Hello world, it's 2024 and the cafe is open. " * 3, "two spaces and a tab, 12345 times"] * 5
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def byte_level(*before, normalizer=None):
    """A byte-level encoding, pre-tokenized by `before`, then into bytes."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    byte_step = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not before)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*before, byte_step])
    tokenizer.decoder = decoders.ByteLevel()
    if normalizer:
        tokenizer.normalizer = normalizer
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<|endoftext|>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(
        vocab_size=330, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(LEARNED, trainer)
    return tokenizer


def split(pattern):
    return pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated")


def with_bos(tokenizer):
    ids = [("<s>", tokenizer.token_to_id("<s>"))]
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", "<s> $A $B", ids)
    return tokenizer


def sentencepiece(metaspace=False):
    """As in Llama 2: characters, bytes for what is missing, U+2581 for spaces."""
    tokenizer = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    if metaspace:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("\u2581", "first", split=False)
    else:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=360, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(LEARNED, trainer)
    content = json.loads(tokenizer.to_str())
    content["added_tokens"] = content["added_tokens"][:3]  # bytes are no special tokens
    return with_bos(tokenizers.Tokenizer.from_str(json.dumps(content)))


FAMILIES = {
    "SmolLM": lambda: byte_level(pre_tokenizers.Digits(individual_digits=True)),
    "Llama 3": lambda: with_bos(byte_level(split(LLAMA3))),
    "Qwen": lambda: byte_level(split(LLAMA3.replace("{1,3}", "")), normalizer=normalizers.NFC()),
    "Pythia": lambda: byte_level(normalizer=normalizers.NFC()),
    "TinyLlama": sentencepiece,
    "TinyLlama, newer": lambda: sentencepiece(metaspace=True),
}


@pytest.fixture(params=FAMILIES)
def saved(request, tmp_path):
    """(what the library computes with, our tokenizer of the same file, its directory)"""
    FAMILIES[request.param]().save(str(tmp_path / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    config["clean_up_tokenization_spaces"] = False
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    return tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json")), load_tokenizer(tmp_path), tmp_path


def test_ids_are_those_of_the_library(saved):
    theirs, ours, _ = saved
    for text in TEXTS:
        assert ours.encode(text, special=True).tolist() == theirs.encode(text, add_special_tokens=False).ids
    for text in filter(None, TEXTS):
        assert list(first_ids(ours, text, special=True)) == theirs.encode(text).ids
    assert theirs.token_to_id("</s>") in ours.stop_ids


def test_texts_come_back(saved, request):
    _, ours, _ = saved
    newer = "newer" in request.node.name  # which takes a space at the beginning of a text for its own
    for text in TEXTS:
        assert ours.decode(ours.encode(text)) == (text.removeprefix(" ") if newer else text)
    assert (ours.lost_text() is None) != newer


def test_special_tokens_in_a_text_are_text_unless_asked(saved):
    theirs, ours, _ = saved
    end = theirs.token_to_id("</s>")
    assert end not in ours.encode("a </s>")
    assert ours.encode("a </s>", special=True)[-1] == end
    assert ours.decode_bytes([end]) == b"</s>"


def test_saving_keeps_all_that_belongs_to_it(saved, tmp_path):
    _, ours, directory = saved
    (directory / "chat_template.jinja").write_text("{{ messages }}")
    load_tokenizer(directory).save(tmp_path)
    for name in ("tokenizer_config.json", "chat_template.jinja"):
        assert (tmp_path / name).read_text() == (directory / name).read_text()
    again = load_tokenizer(tmp_path)
    assert (again.beginning, again.stop_ids, again.vocab_size) == (ours.beginning, ours.stop_ids, ours.vocab_size)
    np.testing.assert_array_equal(again.encode(TEXTS[0]), ours.encode(TEXTS[0]))


def test_transformers_gives_the_same_ids(saved):
    """Optional: needs transformers."""
    transformers = pytest.importorskip("transformers")
    _, ours, directory = saved
    auto = transformers.AutoTokenizer.from_pretrained(directory)
    for text in filter(None, TEXTS):
        assert list(first_ids(ours, text, special=True)) == auto(text)["input_ids"]
        if "<s>" not in text:
            assert ours.decode(ours.encode(text)) == auto.decode(auto(text, add_special_tokens=False)["input_ids"])


WRONG = {
    "its normalizer changes the text": lambda: byte_level(normalizer=normalizers.Lowercase()),
    "its spaces are not those of SentencePiece": lambda: lowercased(sentencepiece()),
}


def lowercased(tokenizer):
    tokenizer.normalizer = normalizers.Lowercase()
    return tokenizer


@pytest.mark.parametrize("reason", WRONG)
def test_a_tokenizer_that_would_lose_text_is_refused(tmp_path, reason):
    WRONG[reason]().save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(UserError, match=reason):
        load_tokenizer(tmp_path)

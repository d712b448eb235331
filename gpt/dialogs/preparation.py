"""From a file of dialogs to token files: as for texts (`gpt.corpus.preparation`), with a byte for each token beside it.

The tokenizer gets the chat template and the token that ends an answer, and both are saved with it, so that the model
that is trained on the dialogs answers in the same form in `gpt.chat`, and in transformers.
"""

import importlib
import json
from typing import Any

from gpt.corpus.encoding import Encoded, Reader, Unit, cached_tokenizer, unit_size
from gpt.corpus.preparation import Preparation, PrepareOptions
from gpt.corpus.sources import Source
from gpt.corpus.split import SPLITS
from gpt.corpus.tokens import ANSWERS
from gpt.corpus.workers import Workers
from gpt.dialogs.masking import answer_texts, encode_text, find_template, special_tokens, stop_token
from gpt.dialogs.messages import Dialog, DialogReader, has_dialogs, require_known_roles
from gpt.errors import UserError, requires
from gpt.generation.templates import ChatTemplate, template_source
from gpt.tokenizers.bpe import END_OF_TEXT, BpeTokenizer
from gpt.tokenizers.files import DTYPES, GENERATION_FILE, TEMPLATE_FILE, TOKENIZER_CONFIG_FILE, companion_json
from gpt.tokenizers.load import Tokenizer, find_tokenizer

REMEDY = "--chat-template names another"
PACKAGES = ("tokenizers", "jinja2")  # of the extra `chat`
LEARNED = {  # what transformers is told of a tokenizer that is learned here
    "tokenizer_class": "PreTrainedTokenizerFast",
    "clean_up_tokenization_spaces": False,
    "bos_token": END_OF_TEXT,
    "eos_token": END_OF_TEXT,
}


def require_packages() -> None:
    """UserError if one of the optional packages that dialogs need is missing."""
    for name in PACKAGES:
        with requires(name, "chat"):
            importlib.import_module(name)


def encode_dialogs(directory: str, reader: Reader, dtype: str, unit: Unit) -> Encoded:
    """A unit of dialogs, Encoded by the tokenizer in `directory` as the dtype of that name."""
    tokenizer, kind = cached_tokenizer(directory), DTYPES[dtype]
    source = template_source(tokenizer.companions)
    assert source is not None  # `with_template` has seen to it
    template = ChatTemplate(source, tokenizer.companions, REMEDY)
    tokens: dict[str, list[bytes]] = {name + end: [] for name in SPLITS for end in ("", ANSWERS)}
    counts, unreadable, text_bytes = dict.fromkeys(SPLITS, 0), [], 0
    for split, item in reader.read(unit):
        if not isinstance(item, Dialog) or split is None:
            unreadable.append(str(item))
            continue
        try:
            require_known_roles(item.messages, source)
            texts = answer_texts(template, item.messages)
        except UserError as error:
            raise UserError(f"{item.where()}: {error}") from None
        counts[split] += 1
        text_bytes += len(item.text.encode("utf-8", "replace"))
        for parts in texts:
            ids, flags = encode_text(parts, tokenizer)
            tokens[split].append(ids.astype(kind).tobytes())
            tokens[split + ANSWERS].append(flags.tobytes())
    joined = {name: b"".join(parts) for name, parts in tokens.items()}
    return Encoded(joined, counts, text_bytes, unit_size(unit), unreadable)


def with_template(tokenizer: Tokenizer, source: str | None) -> Tokenizer:
    """A tokenizer with the template `source`, or its own for None, and the token that ends an answer by that."""
    companions: dict[str, Any] = dict(tokenizer.companions)
    given = source or template_source(companions)
    if not isinstance(tokenizer, BpeTokenizer):
        raise UserError(
            "a model of characters has no special tokens, which dialogs need: take one with byte-pair tokens for "
            "--init-from, or train one on the dialogs, with --chat-template chatml and without --init-from"
        )
    if given is None:
        raise UserError(
            "the tokenizer has no chat template to write dialogs with: give --chat-template chatml, or a file with one"
        )
    stop = stop_token(ChatTemplate(given, companions, REMEDY), tokenizer)
    if source:
        companions[TEMPLATE_FILE] = source
    if stop not in tokenizer.stop_ids:
        generation = companion_json(companions, GENERATION_FILE)
        companions[GENERATION_FILE] = json.dumps({**generation, "eos_token_id": stop}, indent=2)
    return tokenizer.with_companions(companions)


class DialogPreparation(Preparation):
    """A file of dialogs, its options, and the token files so far."""

    encoder = staticmethod(encode_dialogs)
    with_answers = True
    noun = "dialogs"

    def make_reader(self) -> Reader:
        """What reads the dialogs of a unit."""
        return DialogReader(self.options.text_column, self.rule)

    def make_tokenizer(self, workers: Workers) -> Tokenizer:
        """Find or learn the tokenizer, and give it the template that was asked for."""
        source, name = find_template(self.options.chat_template), self.options.tokenizer
        if self.given_tokenizer is None and name == "char":
            raise UserError("--tokenizer char: has no special tokens, which dialogs need; use bpe")
        if self.given_tokenizer is not None or name != "bpe":
            return with_template(self.given_tokenizer or find_tokenizer(name), source)
        if source is None:
            raise UserError(
                f"{self.source.name}: has dialogs, and a new tokenizer needs a template to write them with: give "
                "--chat-template chatml, or a file with another"
            )
        special = [token for token in special_tokens(source) if token != END_OF_TEXT]
        learned = BpeTokenizer.train(self.learning_texts(), self.options.vocab_size, special)
        return with_template(learned.with_companions({TOKENIZER_CONFIG_FILE: json.dumps(LEARNED, indent=2)}), source)


def make_preparation(source: Source, options: PrepareOptions, tokenizer: Tokenizer | None = None) -> Preparation:
    """The Preparation for a source, whether it has dialogs or texts. UserError for a template without dialogs."""
    if has_dialogs(source.name, options.text_column):
        require_packages()
        return DialogPreparation(source, options, tokenizer)
    if options.chat_template:
        raise UserError(
            f"--chat-template {options.chat_template}: {source.name} has no dialogs: they are in a .jsonl, of which "
            'each line is like {"messages": [{"role": "user", "content": "..."}, ...]}'
        )
    return Preparation(source, options, tokenizer)

"""The tokens that a run trains on: prepared for it from a corpus, or token files that exist already."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from gpt.corpus.preparation import PrepareOptions
from gpt.corpus.sources import Source, open_source
from gpt.corpus.tokens import is_prepared, link_tokens, open_tokens
from gpt.dialogs.messages import has_dialogs
from gpt.dialogs.preparation import make_preparation, require_packages
from gpt.errors import UserError
from gpt.tokenizers.load import Tokenizer, load_tokenizer
from gpt.training.batches import dialog_windows
from gpt.weights.load import load_model_tokenizer, same_tokens


def open_data(
    name: str, init_from: str = "", val_share: float = 0.0, chat_template: str = ""
) -> Callable[[Path], Tokenizer]:
    """A function that puts the tokens of `--data name`, or where they are, and the tokenizer into a directory.

    Without token files, the tokenizer is that of the model `init_from`, or one of characters, or for dialogs byte-pair
    encoding, and everything else is as `python -m gpt.prepare` does it by default, with `val_share` and
    `chat_template`. UserError if there is no such data, or if the token files are of another tokenizer than the
    model's or one of these two is given for them.
    """
    with_dialogs = has_dialogs(name)
    if with_dialogs:
        require_packages()  # before a model's tokenizer asks for one of them
    tokenizer = load_model_tokenizer(init_from) if init_from else None
    if not is_prepared(name):
        tokenizer_name = init_from or ("bpe" if with_dialogs else "char")
        return partial(prepare, open_source(name), tokenizer_name, tokenizer, val_share, chat_template)
    if val_share:
        raise UserError(
            f"--val-share {val_share}: {name} was split when it was prepared: leave it out, or prepare the text again "
            "with --val-share of python -m gpt.prepare"
        )
    if chat_template:
        raise UserError(
            f"--chat-template {chat_template}: {name} was written with a template when it was prepared: leave it out, "
            "or prepare the dialogs again with --chat-template of python -m gpt.prepare"
        )
    prepared = load_tokenizer(name)
    if tokenizer and not same_tokens(prepared, tokenizer):
        raise UserError(
            f"--data {name}: has another tokenizer than --init-from {init_from}; prepare the text again with "
            "--tokenizer and the model's directory"
        )
    return partial(link, name, prepared)


def prepare(
    source: Source,
    tokenizer_name: str,
    tokenizer: Tokenizer | None,
    val_share: float,
    chat_template: str,
    directory: Path,
) -> Tokenizer:
    """Write the token files of a source into a directory."""
    options = PrepareOptions(str(directory), tokenizer_name, val_share=val_share, chat_template=chat_template)
    make_preparation(source, options, tokenizer).run()
    return load_tokenizer(directory)


def link(prepared: str, tokenizer: Tokenizer, directory: Path) -> Tokenizer:
    """Make a directory point at existing token files."""
    link_tokens(prepared, directory)
    tokenizer.save(directory)
    return tokenizer


def require_windows(directory: Path, data: str, block_size: int) -> None:
    """Raise UserError if a split in a directory has too few tokens for one window of `block_size`."""
    tokens = open_tokens(directory)
    for split, array, answers in (
        ("training", tokens.train, tokens.train_answers),
        ("validation", tokens.val, tokens.val_answers),
    ):
        if len(array) <= block_size:
            raise UserError(
                f"--data {data}: has {len(array)} tokens for {split}, fewer than the {block_size + 1} of one window: "
                "use a longer text, a smaller --block-size or another --val-share"
            )
        if answers is not None and not len(dialog_windows(answers, block_size)):
            raise UserError(
                f"--data {data}: has no window of {block_size} tokens with an answer for {split}: use more dialogs, or "
                "another --block-size"
            )

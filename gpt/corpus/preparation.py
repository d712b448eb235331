"""A source on its way into token files: first the tokenizer, then the tokens.

`python -m gpt.prepare` and `train.py --data` both come here, so the same text gives the same files by either route. An
interrupted preparation resumes and gives the same bytes.
"""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from tqdm import tqdm

from gpt.corpus.documents import Document, Piece, Unreadable
from gpt.corpus.encoding import Reader, Unit, cached_tokenizer, characters, encode
from gpt.corpus.sources import Source
from gpt.corpus.split import SplitRule
from gpt.corpus.token_files import TokenFiles
from gpt.corpus.workers import Workers
from gpt.errors import UserError
from gpt.options import check_options, option
from gpt.tokenizers.bpe import MAX_VOCAB_SIZE, MIN_VOCAB_SIZE, BpeTokenizer
from gpt.tokenizers.characters import END_OF_TEXT, CharTokenizer
from gpt.tokenizers.files import DTYPES, TOKENIZER_FILE, token_dtype
from gpt.tokenizers.load import Tokenizer, find_tokenizer, load_tokenizer
from tinytensor.parallel import available_cores

UNIT_BYTES = 1 << 21  # what a process does at a time: small files together, a large piece alone
VAL_SHARE, MAX_VAL_BYTES, VAL_SHARE_OF_UNKNOWN_SIZE = 0.1, 1 << 24, 0.01
# Text to learn merges from: more than a 32nd would take a good part of the time, more than 128 MiB gains nothing.
LEARN_SHARE, MIN_LEARN_BYTES, MAX_LEARN_BYTES = 1 / 32, 1 << 23, 1 << 27
BAR_DELAY = 1  # seconds before a progress bar appears, so that small corpora show none


@dataclass(frozen=True)
class PrepareOptions:
    """How to prepare a corpus. Raises UserError for impossible values."""

    out: str = option("", "directory for the token files; an unfinished one is resumed")
    tokenizer: str = option("bpe", "char, bpe (learned from the text), gpt2, or a tokenizer's file or folder")
    vocab_size: int = option(8192, "tokens of a learned bpe", at_least=MIN_VOCAB_SIZE, at_most=MAX_VOCAB_SIZE)
    sample: float = option(1.0, "share of the documents to use", above=0, at_most=1)
    val_share: float = option(0.0, "share for validation; 0 is a tenth, at most 16 MiB", at_least=0, below=1)
    text_column: str = option("text", "column or key of the text in tables and JSON lines")
    chat_template: str = option("", "for dialogs: chatml, or a file with a template, instead of the tokenizer's own")
    dtype: str = option("auto", "type of a token id", choices=("auto", *DTYPES))
    streaming: bool = option(False, "read hf:NAME from the network while encoding, instead of downloading it first")
    workers: int = option(0, "processes, 0 for one per core", at_least=0)

    def __post_init__(self) -> None:
        check_options(self)
        if not self.out:
            raise UserError("--out: must be given, the directory for the token files")


class Preparation:
    """One source, its options, and the token files so far. tokenizer: one to use instead of `options.tokenizer`.

    `gpt.dialogs` has another kind, for dialogs.
    """

    encoder = staticmethod(encode)
    with_answers = False
    noun = "documents"

    def __init__(self, source: Source, options: PrepareOptions, tokenizer: Tokenizer | None = None):
        self.source, self.options, self.given_tokenizer = source, options, tokenizer
        self.rule = SplitRule(options.val_share or automatic_share(source), options.sample)
        self.reader = self.make_reader()
        self.directory = Path(options.out).resolve()
        fixed = {name: value for name, value in asdict(options).items() if name not in ("out", "streaming", "workers")}
        derived = {"source": source.name, "size": source.size, "val_share": self.rule.val_share}
        self.files = TokenFiles(options.out, fixed | derived, self.with_answers)

    def make_reader(self) -> Reader:
        """What reads the documents of a unit."""
        return Reader(self.options.text_column, self.rule)

    def run(self) -> dict[str, Any]:
        """Do all of it; returns the content of `meta.json`."""
        with Workers(worker_count(self.options, self.source.size)) as workers:
            tokenizer = self.tokenizer(workers)
            dtype = self.dtype(tokenizer)
            with self.files:
                self.encode(workers, dtype)
        self.require_both_splits()
        return self.files.finish(self.source.name, dtype, tokenizer.vocab_size)

    def units(self) -> Iterator[Unit]:
        """Yield lists of pieces, each large enough to be worth sending to another process."""
        unit: Unit = []
        size = 0
        for piece in self.source.pieces():
            unit.append(piece)
            size += max(piece.size, len(piece.data)) if isinstance(piece, Piece) else 0
            if size >= UNIT_BYTES:
                yield unit
                unit, size = [], 0
        if unit:
            yield unit

    def tokenizer(self, workers: Workers) -> Tokenizer:
        """The tokenizer, saved in the directory: the one already there if this is a resumption, else a new one."""
        cached_tokenizer.cache_clear()  # this process may have prepared another corpus in the same directory
        if (self.directory / TOKENIZER_FILE).exists():
            return load_tokenizer(self.directory)
        try:
            tokenizer = self.make_tokenizer(workers)
        except (UserError, OSError):
            self.files.discard()
            raise
        tokenizer.save(self.directory)
        return tokenizer

    def make_tokenizer(self, workers: Workers) -> Tokenizer:
        """Find or learn the tokenizer that the options ask for."""
        name = self.options.tokenizer
        if self.given_tokenizer is None and name == "char":
            return CharTokenizer(self.learn_characters(workers) + ("" if self.source.is_text else END_OF_TEXT))
        if self.given_tokenizer is None and name == "bpe":
            return BpeTokenizer.train(self.learning_texts(), self.options.vocab_size)
        tokenizer = self.given_tokenizer or find_tokenizer(name)
        if tokenizer.end_of_text is None and not self.source.is_text:
            raise UserError(
                f"{name}: its tokenizer has no end-of-text token, which separates the documents of {self.source.name}: "
                "give a single text file without <|endoftext|>, or a model or tokenizer with byte-pair tokens"
            )
        return tokenizer

    def learn_characters(self, workers: Workers) -> str:
        """Every character of the documents, which takes a pass over all of them."""
        seen: set[str] = set()
        with self.bar("characters") as bar:
            for found, size in workers.map(partial(characters, self.reader), self.units()):
                seen |= set(found)
                bar.update(size)
        if not seen:
            raise self.no_text()
        return "".join(seen)

    def learning_texts(self) -> Iterator[str]:
        """Yield the texts to learn merges from: the training documents of pieces spread over the source."""
        taken, budget, stride = 0, float(MIN_LEARN_BYTES), 1
        with tqdm(unit="B", unit_scale=True, desc="learn merges", dynamic_ncols=True, delay=BAR_DELAY) as bar:
            for number, piece in enumerate(self.source.pieces()):
                if number % stride:
                    continue
                items = self.reader.read([piece])
                texts = [item.text for split, item in items if split == "train" and isinstance(item, Document)]
                yield from texts
                size = sum(map(len, texts))
                taken += size
                bar.update(size)
                if stride == 1 and size and self.source.size and isinstance(piece, Piece) and piece.size:
                    total = self.source.size * size / piece.size  # as if all of it were compressed like this piece
                    budget = min(max(total * LEARN_SHARE, MIN_LEARN_BYTES), MAX_LEARN_BYTES)
                    stride = max(1, int(total / budget))
                if taken >= budget:
                    break
        if not taken:
            raise self.no_text()

    def dtype(self, tokenizer: Tokenizer) -> str:
        """The name of the dtype for the tokens; UserError if it cannot represent them."""
        smallest = token_dtype(tokenizer.vocab_size)
        if self.options.dtype == "auto":
            return smallest.name
        if smallest.itemsize > DTYPES[self.options.dtype].itemsize:
            self.files.discard()
            raise UserError(
                f"--dtype {self.options.dtype}: represents 65536 different tokens and the tokenizer has "
                f"{tokenizer.vocab_size}; use uint32"
            )
        return self.options.dtype

    def encode(self, workers: Workers, dtype: str) -> None:
        """Encode and append every unit that is not yet in the files."""
        done = self.files.state["units"]
        with self.bar("tokens", self.files.state["source_bytes"]) as bar:
            work = partial(self.encoder, str(self.directory), self.reader, dtype)
            for encoded in workers.map(work, islice(self.units(), done, None)):
                self.files.append(encoded)
                bar.update(encoded.size)

    def bar(self, what: str, initial: int = 0) -> tqdm:
        """A progress bar in bytes of the source."""
        options = {"unit": "B", "unit_scale": True, "dynamic_ncols": True, "delay": BAR_DELAY}
        return tqdm(total=self.source.size, initial=initial, desc=what, **options)

    def require_both_splits(self) -> None:
        """UserError if there is nothing to train on, or nothing to validate with."""
        counts = self.files.state["documents"]
        if all(self.files.state["bytes"].values()):
            return
        self.files.discard()
        if not any(counts.values()):
            raise self.no_text()
        if sum(counts.values()) == 1 and not self.source.is_text:
            raise UserError(f"{self.source.name}: needs at least two {self.noun}, so that one of them can validate")
        raise UserError(
            f"{self.source.name}: a validation share of {self.rule.val_share:g} leaves {counts['train']} {self.noun} "
            f"for training and {counts['val']} for validation; choose another --val-share"
        )

    def no_text(self) -> UserError:
        """The error for a source without text, with what was unreadable in it."""
        sampled = f" in a sample of {self.rule.sample:g}" if self.rule.sample < 1 else ""
        found = self.unreadable(self.units())
        first = next(found, None)
        reason = f"; unreadable: {first}{' and others' if next(found, None) else ''}" if first else ""
        return UserError(f"{self.source.name}: contains no text{sampled}{reason}")

    def unreadable(self, units: Iterable[Unit]) -> Iterator[Unreadable]:
        """Yield what cannot be read in some units."""
        return (item for unit in units for _, item in self.reader.read(unit) if isinstance(item, Unreadable))


def worker_count(options: PrepareOptions, size: int | None) -> int:
    """As many worker processes as asked for, but no more than a source of that size, if it is known, has units."""
    count = options.workers or available_cores()
    return count if size is None else max(1, min(count, size // UNIT_BYTES))


def automatic_share(source: Source) -> float:
    """A tenth for validation, but no more than evaluations can use."""
    return VAL_SHARE_OF_UNKNOWN_SIZE if source.size is None else min(VAL_SHARE, MAX_VAL_BYTES / max(source.size, 1))

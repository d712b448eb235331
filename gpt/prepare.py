"""From a corpus of any size to token files: `python -m gpt.prepare SOURCE --out DIR --tokenizer bpe`.

Floor 5, above `sources`, `token_files` and `workers`. First the tokenizer is found or learnt, then every piece
of the source is encoded and appended to `train.bin` or `val.bin`. On which side a document falls is decided
by a hash of its text, so neither the order of the files nor a second copy changes it. The same command goes on
after any end, to the same bytes. `docs/data.md` is the guide; `train.py --data DIR` trains from the result.
"""

import sys
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path

from tqdm import tqdm

from gpt.bpe import SMALLEST_VOCABULARY, BpeTokenizer
from gpt.characters import END_OF_TEXT, CharTokenizer
from gpt.cli import make_parser, parse, run_command
from gpt.config import build, check_options, option
from gpt.documents import Damage
from gpt.encoding import Choice, characters, encode
from gpt.errors import UserError
from gpt.sources import open_source
from gpt.token_files import TokenFiles
from gpt.tokenizer import find_tokenizer, load_tokenizer
from gpt.vocabulary import DTYPES, FILE_NAME, token_dtype
from gpt.workers import Workers
from tinytensor.parallel import available_cores

UNIT_BYTES = 1 << 21  # what one process does at a time: small files together, a large piece alone
VAL_SHARE, VAL_BYTES, VAL_SHARE_UNKNOWN = 0.1, 1 << 24, 0.01
# Text to learn merges from: more than a 32nd would take a good part of the time, more than 128 MiB adds nothing.
LEARN_SHARE, LEARN_LEAST, LEARN_MOST = 1 / 32, 1 << 23, 1 << 27
NAMES_SHOWN = 5


@dataclass(frozen=True)
class Settings:
    """How to prepare a corpus. Raises UserError for impossible values."""

    out: str = option("", "directory for the token files; an unfinished one is gone on with")
    tokenizer: str = option("bpe", "char, bpe (learnt from the text), gpt2, or a tokenizer's file or folder")
    vocab_size: int = option(8192, "tokens of a learnt bpe", at_least=SMALLEST_VOCABULARY)
    sample: float = option(1.0, "share of the documents to take", above=0, at_most=1)
    val_share: float = option(0.0, "share for validation; 0 is a tenth, at most 16 MiB", at_least=0, below=1)
    text_column: str = option("text", "column or key of the text in tables and JSON lines")
    dtype: str = option("auto", "type of a token number", choices=("auto", *DTYPES))
    streaming: bool = option(False, "read hf:NAME from the network as it comes, instead of downloading it first")
    workers: int = option(0, "processes, 0 for one on each core", at_least=0)

    def __post_init__(self):
        check_options(self)
        if not self.out:
            raise UserError("--out: must be given, the directory for the token files")


class Preparation:
    """A source on its way into token files."""

    def __init__(self, source, settings):
        self.source, self.settings = source, settings
        self.choice = Choice(settings.text_column, settings.sample, settings.val_share or automatic_share(source))
        self.directory = Path(settings.out)
        kept = {name: value for name, value in asdict(settings).items() if name not in ("out", "streaming", "workers")}
        decided = {"source": source.name, "size": source.size, "val_share": self.choice.val_share}
        self.files = TokenFiles(self.directory, kept | decided)

    def run(self):
        """Do all of it; returns the content of `meta.json`."""
        with Workers(self.processes()) as workers:
            tokenizer = self.tokenizer(workers)
            dtype = self.dtype(tokenizer)
            with self.files:
                self.encode(workers, dtype)
        self.require_both_splits()
        return self.files.finish(self.source.name, dtype, tokenizer.vocab_size)

    def processes(self):
        """As many as asked for, but no more than there are units."""
        count = self.settings.workers or available_cores()
        return count if self.source.size is None else max(1, min(count, self.source.size // UNIT_BYTES))

    def units(self):
        """Yield lists of pieces that are worth a process's while."""
        unit, size = [], 0
        for piece in self.source.pieces():
            unit.append(piece)
            size += 0 if isinstance(piece, Damage) else max(piece.size, len(piece.data))
            if size >= UNIT_BYTES:
                yield unit
                unit, size = [], 0
        if unit:
            yield unit

    def tokenizer(self, workers):
        """The tokenizer, saved in the directory: the one there, if this goes on, else found or learnt."""
        if (self.directory / FILE_NAME).exists():
            return load_tokenizer(self.directory)
        try:
            tokenizer = self.make_tokenizer(workers)
        except UserError:
            self.files.discard()
            raise
        tokenizer.save(self.directory)
        return tokenizer

    def make_tokenizer(self, workers):
        name = self.settings.tokenizer
        if name == "char":
            return CharTokenizer(self.learn_characters(workers) + END_OF_TEXT)
        if name == "bpe":
            return BpeTokenizer.train(self.learning_texts(), self.settings.vocab_size)
        tokenizer = find_tokenizer(name)
        if tokenizer.end_of_text is None:
            raise UserError(f"--tokenizer {name}: has no token for the end of a text, which separates documents")
        return tokenizer

    def learn_characters(self, workers):
        """Every character of the documents, which takes a pass over all of them."""
        seen = set()
        with self.bar("characters") as bar:
            for found, size in workers.map(partial(characters, self.choice), self.units()):
                seen |= set(found)
                bar.update(size)
        if not seen:
            raise self.empty()
        return "".join(seen)

    def learning_texts(self):
        """Yield the texts to learn merges from: the training documents of pieces spread over the source."""
        taken, budget, stride = 0, LEARN_LEAST, 1
        with tqdm(unit="B", unit_scale=True, desc="learn merges", dynamic_ncols=True) as bar:
            for number, piece in enumerate(self.source.pieces()):
                if number % stride:
                    continue
                texts = [item.text for split, item in self.choice.documents([piece]) if split == "train"]
                yield from texts
                size = sum(map(len, texts))
                taken += size
                bar.update(size)
                if stride == 1 and size and self.source.size and piece.size:
                    total = self.source.size * size / piece.size  # as if all of it were compressed like this piece
                    budget = min(max(total * LEARN_SHARE, LEARN_LEAST), LEARN_MOST)
                    stride = max(1, int(total / budget))
                if taken >= budget:
                    break
        if not taken:
            raise self.empty()

    def dtype(self, tokenizer):
        """The name of the type for the tokens; UserError if it cannot hold them."""
        smallest = token_dtype(tokenizer.vocab_size)
        if self.settings.dtype == "auto":
            return smallest.name
        if smallest.itemsize > DTYPES[self.settings.dtype].itemsize:
            self.files.discard()
            raise UserError(
                f"--dtype {self.settings.dtype}: holds 65536 different tokens and the tokenizer has "
                f"{tokenizer.vocab_size}; use uint32"
            )
        return self.settings.dtype

    def encode(self, workers, dtype):
        """Encode and append every unit that is not yet in the files."""
        done = self.files.state["units"]
        with self.bar("tokens", self.files.state["source_bytes"]) as bar:
            work = partial(encode, str(self.directory), self.choice, dtype)
            for encoded in workers.map(work, islice(self.units(), done, None)):
                self.files.append(encoded)
                bar.update(encoded.size)

    def bar(self, what, initial=0):
        """A progress bar in bytes of the source."""
        return tqdm(total=self.source.size, initial=initial, unit="B", unit_scale=True, desc=what, dynamic_ncols=True)

    def require_both_splits(self):
        """UserError if there is nothing to train on, or nothing to validate with."""
        counts = self.files.state["documents"]
        if all(counts.values()):
            return
        self.files.discard()
        if not any(counts.values()):
            raise self.empty()
        raise UserError(
            f"--val-share {self.choice.val_share:g}: gives {counts['train']} documents to training and "
            f"{counts['val']} to validation; choose another share"
        )

    def empty(self):
        """The error of a source without text."""
        sampled = f" in a sample of {self.choice.sample:g}" if self.choice.sample < 1 else ""
        found = (str(item) for unit in self.units() for split, item in self.choice.documents(unit) if not split)
        first = next(found, None)
        reason = f": damaged are {first}{' and others' if next(found, None) else ''}" if first else ""
        return UserError(f"{self.source.name}: holds no text{sampled}{reason}")


def automatic_share(source):
    """A tenth for validation, but no more than evaluations can use."""
    return VAL_SHARE_UNKNOWN if source.size is None else min(VAL_SHARE, VAL_BYTES / max(source.size, 1))


def report(content, directory):
    """Print what was made, and on stderr what could not be read."""
    damaged, names = content["damaged"], content["damaged_names"]
    if damaged:
        more = f" and {damaged - NAMES_SHOWN} more, named in {FILE_NAME}" if damaged > NAMES_SHOWN else ""
        print(f"skipped {damaged} damaged: {'; '.join(names[:NAMES_SHOWN])}{more}", file=sys.stderr)
    for split in ("train", "val"):
        print(f"{split}: {content[split]:,} tokens of {content['documents'][split]:,} documents")
    print(f"from {content['text_bytes']:,} bytes of text, {content['vocab_size']:,} different tokens")
    print(f"to train: python train.py --data {directory}")


def main(argv=None):
    """The command: prepare, or go on preparing."""
    groups = {"how to prepare": Settings}
    parser = make_parser("python -m gpt.prepare SOURCE --out DIR", "Turn a corpus into token files.", groups)
    parser.add_argument("source", metavar="SOURCE", help="a file, folder, archive, table, hf:NAME, pydocs or stdlib")
    given = parse(parser, groups, argv)
    settings = build(Settings, given)
    source = open_source(given["source"], settings.text_column, settings.streaming)
    preparation = Preparation(source, settings)
    if preparation.files.going_on:
        print(f"going on after {preparation.files.state['source_bytes']:,} bytes of {source.name}")
    report(preparation.run(), settings.out)
    return 0


def console_script():
    """The exit code of the command `tinytensor-prepare`."""
    return run_command(main)


if __name__ == "__main__":
    sys.exit(console_script())

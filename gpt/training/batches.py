"""From a corpus to batches of token numbers.

Floor 5, above `corpora` and `vocabulary`. `prepare` writes the tokens to two files that are mapped, not
loaded, so memory stays constant however long the text is; files that `gpt.prepare` has written are used where
they are. Which windows make the batch of a step is a pure
function of (seed, step): nothing has to be saved to resume, and splitting a batch changes no sample. Read
`gpt.model.gpt` next.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import tinytensor as tt
from gpt.errors import UserError
from gpt.files import replace_json
from gpt.tokenizers.files import token_dtype

TRAIN_SHARE = 0.9
FILE_NAME = "meta.json"
FORMAT = "tinytensor tokens 1"
STATE = "state.json"  # of a preparation that is not finished


@dataclass(frozen=True)
class Tokens:
    """The two splits of a corpus as read-only memory-mapped arrays of token numbers."""

    train: np.ndarray
    val: np.ndarray
    source: str


def measure(corpus, block_size):
    """Characters in a corpus; UserError if they are too few for one window in either split."""
    length = sum(len(piece) for piece in corpus.pieces())
    if length == 0:
        raise UserError(f"--data {corpus.name}: is empty")
    val = length - int(length * TRAIN_SHARE)
    if val <= block_size:
        raise UserError(
            f"--data {corpus.name}: {length} characters leave {val} for validation, fewer than the "
            f"{block_size + 1} of one window: use a longer text or a smaller --block-size"
        )
    return length


def prepare(corpus, tokenizer, length, directory):
    """Write `train.bin` (the first nine tenths of the text), `val.bin` and `meta.json` into `directory`."""
    directory = Path(directory)
    boundary, dtype = int(length * TRAIN_SHARE), token_dtype(tokenizer.vocab_size)
    counts, position = {"train": 0, "val": 0}, 0
    with open(directory / "train.bin", "wb") as train, open(directory / "val.bin", "wb") as val:
        for piece in corpus.pieces():
            cut = max(0, boundary - position)  # characters of this piece that still belong to the training split
            for name, file, text in (("train", train, piece[:cut]), ("val", val, piece[cut:])):
                ids = tokenizer.encode(text)
                file.write(ids.tobytes())
                counts[name] += len(ids)
            position += len(piece)
    content = {"format": FORMAT, "source": f"{corpus.name} {corpus.note}".strip(), "dtype": dtype.str, **counts}
    (directory / FILE_NAME).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def is_prepared(name):
    """Whether `--data name` is a directory that `python -m gpt.prepare` has finished. UserError if only begun."""
    if (Path(name) / STATE).is_file() and not (Path(name) / FILE_NAME).exists():
        raise UserError(f"--data {name}: is not finished; give the same python -m gpt.prepare command again")
    try:
        content = json.loads((Path(name) / FILE_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.get("format") == FORMAT


def link_tokens(prepared, block_size, directory):
    """Write a `meta.json` into `directory` that points at prepared tokens; UserError if they are too few."""
    tokens, prepared = open_tokens(prepared), Path(prepared).resolve()
    for name, array in (("train", tokens.train), ("val", tokens.val)):
        if len(array) <= block_size:
            raise UserError(
                f"--data {prepared}: has {len(array)} tokens in {name}.bin, fewer than the {block_size + 1} of one "
                "window: use a longer text or a smaller --block-size"
            )
    content = json.loads((prepared / FILE_NAME).read_text(encoding="utf-8"))
    replace_json(Path(directory) / FILE_NAME, {**content, "directory": str(prepared)})


def open_tokens(directory):
    """The Tokens in a directory, or those it points at; UserError if a file is missing or not what it was."""
    path = Path(directory) / FILE_NAME
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if "directory" in content:
            path = require_same(content)
        dtype = np.dtype(content["dtype"])
        train, val = (_map(path.parent / f"{name}.bin", dtype, content[name]) for name in ("train", "val"))
        return Tokens(train, val, content["source"])
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: damaged or missing ({error})") from None


def require_same(content):
    """The path of the `meta.json` that a run's points at; UserError if the tokens there are now others."""
    path = Path(content["directory"]) / FILE_NAME
    if json.loads(path.read_text(encoding="utf-8"))["sha256"] != content["sha256"]:
        raise UserError(f"{path}: is of other tokens than those the run was created with")
    return path


def _map(path, dtype, count):
    """The `count` tokens of a file, mapped."""
    if path.stat().st_size != count * dtype.itemsize:
        raise UserError(f"{path}: damaged, {path.stat().st_size} bytes instead of {count * dtype.itemsize}")
    return np.memmap(path, dtype=dtype, mode="r")


def windows(tokens, starts, block_size):
    """Inputs and targets, (B, T) int64 each, of the windows of T = block_size tokens at `starts` (B,)."""
    block = np.asarray(tokens[starts[:, None] + np.arange(block_size + 1)], dtype=np.int64)  # (B, T + 1)
    return np.ascontiguousarray(block[:, :-1]), np.ascontiguousarray(block[:, 1:])


class Batches:
    """Random windows of a token array; the i-th window of a step depends on (seed, step, i) alone."""

    def __init__(self, tokens, block_size, batch_size, seed):
        self.tokens, self.block_size, self.batch_size, self.seed = tokens, block_size, batch_size, seed

    def starts(self, step, first, count):
        """Where windows `first` to `first + count` of a step begin: (count,) int64, uniform."""
        # random_raw, unlike Generator.integers, is the same stream in every version of NumPy
        raw = np.random.Philox(key=tt.fold(self.seed, "batch", step)).random_raw(first + count)[first:]
        uniform = (raw >> np.uint64(11)) * 2.0**-53
        return (uniform * (len(self.tokens) - self.block_size)).astype(np.int64)

    def batch(self, step, micro=0):
        """Inputs and targets, (B, T) each, of a micro-batch: the next B windows of the step's sequence."""
        return windows(self.tokens, self.starts(step, micro * self.batch_size, self.batch_size), self.block_size)


class EvalWindows:
    """A fixed set of windows, spread evenly over a token array; iterate for (B, T) inputs and targets."""

    def __init__(self, tokens, block_size, batch_size, batches):
        self.tokens, self.block_size = tokens, block_size
        spread = np.arange(batches * batch_size) * (len(tokens) - block_size) // (batches * batch_size)
        self.starts = spread.reshape(batches, batch_size)

    def __len__(self):
        return len(self.starts)

    def __iter__(self):
        return (windows(self.tokens, starts, self.block_size) for starts in self.starts)

"""Where prepared corpora come from: files, folders, archives, tables and the Hugging Face hub.

Floor 5, above `corpora` and `documents`. A source is read once from front to back, in pieces of a few
megabytes, which only this process reads and any process unpacks, so memory does not depend on its size. The
same source gives the same pieces in the same order. Read `gpt.prepare` next.
"""

import gzip
import lzma
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

from gpt.corpus.documents import (
    DAMAGED,
    GZIP,
    SEPARATOR,
    XZ,
    Damage,
    Piece,
    compression,
    is_json_lines,
    is_tar,
    missing_column,
    tar_members,
)
from gpt.corpus.embedded import EMBEDDED
from gpt.errors import UserError
from gpt.options import nearest

PIECE_BYTES = 1 << 22
WHOLE_BYTES = 1 << 23  # a file up to this size is one piece; a larger one is read in parts
LONGEST_DOCUMENT = 1 << 26  # bytes; in a file with separators, one without an end is cut here
BATCH_ROWS = 1000
HUB = "hf:"
OPENERS = {XZ: lzma.open, GZIP: gzip.open}
TABLE_SUFFIXES = (".parquet", ".arrow", ".feather")


@dataclass(frozen=True)
class Source:
    """A corpus to prepare; `pieces()` yields its Pieces and Damages anew. `size` in bytes, None if unknown."""

    name: str
    size: int | None
    pieces: Callable[[], Iterator]


def open_source(name, column, streaming):
    """The source `name`, of the kinds that `docs/data.md` lists. UserError if there is none."""
    if name.startswith(HUB):
        return hub_source(name, column, streaming)
    if name in EMBEDDED:
        return embedded_source(name)
    path = Path(name)
    if not path.exists():
        hint = nearest(name, EMBEDDED) or f", nor one of {', '.join(EMBEDDED)}, nor {HUB}NAME"
        raise UserError(f"{name}: no such file or folder{hint}")
    size = sum(file.stat().st_size for file in files(path))
    lone = len(list(islice(files(path), 2))) == 1
    return Source(name, size, lambda: chain.from_iterable(file_pieces(file, column, lone) for file in files(path)))


def files(path):
    """Yield a file, or the files below a folder sorted by name, without a list of all; hidden ones are left out."""
    if not path.is_dir():
        yield path
        return
    for child in (path / name for name in sorted(os.listdir(path)) if not name.startswith(".")):
        if child.is_file() or (child.is_dir() and not child.is_symlink()):  # a link may lead back up
            yield from files(child)


def embedded_source(name):
    """The corpus that every Python carries under this name."""
    corpus = EMBEDDED[name]()
    texts = [piece.encode("utf-8") for piece in corpus.pieces()]
    size = sum(map(len, texts))
    return Source(name, size, lambda: (Piece(name, text, len(text), sections=True) for text in texts if text.strip()))


def file_pieces(path, column, lone=False):
    """Yield the pieces of one file. A lone text file is cut into sections: it has no documents else."""
    try:
        if path.suffix in TABLE_SUFFIXES:
            yield from table_pieces(path, column)
        else:
            yield from byte_pieces(path, lone)
    except DAMAGED as error:
        yield Damage(str(path), f"the rest of it is skipped: {error or type(error).__name__}")


def byte_pieces(path, lone):
    """Yield the pieces of a text, JSON lines or archive file, compressed or not."""
    with open(path, "rb") as raw:
        size, magic = path.stat().st_size, compression(raw.peek(8))
        if size <= WHOLE_BYTES and (magic or not lone):
            yield from whole_file(path, raw, size)
            return
        opened = OPENERS[magic](raw) if magic else raw
        stream = Stream(opened, raw, str(path))
        yield from stream.members() if is_tar(stream.head()) else stream.blocks()


def whole_file(path, raw, size):
    """Yield a small file as one piece; a tar archive as its members, so that damage in one stays in it."""
    if is_tar(raw.peek(512)):
        yield from Stream(raw, raw, str(path)).members()
    else:
        yield Piece(str(path), raw.read(), size)


class Stream:
    """A file that is read from front to back, and how far: `raw` is the file on the disk below the decompression."""

    def __init__(self, file, raw, name):
        self.file, self.raw, self.name = file, raw, name
        self.counted = 0

    def head(self):
        """The first bytes, which stay to be read."""
        return self.file.peek(512)

    def advance(self):
        """Bytes of the file on the disk since the last call."""
        before, self.counted = self.counted, self.raw.tell()
        return self.counted - before

    def members(self):
        """Yield a piece for each file in a tar archive."""
        for name, data in tar_members(self.file):
            yield Piece(f"{self.name}/{name}", data, self.advance())

    def blocks(self):
        """Yield pieces of a long text, each up to a place where it may be cut."""
        pending, offset, sections = b"", 0, True
        while block := self.file.read(PIECE_BYTES):
            pending += block
            sections = sections and SEPARATOR.encode() not in pending
            if stop := last_break(pending, is_json_lines(self.name), sections):
                yield Piece(self.name, pending[:stop], self.advance(), sections, offset, last=False)
                pending, offset = pending[stop:], offset + stop
        if pending:
            yield Piece(self.name, pending, self.advance(), sections, offset)


def last_break(data, json_lines, sections):
    """Where a block may end, or 0: behind a line of JSON, a separator, else a paragraph, line, word or character."""
    if json_lines:
        return data.rfind(b"\n") + 1
    if not sections and len(data) < LONGEST_DOCUMENT:
        return data.rfind(SEPARATOR.encode()) + len(SEPARATOR) if SEPARATOR.encode() in data else 0
    for mark in (b"\n\n", b"\n", b" "):
        if (found := data.rfind(mark)) >= 0:
            return found + len(mark)
    stop = len(data)
    while stop and data[stop - 1] & 0xC0 == 0x80:  # back to the first byte of the last character, which may be cut
        stop -= 1
    return max(stop - 1, 0)


def table_pieces(path, column):
    """Yield the texts of a Parquet or Arrow file, a few rows at a time."""
    with needing("pyarrow"):
        import pyarrow as arrow
        import pyarrow.parquet
    try:
        with arrow.OSFile(str(path), "rb") as file:
            reader = parquet_batches if path.suffix == ".parquet" else arrow_batches
            for batch, size in reader(arrow, file, path.name, column):
                texts = [text for text in batch.column(column).to_pylist() if text]
                yield Piece(str(path), texts, size)
    except arrow.ArrowInvalid as error:
        raise OSError(str(error)) from None


def parquet_batches(arrow, file, name, column):
    """Yield batches of rows and the bytes they take, a share of the file's by their number."""
    parquet = arrow.parquet.ParquetFile(file)
    if column not in parquet.schema_arrow.names:
        raise missing_column(name, column, parquet.schema_arrow.names)
    size, rows, done = file.size(), parquet.metadata.num_rows, 0
    for batch in parquet.iter_batches(BATCH_ROWS, columns=[column]):
        before, done = done, done + batch.num_rows
        yield batch, size * done // rows - size * before // rows


def arrow_batches(arrow, file, name, column):
    """Yield batches of rows and the bytes they take, of Arrow's file format or its stream format."""
    is_file = file.read(6) == b"ARROW1"
    file.seek(0)
    reader = arrow.ipc.open_file(file) if is_file else arrow.ipc.open_stream(file)
    if column not in reader.schema.names:
        raise missing_column(name, column, reader.schema.names)
    batches = map(reader.get_batch, range(reader.num_record_batches)) if is_file else reader
    for batch in batches:
        for start in range(0, batch.num_rows, BATCH_ROWS):
            rows = batch.slice(start, BATCH_ROWS)
            yield rows, rows.nbytes


def hub_source(name, column, streaming):
    """The training split of a data set on the hub, `hf:NAME` or `hf:NAME:CONFIGURATION`."""
    path, _, configuration = name.removeprefix(HUB).partition(":")
    with needing("datasets"):
        import datasets
    with reaching_hub(name):
        dataset = datasets.load_dataset(path, configuration or None, split="train", streaming=streaming)

    def pieces():
        with reaching_hub(name):
            for batch in dataset.iter(BATCH_ROWS):
                if column not in batch:
                    raise missing_column(name, column, batch)
                texts = [text for text in batch[column] if text]
                yield Piece(name, texts, sum(map(len, texts)))

    return Source(name, None if streaming else dataset.size_in_bytes, pieces)


@contextmanager
def reaching_hub(name):
    """Turn what goes wrong between here and the hub into a UserError with the way around it."""
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"{name}: cannot be read from the hub ({reason}); for a local copy, download its files "
            "elsewhere and give their folder as SOURCE"
        ) from None


@contextmanager
def needing(package):
    """Turn the failure to import an optional package into a UserError that says how to install it."""
    try:
        yield
    except ImportError:
        raise UserError(f"reading this needs {package}: pip install 'tinytensor[data]'") from None

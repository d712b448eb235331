"""Where a corpus comes from: files, folders, archives, tables, the Hugging Face hub, or this Python.

A source is read once from front to back, in pieces of a few megabytes that any process can unpack, so memory does not
depend on its size. The same source gives the same pieces in the same order.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from gpt.corpus.documents import SEPARATOR
from gpt.corpus.folders import EMBEDDED, Files, files, pydocs, stdlib
from gpt.corpus.formats.archives import (
    READ_ERRORS,
    TOO_LARGE,
    UnpacksTooFar,
    compression,
    decompressed,
    is_tar,
    is_zip,
    read_whole,
    tar_members,
    zip_members,
)
from gpt.corpus.formats.rows import MAX_DOCUMENT_BYTES, read_csv, row_format
from gpt.corpus.formats.tables import TABLE_SUFFIXES, open_hub_dataset, table_pieces
from gpt.corpus.pieces import Piece, Unreadable
from gpt.errors import UserError, did_you_mean
from gpt.options import HUB

PIECE_BYTES = 1 << 22
WHOLE_BYTES = 1 << 23  # a document up to this size is one piece; a larger file is read in parts
MIN_FILES = 100  # in a folder with fewer, each text file is a text to be split, not a document
END = SEPARATOR.encode()


@dataclass(frozen=True)
class Source:
    """A corpus to prepare. `pieces()` yields its Pieces and Unreadables, each time from the start.

    size: in bytes, None if unknown. is_text: whether it is one text that does not consist of documents.
    """

    name: str
    size: int | None
    pieces: Callable[[], Iterator[Piece | Unreadable]]
    is_text: bool = False


def open_source(name: str, column: str = "text", streaming: bool = False) -> Source:
    """The source `name`, of the kinds that `docs/data.md` lists. UserError if there is none."""
    if not name:
        raise UserError("the name of the source is empty: give a file or folder, or . for this one")
    if name.startswith(HUB):
        return Source(*open_hub_dataset(name, column, streaming))
    if name == "pydocs":
        text = pydocs()
        size = len(text.encode("utf-8"))
        return Source(name, size, lambda: text_pieces(name, text), is_text=True)
    if name == "stdlib":
        return file_source(name, stdlib(), column)
    path = Path(name)
    if not path.exists():
        hint = did_you_mean(name, EMBEDDED) or f", nor one of {', '.join(EMBEDDED)}, nor {HUB}NAME"
        raise UserError(f"{name}: no such file or folder{hint}")
    if not path.is_dir() and not path.is_file():
        raise UserError(f"{name}: is neither a file nor a folder, but a pipe or device; write its content to a file")
    if not any(True for _ in files(path)):
        raise UserError(f"{name}: the folder contains no files")
    return file_source(name, Files(path), column)


def text_pieces(name: str, text: str) -> Iterator[Piece]:
    """Yield the pieces of a text in memory that does not consist of documents."""
    data = text.encode("utf-8")
    yield Piece(name, data, len(data), length=len(text))


def file_source(name: str, paths: Iterable[Path], column: str) -> Source:
    """The source that consists of some files. `paths` can be iterated repeatedly."""
    count, size = 0, 0
    for path in paths:
        count, size = count + 1, size + path.stat().st_size
    pieces = partial(file_pieces, column=column, texts=count < MIN_FILES)
    only_text = count == 1 and is_text(next(iter(paths)))
    return Source(name, size, lambda: chain.from_iterable(map(pieces, paths)), only_text)


def file_pieces(path: Path, column: str, texts: bool) -> Iterator[Piece | Unreadable]:
    """Yield the pieces of one file. texts: a text file without separators is not one document."""
    try:
        if path.suffix in TABLE_SUFFIXES:
            yield from table_pieces(path, column)
        elif row_format(path.name) in ("csv", "tsv"):
            yield from csv_pieces(path, column)
        else:
            yield from byte_pieces(path, texts)
    except READ_ERRORS as error:
        yield Unreadable(str(path), f"the rest of it is skipped: {error or type(error).__name__}")


def csv_pieces(path: Path, column: str) -> Iterator[Piece | Unreadable]:
    """Yield the texts of a CSV or TSV file, a few megabytes of them at a time; only its reader knows where rows end."""
    with open(path, "rb") as raw:
        stream, texts, size = Stream(decompressed(raw), raw, str(path)), [], 0
        for item in read_csv(str(path), stream.file, column):
            if isinstance(item, Unreadable):
                yield item
                continue
            texts.append(item.text)
            size += len(item.text)
            if size >= PIECE_BYTES:
                yield Piece(str(path), texts, stream.advance())
                texts, size = [], 0
        if texts:
            yield Piece(str(path), texts, stream.advance())


def byte_pieces(path: Path, texts: bool) -> Iterator[Piece | Unreadable]:
    """Yield the pieces of a text, JSON or archive file, compressed or not."""
    with open(path, "rb") as raw:
        size = path.stat().st_size
        length = text_length(path) if texts or size > WHOLE_BYTES else None
        stream = Stream(decompressed(raw), raw, str(path))
        if is_zip(path.name, raw.peek(4)):
            yield from zip_pieces(str(path), raw)
        elif row_format(path.name) == "json":
            yield json_piece(stream, size)
        elif length is None and size <= WHOLE_BYTES:
            yield from whole_file(path, raw, size)
        else:
            yield from stream.members() if is_tar(stream.head()) else stream.blocks(length)


def zip_pieces(name: str, raw: BinaryIO) -> Iterator[Piece | Unreadable]:
    """Yield a piece for each file in a zip archive."""
    for member in zip_members(name, raw):
        yield member if isinstance(member, Unreadable) else Piece(member.name, member.data, member.stored)


def json_piece(stream: "Stream", size: int) -> Piece | Unreadable:
    """A `.json` as one piece, since it has no place where it may be cut."""
    data = read_whole(stream.file)
    if data is None:
        return Unreadable(stream.name, f"{TOO_LARGE}; a .jsonl, with an object in each line, can be of any size")
    return Piece(stream.name, data, size)


def whole_file(path: Path, raw: Any, size: int) -> Iterator[Piece | Unreadable]:
    """Yield a small file as one piece; a tar archive as its members, so that a corrupt one does not affect the rest."""
    if is_tar(raw.peek(512)):
        yield from Stream(raw, raw, str(path)).members()
    else:
        yield Piece(str(path), raw.read(), size)


def is_text(path: Path) -> bool:
    """Whether a file is a text that does not consist of documents."""
    try:
        return text_length(path) is not None
    except UnpacksTooFar:
        return False


def text_length(path: Path) -> int | None:
    """The characters of a text file, compressed or not, that does not consist of documents; otherwise None.

    If the file cannot be read to its end, they are counted up to there. Raises UnpacksTooFar.
    """
    if path.suffix in TABLE_SUFFIXES or row_format(path.name):
        return None
    length, last = 0, b""
    try:
        with open(path, "rb") as raw:
            file = decompressed(raw)
            head = file.peek(512)
            if is_tar(head) or is_zip(path.name, head) or (file is not raw and compression(head)):
                return None
            while block := file.read(PIECE_BYTES):
                if END in last + block:
                    return None
                length, last = length + count_characters(block), (last + block)[1 - len(END) :]
    except UnpacksTooFar:
        raise
    except READ_ERRORS:
        pass  # reading the pieces will report it
    return length


def count_characters(data: bytes) -> int:
    """The characters that begin in a block of UTF-8: all bytes but the continuation bytes 0x80 to 0xBF."""
    return int(np.count_nonzero(np.frombuffer(data, np.int8) >= -64))


class Stream:
    """A file that is read from front to back, and how far: `raw` is the file on the disk below the decompression."""

    def __init__(self, file: Any, raw: BinaryIO, name: str):
        self.file, self.raw, self.name = file, raw, name
        self.counted = 0

    def head(self) -> bytes:
        """The first bytes, which are still to be read."""
        return self.file.peek(512)

    def advance(self) -> int:
        """Bytes of the file on the disk since the last call."""
        before, self.counted = self.counted, self.raw.tell()
        return self.counted - before

    def members(self) -> Iterator[Piece | Unreadable]:
        """Yield a piece for each file in a tar archive."""
        for member in tar_members(self.name, self.file):
            yield member if isinstance(member, Unreadable) else Piece(member.name, member.data, self.advance())

    def blocks(self, length: int | None) -> Iterator[Piece]:
        """Yield pieces of a file, each up to a place where it may be cut. length: see Piece."""
        pending, offset, position = b"", 0, 0
        lines = row_format(self.name) == "lines"
        while block := self.file.read(PIECE_BYTES):
            pending += block
            if stop := last_break(pending, lines, length is not None):
                yield Piece(self.name, pending[:stop], self.advance(), offset, position, length)
                position += count_characters(pending[:stop])
                pending, offset = pending[stop:], offset + stop
            elif len(pending) > MAX_DOCUMENT_BYTES:  # others would have been cut
                raise OSError(f"the line at byte {offset} has more than {MAX_DOCUMENT_BYTES >> 20} MiB")
        if pending:
            yield Piece(self.name, pending, self.advance(), offset, position, length)


def last_break(data: bytes, json_lines: bool, is_text: bool) -> int:
    """Where a block may end, or 0: after a line of JSON or a separator; else a paragraph, line, word or character."""
    if json_lines:
        return data.rfind(b"\n") + 1
    if not is_text and len(data) < MAX_DOCUMENT_BYTES:
        return data.rfind(END) + len(END) if END in data else 0
    for mark in (b"\n\n", b"\n", b" "):
        if (found := data.rfind(mark)) >= 0:
            return found + len(mark)
    stop = len(data)
    while stop and data[stop - 1] & 0xC0 == 0x80:  # back to the first byte of the last character, which may be cut
        stop -= 1
    return max(stop - 1, 0)

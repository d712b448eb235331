"""From a piece of a source to its documents: archives are opened, lines parsed, texts cut at separators.

A pure function of the piece, so any process can do it. What cannot be read becomes an `Unreadable` in the stream
instead of ending it.
"""

import gzip
import json
import lzma
import re
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import Any, BinaryIO

from gpt.errors import UserError

SEPARATOR = "<|endoftext|>"  # how text files of many documents, such as TinyStories, mark the end of each

XZ, GZIP = b"\xfd7zXZ\x00", b"\x1f\x8b"  # magic numbers; neither can begin a UTF-8 text
DECOMPRESS: dict[bytes, Callable[[bytes], bytes]] = {XZ: lzma.decompress, GZIP: gzip.decompress}
JSON_LINES = re.compile(r"\.(jsonl|ndjson)(\.(xz|gz))?$")
# tarfile's own names for these are not in its type stubs
CORRUPT_HEADER: Any = (tarfile.InvalidHeaderError, tarfile.TruncatedHeaderError, tarfile.EmptyHeaderError)  # type: ignore
READ_ERRORS = (lzma.LZMAError, zlib.error, EOFError, OSError, tarfile.TarError)


@dataclass(frozen=True)
class Piece:
    """A few megabytes of a source: the bytes of a file, archive member or range, or the texts of some rows.

    size: how many of the source's bytes it accounts for. offset: where `data` begins in its file, in bytes. If the file
    is a text that does not consist of documents, `length` is the number of characters of all of it, and `data` begins
    at character `position`.
    """

    name: str
    data: bytes | list[str]
    size: int
    offset: int = 0
    position: int = 0
    length: int | None = None


@dataclass(frozen=True)
class Document:
    """A text, and whether the document ends there or continues in the next one."""

    text: str
    ends: bool = True


@dataclass(frozen=True)
class Passage:
    """Part of a text that does not consist of documents: from character `position`, of `length` in all."""

    text: str
    position: int
    length: int


@dataclass(frozen=True)
class Unreadable:
    """Something that could not be read, and why."""

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name} ({self.reason})"


Item = Document | Passage | Unreadable


def read_piece(piece: Piece | Unreadable, column: str) -> Iterator[Item]:
    """What a piece contains. `column` names the text in a JSON object. Raises UserError if a row has no such key."""
    if isinstance(piece, Unreadable):
        return iter([piece])
    if isinstance(piece.data, list):
        return iter([Document(str(text)) for text in piece.data])
    if piece.length is not None:
        return iter([read_passage(piece.name, piece.data, piece.offset, piece.position, piece.length)])
    try:
        return iter(list(unpack(piece.name, piece.data, column, piece.offset)))  # all of it or nothing
    except READ_ERRORS as error:
        return iter([Unreadable(piece.name, str(error) or type(error).__name__)])


def unpack(name: str, data: bytes, column: str, offset: int = 0) -> Iterator[Document | Unreadable]:
    """Yield the documents of a file's bytes, through any number of nested archives and compressions."""
    if magic := compression(data):
        yield from unpack(name, DECOMPRESS[magic](data), column)
    elif is_tar(data):
        for member, content in tar_members(BytesIO(data)):
            yield from unpack(f"{name}/{member}", content, column)
    elif is_json_lines(name):
        yield from read_json_lines(name, data, column, offset)
    else:
        yield from read_text(name, data, offset)


def compression(data: bytes) -> bytes | None:
    """The magic number (a key of DECOMPRESS) that the bytes begin with, or None."""
    return next((magic for magic in DECOMPRESS if data.startswith(magic)), None)


def is_tar(data: bytes) -> bool:
    """Whether bytes begin with the header of a tar archive."""
    return data[257:262] == b"ustar"


def is_json_lines(name: str) -> bool:
    """Whether a file, compressed or not, has a JSON object in each line, judging by its name."""
    return JSON_LINES.search(name) is not None


class StrictTarInfo(tarfile.TarInfo):
    """`tarfile` takes a corrupt or missing header for the end of the archive; this makes it an error."""

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> "StrictTarInfo":
        """The next member's header."""
        try:
            return super().fromtarfile(tarfile_)
        except CORRUPT_HEADER as error:
            raise tarfile.SubsequentHeaderError(str(error)) from None  # type: ignore[attr-defined]


def tar_members(file: BinaryIO) -> Iterator[tuple[str, bytes]]:
    """Yield (name, bytes) of the files in an uncompressed tar archive, read from front to back."""
    with tarfile.open(fileobj=file, mode="r|", tarinfo=StrictTarInfo) as tar:
        while member := tar.next():
            if content := tar.extractfile(member):  # None for a directory or link
                yield member.name, content.read()
            tar.members.clear()  # type: ignore[attr-defined]  # otherwise it remembers all of them


def read_json_lines(name: str, data: bytes, column: str, position: int) -> Iterator[Document | Unreadable]:
    """Yield the texts under the key `column`, one per line; the first line begins at byte `position`."""
    for line in data.split(b"\n"):
        where, position = position, position + len(line) + 1
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            yield Unreadable(name, f"the line at byte {where} is not JSON: {error}")
            continue
        if not isinstance(row, dict) or column not in row:
            raise missing_column(name, column, row if isinstance(row, dict) else ())
        if row[column]:
            yield Document(str(row[column]))


def missing_column(name: str, column: str, columns: Iterable[str]) -> UserError:
    """The error for a table without the text's column."""
    names = ", ".join(columns)
    has = f"its columns are {names}" if names else "it has no named columns"
    return UserError(f"--text-column {column}: {name} has no such column, {has}")


def read_text(name: str, data: bytes, offset: int) -> Iterator[Document | Unreadable]:
    """Yield the documents between the separators of a text. An `offset` above 0 means that a separator came before."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        yield Unreadable(name, f"byte {offset + error.start} is not UTF-8")
        return
    if offset or SEPARATOR in text:
        # the line breaks around a separator belong to it
        yield from (Document(part.strip("\n")) for part in text.split(SEPARATOR) if part.strip())
    elif text.strip():
        yield Document(text)


def read_passage(name: str, data: bytes, offset: int, position: int, length: int) -> Passage | Unreadable:
    """A part of a text that does not consist of documents."""
    try:
        return Passage(data.decode("utf-8"), position, length)
    except UnicodeDecodeError as error:
        where = f"byte {offset + error.start} is not UTF-8"
        return Unreadable(name, f"{where}; the {len(data)} bytes from {offset} are skipped")

"""From a piece of a source to its documents: archives are opened, lines parsed, long texts cut.

Floor 5, above `errors`. A pure function of the piece, so that any process can do it (`gpt.prepare`). What
cannot be read becomes a `Damage` in the stream instead of an end of it. Read `gpt.corpus.sources` next, which cuts
a source into pieces.
"""

import gzip
import json
import lzma
import re
import tarfile
import zlib
from dataclasses import dataclass
from io import BytesIO

from gpt.errors import UserError

SEPARATOR = "<|endoftext|>"  # how text files of many documents, TinyStories for one, mark the end of each
SECTION = 1 << 14  # characters; a long text that is not made of documents is cut into such sections

XZ, GZIP = b"\xfd7zXZ\x00", b"\x1f\x8b"  # neither can begin a UTF-8 text
DECOMPRESS = {XZ: lzma.decompress, GZIP: gzip.decompress}
JSON_LINES = re.compile(r"\.(jsonl|ndjson)(\.(xz|gz))?$")
DAMAGED = (lzma.LZMAError, zlib.error, EOFError, OSError, tarfile.TarError)


@dataclass(frozen=True)
class Piece:
    """A few megabytes of a source: the bytes of a file, archive member or range, or texts that are read already.

    `size` is the number of the source's bytes that it accounts for. With `sections`, the bytes are a part of a
    longer text: that from `offset`, which goes on unless `last`.
    """

    name: str
    data: bytes | list
    size: int
    sections: bool = False
    offset: int = 0
    last: bool = True


@dataclass(frozen=True)
class Document:
    """A text, and whether it ends there or goes on in the next document."""

    text: str
    ends: bool = True


@dataclass(frozen=True)
class Damage:
    """What could not be read, and why."""

    name: str
    reason: str

    def __str__(self):
        return f"{self.name} ({self.reason})"


def documents(piece, column):
    """The documents of a piece and the Damages in it, an iterator. `column` names the text in a JSON object."""
    if isinstance(piece.data, list):
        return iter([Document(str(text)) for text in piece.data])
    if piece.sections and not is_json_lines(piece.name):
        return read_sections(piece)
    try:
        return iter(list(unpack(piece.name, piece.data, column, piece.offset)))  # whole or not at all
    except DAMAGED as error:
        return iter([Damage(piece.name, str(error) or type(error).__name__)])


def unpack(name, data, column, offset=0):
    """Yield the documents of a file's bytes, however deep they are in archives."""
    if decompress := DECOMPRESS.get(compression(data)):
        yield from unpack(name, decompress(data), column)
    elif is_tar(data):
        for member, content in tar_members(BytesIO(data)):
            yield from unpack(f"{name}/{member}", content, column)
    elif is_json_lines(name):
        yield from read_json_lines(name, data, column, offset)
    else:
        yield from read_text(name, data, offset)


def compression(data):
    """The magic number (a key of DECOMPRESS) that the bytes begin with, or None."""
    return next((magic for magic in DECOMPRESS if data.startswith(magic)), None)


def is_tar(data):
    """Whether bytes begin with the header of a tar archive."""
    return data[257:262] == b"ustar"


def is_json_lines(name):
    """Whether a file, compressed or not, holds a JSON object in each line, by its name."""
    return JSON_LINES.search(name) is not None


class StrictTarInfo(tarfile.TarInfo):
    """`tarfile` takes a damaged or missing header for the end of the archive; this makes it an error."""

    @classmethod
    def fromtarfile(cls, tar):
        try:
            return super().fromtarfile(tar)
        except (tarfile.InvalidHeaderError, tarfile.TruncatedHeaderError, tarfile.EmptyHeaderError) as error:
            raise tarfile.SubsequentHeaderError(str(error)) from None


def tar_members(file):
    """Yield (name, bytes) of the files in an uncompressed tar archive, read from front to back."""
    with tarfile.open(fileobj=file, mode="r|", tarinfo=StrictTarInfo) as tar:
        while member := tar.next():
            if member.isfile():
                yield member.name, tar.extractfile(member).read()
            tar.members.clear()  # else it remembers all of them


def read_json_lines(name, data, column, position):
    """Yield the texts under the key `column`, one a line; the first line begins at byte `position`."""
    for line in data.split(b"\n"):
        where, position = position, position + len(line) + 1
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            yield Damage(name, f"the line at byte {where} is no JSON: {error}")
            continue
        if not isinstance(row, dict) or column not in row:
            raise missing_column(name, column, row if isinstance(row, dict) else ())
        if row[column]:
            yield Document(str(row[column]))


def missing_column(name, column, columns):
    """The UserError for a table without the column of the text."""
    has = f"its columns are {', '.join(columns)}" if columns else "it has no named columns"
    return UserError(f"--text-column {column}: {name} has no such column, {has}")


def read_text(name, data, offset):
    """Yield the documents of a text: those between separators. Before `offset` there was one, if that is not 0."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        yield Damage(name, f"byte {offset + error.start} is not UTF-8")
        return
    if offset or SEPARATOR in text:
        yield from split(text)
    elif text.strip():
        yield Document(text)


def split(text):
    """Yield the documents between the separators of a text; the line breaks around a separator belong to it."""
    for part in text.split(SEPARATOR):
        if part.strip():
            yield Document(part.strip("\n"))


def read_sections(piece):
    """Yield the documents of a part of a long text: those between separators, or without one, sections of it."""
    try:
        text = piece.data.decode("utf-8")
    except UnicodeDecodeError as error:
        where = f"byte {piece.offset + error.start} is not UTF-8"
        yield Damage(piece.name, f"{where}; the {len(piece.data)} bytes from {piece.offset} are skipped")
        return
    if SEPARATOR in text:
        yield from split(text)
        return
    start = 0
    while start < len(text):
        stop = section_end(text, start + SECTION)
        yield Document(text[start:stop], ends=piece.last and stop == len(text))
        start = stop


def section_end(text, position):
    """A place to cut at or soon after `position`: behind a blank line if there is one, or a line, or a word."""
    if position >= len(text):
        return len(text)
    for mark in ("\n\n", "\n", " "):
        found = text.find(mark, position, position + SECTION)
        if found >= 0:
            return found + len(mark)
    return min(position + SECTION, len(text))

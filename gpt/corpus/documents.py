"""From a piece of a source to its documents: archives are opened, rows parsed, texts cut at separators.

A pure function of the piece, so any process can do it. What cannot be read becomes an `Unreadable` in the stream
instead of ending it.
"""

import io
from collections.abc import Iterator
from io import BytesIO

from gpt.corpus.formats.archives import (
    READ_ERRORS,
    TOO_LARGE,
    compression,
    decompressed,
    is_tar,
    is_zip,
    read_whole,
    tar_members,
    zip_members,
)
from gpt.corpus.formats.rows import read_csv, read_json_lines, read_json_rows, row_format
from gpt.corpus.pieces import Document, Item, Passage, Piece, Unreadable

SEPARATOR = "<|endoftext|>"  # how text files of many documents, such as TinyStories, mark the end of each
MAX_PIECE_CHARACTERS = 1 << 29  # of all that a piece unpacks to
MAX_NESTING = 8  # of archives in archives


def read_piece(piece: Piece | Unreadable, column: str) -> Iterator[Item]:
    """What a piece contains. `column` names the text in a JSON object. Raises UserError if a row has no such key."""
    if isinstance(piece, Unreadable):
        return iter([piece])
    if isinstance(piece.data, list):
        return iter([Document(text) for text in piece.data])
    if piece.length is not None:
        return iter([read_passage(piece.name, piece.data, piece.offset, piece.position, piece.length)])
    items: list[Item] = []  # all of it or nothing
    characters = 0
    try:
        for item in unpack(piece.name, piece.data, column, piece.offset):
            items.append(item)
            characters += len(item.text) if isinstance(item, Document) else 0
            if characters > MAX_PIECE_CHARACTERS:
                raise OSError(f"unpacks to more than {MAX_PIECE_CHARACTERS} characters")
    except READ_ERRORS as error:
        return iter([Unreadable(piece.name, str(error) or type(error).__name__)])
    return iter(items)


def unpack(name: str, data: bytes, column: str, offset: int = 0, depth: int = 0) -> Iterator[Document | Unreadable]:
    """Yield the documents of a file's bytes, through nested archives and compressions."""
    kind = row_format(name)
    if depth > MAX_NESTING:
        yield Unreadable(name, f"is in more than {MAX_NESTING} archives, one in the other")
    elif compression(data):
        whole = read_whole(decompressed(io.BufferedReader(BytesIO(data))))
        yield from [Unreadable(name, TOO_LARGE)] if whole is None else unpack(name, whole, column, depth=depth + 1)
    elif is_tar(data) or is_zip(name, data):
        for member in (tar_members if is_tar(data) else zip_members)(name, BytesIO(data)):
            if isinstance(member, Unreadable):
                yield member
            else:
                yield from unpack(member.name, member.data, column, depth=depth + 1)
    elif kind == "lines":
        yield from read_json_lines(name, data, column, offset)
    elif kind == "json":
        yield from read_json_rows(name, data, column)
    elif kind:
        yield from read_csv(name, BytesIO(data), column)
    else:
        yield from read_text(name, data, offset)


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

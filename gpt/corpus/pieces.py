"""What a source is cut into, and what is found in it."""

from dataclasses import dataclass


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

"""Lines of JSON that hold dialogs: {"messages": [{"role": "user", "content": "..."}, ...]}, as OpenAI's."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt.corpus.encoding import Reader, Unit
from gpt.corpus.formats.rows import row_format
from gpt.corpus.pieces import Document, Piece, Unreadable
from gpt.errors import UserError
from gpt.files import parse_json

MESSAGES, ANSWERING = "messages", "assistant"  # the key of a dialog, and the role whose messages are learned
BLOCK_BYTES = 1 << 20
MAX_LINE = 1 << 26  # bytes of a first line that is looked at


@dataclass(frozen=True)
class Dialog(Document):
    """Messages, and as `text` the words of all of them. They begin at byte `position` of the file `name`."""

    messages: tuple[dict[str, str], ...] = ()
    name: str = ""
    position: int = 0

    def where(self) -> str:
        """The file and the number of the line."""
        return located(self.name, self.position)


def has_dialogs(name: str, column: str = "text") -> bool:
    """Whether a source is a file of dialogs: lines of JSON of which the first has messages, and no text in `column`."""
    path = Path(name)
    if row_format(name) != "lines" or not path.is_file():
        return False
    with open(path, "rb") as file:
        while (line := file.readline(MAX_LINE)) and not line.strip():
            pass
    try:
        row = parse_json(line)
    except ValueError:
        return False
    return isinstance(row, dict) and MESSAGES in row and (column == MESSAGES or column not in row)


@dataclass(frozen=True)
class DialogReader(Reader):
    """Reads the dialogs of a unit instead of its texts. `column` is not used."""

    def read(self, unit: Unit) -> Iterator[tuple[str | None, Document | Unreadable]]:
        """Yield ("train" or "val", Dialog) for each line. UserError for one that is no dialog."""
        for piece in unit:
            yield from self.rule.apply(dialogs(piece) if isinstance(piece, Piece) else [piece])


def dialogs(piece: Piece) -> Iterator[Dialog]:
    """The dialogs in the lines of a piece of a file. UserError with the number of a line that is none."""
    assert isinstance(piece.data, bytes)
    position = piece.offset
    for line in piece.data.split(b"\n"):
        if line.strip():
            try:
                messages = parse_messages(line)
            except ValueError as error:
                raise UserError(f"{located(piece.name, position)}: {error}") from None
            text = "\n".join(f"{message['role']}\n{message['content']}" for message in messages)
            yield Dialog(text, messages=messages, name=piece.name, position=position)
        position += len(line) + 1


def parse_messages(line: bytes) -> tuple[dict[str, str], ...]:
    """The messages of a line. ValueError that says what is wrong with it."""
    try:
        row = parse_json(line)
    except ValueError as error:
        raise ValueError(f"is not JSON ({error})") from None
    found: Any = row.get(MESSAGES) if isinstance(row, dict) else None
    if not isinstance(found, list) or not found:
        raise ValueError(f'has no {MESSAGES}: it must be like {{"{MESSAGES}": [{{"role": "user", "content": "..."}}]}}')
    for number, message in enumerate(found, 1):
        fields = message if isinstance(message, dict) else {}
        for name in ("role", "content"):
            if not isinstance(fields.get(name), str):
                raise ValueError(f"message {number} has no text as its {name}")
    if not any(message["role"] == ANSWERING for message in found):
        raise ValueError(f"has no message with the role {ANSWERING}, so there is nothing to learn")
    return tuple({"role": message["role"], "content": message["content"]} for message in found)


def located(name: str, position: int) -> str:
    """The file and the number of the line that begins at a byte, which is counted only now that it is needed."""
    number, left = 1, position
    with open(name, "rb") as file:
        while left and (block := file.read(min(left, BLOCK_BYTES))):
            number, left = number + block.count(b"\n"), left - len(block)
    return f"{name}: line {number}"

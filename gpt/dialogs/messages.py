"""Lines of JSON that hold dialogs: {"messages": [{"role": "user", "content": "..."}, ...]}, as OpenAI's."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from gpt.corpus.encoding import Reader, Unit
from gpt.corpus.formats.rows import row_format
from gpt.corpus.pieces import Document, Piece, Unreadable
from gpt.errors import UserError, did_you_mean
from gpt.files import parse_json

MESSAGES, ANSWERING = "messages", "assistant"  # the key of a dialog, and the role whose messages are learned
ROLES = ("system", "user", ANSWERING)  # that all templates know, or refuse themselves
QUOTED = re.compile(r"""(["'])(\w+)\1""")  # how a template names the roles that it knows besides
NOT_WRITTEN = ("tools", "functions", "tool_calls", "function_call")  # keys of lines and messages
BLOCK_BYTES = 1 << 20
FIRST_LINES = 10  # of which one has to be a dialog, so that a file has dialogs
MAX_LINE = 1 << 26  # bytes of a line among them


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
    """Whether a source is a file of dialogs: lines of JSON, and of the first ones one has messages before any `column`.

    So a file of which only the first line is none is one of dialogs too, and its reader names that line.
    """
    path = Path(name)
    if row_format(name) != "lines" or not path.is_file():
        return False
    with open(path, "rb") as file:
        lines = [line for line in islice(iter(lambda: file.readline(MAX_LINE), b""), FIRST_LINES) if line.strip()]
    for line in lines:
        try:
            row = parse_json(line)
        except ValueError:
            continue
        if isinstance(row, dict) and (MESSAGES in row or column in row):
            return column == MESSAGES or column not in row
    return False


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
    refuse_tools("it", row)
    messages = tuple(parse_message(f"message {number}", message) for number, message in enumerate(found, 1))
    if not any(message["role"] == ANSWERING for message in messages):
        others = ", ".join(dict.fromkeys(message["role"] for message in messages))
        raise ValueError(f"has no message with the role {ANSWERING}, so there is nothing to learn; it has {others}")
    return messages


def parse_message(name: str, message: Any) -> dict[str, str]:
    """The role of a message and its text, which parts of type text may make up. ValueError that begins with `name`."""
    fields: dict[str, Any] = message if isinstance(message, dict) else {}
    refuse_tools(name, fields)
    if fields.get("weight", 1) not in (None, 1):
        raise ValueError(f"{name} has the weight {fields['weight']!r:.40}, and all answers are learned: leave it out")
    role, content = fields.get("role"), fields.get("content")
    if isinstance(content, list):
        kinds = [part.get("type") if isinstance(part, dict) else part for part in content]
        if other := next((str(kind) for kind in kinds if kind != "text"), None):
            raise ValueError(f"{name} has a part of type {other:.40}: only parts of type text can be learned")
        texts = [part.get("text") for part in content]
        content = "".join(texts) if all(isinstance(text, str) for text in texts) else None
    if not isinstance(role, str):
        raise ValueError(f"{name} has no text as its role")
    if not isinstance(content, str):
        raise ValueError(f"{name} has no text as its content")
    if role == ANSWERING and not content.strip():
        raise ValueError(f"{name} is an empty answer: leave it out, or it would be learned")
    return {"role": role, "content": content}


def refuse_tools(name: str, fields: dict[str, Any]) -> None:
    """Raise ValueError for what no template is given, so that a model would learn to answer without it."""
    for key in NOT_WRITTEN:
        if fields.get(key):
            raise ValueError(f"{name} has {key}, which would not be written: leave out dialogs with tools")


def require_known_roles(messages: Sequence[dict[str, str]], template: str) -> None:
    """Raise UserError for a role that is neither one of ROLES nor named in the template, so that it may be misspelled.

    Many templates write any role as it is: the answers of an `asistant` would be text that nobody learns.
    """
    known = list(dict.fromkeys([*ROLES, *(name for _, name in QUOTED.findall(template))]))
    for number, message in enumerate(messages, 1):
        if (role := message["role"]) not in known:
            hint = did_you_mean(role, ROLES)
            raise UserError(
                f"message {number} has the role {role[:40]!r}{hint}, which the chat template does not name: it must be "
                f"{', '.join(ROLES[:-1])} or {ANSWERING}"
            )


def located(name: str, position: int) -> str:
    """The file and the number of the line that begins at a byte, which is counted only now that it is needed."""
    number, left = 1, position
    with open(name, "rb") as file:
        while left and (block := file.read(min(left, BLOCK_BYTES))):
            number, left = number + block.count(b"\n"), left - len(block)
    return f"{name}: line {number}"

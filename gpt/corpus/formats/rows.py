"""Files of rows, in each of which a column or key has a text: lines of JSON, arrays of JSON, CSV and TSV."""

import csv
import io
import re
from collections.abc import Iterable, Iterator
from typing import Any

from gpt.corpus.pieces import Document, Unreadable
from gpt.errors import UserError
from gpt.files import parse_json

MAX_DOCUMENT_BYTES = 1 << 26  # in a file with separators or rows, a document without an end is cut or skipped here
MAX_KEYS_SHOWN = 10
NOT_UTF8 = re.compile("[\ud800-\udfff]")  # what "surrogateescape" puts in place of such bytes
ROWS = re.compile(r"\.(jsonl|ndjson|json|csv|tsv)(\.(xz|gz|bz2|zst))?$")
ROW_FORMATS = {"jsonl": "lines", "ndjson": "lines", "json": "json", "csv": "csv", "tsv": "tsv"}


def row_format(name: str) -> str | None:
    """How a file, compressed or not, consists of rows, by its name: "lines" (of JSON), "json", "csv", "tsv" or None."""
    match = ROWS.search(name)
    return ROW_FORMATS[match[1]] if match else None


def read_json_lines(name: str, data: bytes, column: str, position: int) -> Iterator[Document | Unreadable]:
    """Yield the texts under the key `column`, one per line; the first line begins at byte `position`."""
    for line in data.split(b"\n"):
        where, position = f"the line at byte {position}", position + len(line) + 1
        if not line.strip():
            continue
        try:
            row = parse_json(line)
        except ValueError as error:
            yield Unreadable(name, f"{where} is not JSON: {error}")
            continue
        if not isinstance(row, dict) or column not in row:
            raise missing_column(name, column, row if isinstance(row, dict) else ())
        yield from read_value(name, where, column, row[column])


def read_json_rows(name: str, data: bytes, column: str) -> Iterator[Document | Unreadable]:
    """Yield the texts of a `.json`: an array of objects or of texts, one object, or lines of JSON by another name."""
    try:
        rows = parse_json(data)
    except ValueError as error:
        try:
            parse_json(data.lstrip().partition(b"\n")[0])
        except ValueError:
            yield Unreadable(name, f"is not JSON: {error}")
        else:
            yield from read_json_lines(name, data, column, 0)
        return
    for number, row in enumerate(rows if isinstance(rows, list) else [rows]):
        where = f"row {number}"
        if isinstance(row, dict) and column not in row:
            names = list(row)[:MAX_KEYS_SHOWN]
            yield Unreadable(name, f"{where} has no {column}, its keys are {', '.join(names)}{dialogs_hint(row)}")
        else:
            yield from read_value(name, where, column, row[column] if isinstance(row, dict) else row)


def read_value(name: str, where: str, column: str, value: Any) -> Iterator[Document | Unreadable]:
    """Yield the document of a row, unless it is empty."""
    if isinstance(value, str):
        if value:
            yield Document(value)
    elif value is not None:
        yield Unreadable(name, f"{where} has a {column} of type {type(value).__name__}, not a text")


def read_csv(name: str, file: Any, column: str) -> Iterator[Document | Unreadable]:
    """Yield the texts of a column of a CSV or TSV file, opened in binary mode, whose first row has the names."""
    csv.field_size_limit(MAX_DOCUMENT_BYTES)
    lines = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
    rows = csv.reader(lines, delimiter="\t" if row_format(name) == "tsv" else ",", strict=True)
    try:
        names = next(rows, [])
        if column not in names:
            raise missing_column(name, column, names)
        place = names.index(column)
        for row in rows:
            if row and len(row) <= place:
                yield Unreadable(name, f"the row that ends in line {rows.line_num} has only {len(row)} values")
            elif row and NOT_UTF8.search(row[place]):
                yield Unreadable(name, f"the row that ends in line {rows.line_num} is not UTF-8")
            elif row and row[place]:
                yield Document(row[place])
    except csv.Error as error:
        yield Unreadable(name, f"the rest of it, from line {rows.line_num} on, is skipped: {error}")
    finally:
        lines.detach()  # it would close the file


def missing_column(name: str, column: str, columns: Iterable[str]) -> UserError:
    """The error for a table without the text's column."""
    names = ", ".join(columns)
    has = f"its columns are {names}" if names else "it has no named columns"
    remedy = dialogs_hint(columns) or ": choose one with --text-column of python -m gpt.prepare" * bool(names)
    return UserError(f"{name}: has no column {column} with texts, {has}{remedy}")


def dialogs_hint(columns: Iterable[str]) -> str:
    """What to do with a file whose columns are those of dialogs, which only lines of JSON can have."""
    return "; dialogs are read from a single uncompressed .jsonl, one in each line" if "messages" in columns else ""

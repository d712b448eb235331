"""Where text comes from: two corpora inside every Python, a text file, or a folder of them.

Floor 5, above `config`. A corpus is read in pieces, as often as wanted, so that gigabytes fit in little
memory. Read `gpt.training.batches` next, which turns the pieces into token files.
"""

import codecs
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics

from gpt.errors import UserError
from gpt.options import nearest

PIECE_BYTES = 1 << 22
OUTSIDE_STDLIB = {"site-packages", "dist-packages", "__pycache__"}
# Some distributions leave the library's own tests out; without them the text is nearly the same everywhere.
TESTS = {"test", "tests", "idle_test"}


@dataclass(frozen=True)
class Corpus:
    """A text by name; every call of `pieces` reads it again from the start, as strings of a few megabytes."""

    name: str
    pieces: Callable[[], Iterator[str]]
    note: str = ""


def open_corpus(name):
    """The corpus `name`: an embedded one, a UTF-8 text file, or a folder of such files. UserError if none is."""
    if name in EMBEDDED:
        return EMBEDDED[name]()
    path = Path(name)
    if path.is_dir():
        return folder(path)
    if not path.is_file():
        hint = nearest(name, EMBEDDED) or f", nor one of {', '.join(EMBEDDED)}"
        raise UserError(f"--data {name}: no such file or folder{hint}; python -m gpt.prepare reads other sources")
    return Corpus(name, lambda: read_pieces(path))


def pydocs():
    """The Python language reference behind `help("topics")`. Its text depends on the Python that runs."""
    text = "\n".join(topics[name] for name in sorted(topics))
    return Corpus("pydocs", lambda: iter([text]))


def stdlib():
    """The standard library's own source. Files that are not UTF-8 are skipped; `note` counts them."""
    root = Path(sysconfig.get_paths()["stdlib"])
    left_out = OUTSIDE_STDLIB | TESTS
    sources = [path for path in root.rglob("*.py") if left_out.isdisjoint(path.relative_to(root).parts)]
    readable = [path for path in sorted(sources) if is_utf8(path)]
    note = f"({len(readable)} files, {len(sources) - len(readable)} skipped because they are not UTF-8)"
    return Corpus("stdlib", lambda: join(readable), note)


def folder(path):
    """Every file under a folder, in the order of their paths; hidden files and folders are left out."""
    files = sorted(file for file in path.rglob("*") if file.is_file() and not is_hidden(file.relative_to(path)))
    if not files:
        raise UserError(f"--data {path}: the folder holds no files")
    return Corpus(str(path), lambda: join(files), f"({len(files)} files)")


EMBEDDED = {"pydocs": pydocs, "stdlib": stdlib}


def is_hidden(path):
    """Whether any part of a relative path starts with a dot."""
    return any(part.startswith(".") for part in path.parts)


def is_utf8(path):
    """Whether a small file can be read and decoded."""
    try:
        path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError):
        return False
    return True


def join(paths):
    """The pieces of several files, a line break after each so that no two run together."""
    for path in paths:
        yield from read_pieces(path)
        yield "\n"


def read_pieces(path):
    """The text of a UTF-8 file in pieces. UserError, with the byte offset, where it is not UTF-8."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    offset = 0
    try:
        with open(path, "rb") as file:
            while block := file.read(PIECE_BYTES):
                pending = len(decoder.getstate()[0])  # bytes of a character that the last block cut in two
                yield decoder.decode(block)
                offset += len(block)
            pending = len(decoder.getstate()[0])
            decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        where = offset - pending + error.start
        raise UserError(f"--data {path}: byte {where} is not UTF-8 ({error.reason}): convert the file") from None
    except OSError as error:
        raise UserError(f"--data {path}: cannot be read ({error.strerror})") from None

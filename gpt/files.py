"""Files that a crash cannot leave half-written.

A file is written under a temporary name, flushed to the disk (fsync), then renamed, so under its own name it is either
complete or absent.
"""

import errno
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from gpt.errors import UserError

MAX_JSON_BYTES = 1 << 28


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Turn a failure to write `path` (disk full, no permission) into a UserError that names it."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        if getattr(error, "errno", None) in (errno.EMFILE, errno.ENFILE):
            raise  # no failure of this file; `gpt.cli` says what to do
        if "No such file" in str(error) and not os.path.exists(os.path.dirname(path) or os.curdir):
            raise UserError(f"{path}: cannot be written, because its directory does not exist any more") from None
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"{path}: cannot be written ({reason}); free some space or choose another directory") from None


@contextmanager
def reading(path: str | Path) -> Iterator[None]:
    """Turn a failure to read `path` into a UserError that names it."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def sync(path: str | Path) -> None:
    """Flush a file, or the entries of a directory, to the disk."""
    if os.name == "nt" and os.path.isdir(path):
        return  # Windows cannot open directories, and orders renames by itself
    descriptor = os.open(path, os.O_RDONLY if os.path.isdir(path) else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Replace `path` atomically by what `write(temporary_path)` writes. UserError if it cannot be written."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with writing(path):
            write(temporary)
            sync(temporary)
            os.replace(temporary, path)
            sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def copy(source: Path, place: Path) -> None:
    """Copy a file, to the disk. Not a hard link: a program that writes into `source` would change both."""
    with writing(place):
        shutil.copyfile(source, place)
        sync(place)


def replace_text(path: Path, text: str) -> None:
    """Replace `path` atomically by a text in UTF-8."""
    replace_file(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def replace_json(path: Path, content: object) -> None:
    """Replace `path` atomically by `content` as indented JSON."""
    replace_text(path, json.dumps(content, indent=2) + "\n")


def require_regular(path: str | Path) -> None:
    """Raise OSError if a path is no regular file: a named pipe would be waited for, a device read without end."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text; ValueError if it is not JSON, or too deeply nested for Python's parser."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("its brackets are nested too deeply") from None


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file that may come from anywhere.

    Raises ValueError if it is something else or has more than 256 MiB, OSError if it cannot be read.
    """
    content = parse_json(_read_bytes(path))
    if not isinstance(content, dict):
        raise ValueError("not a JSON object")
    return content


def read_text(path: Path) -> str:
    """The text of a UTF-8 file that may come from anywhere. Raises as `read_json`."""
    return _read_bytes(path).decode("utf-8")


def _read_bytes(path: Path) -> bytes:
    require_regular(path)
    size = path.stat().st_size
    if size > MAX_JSON_BYTES:
        raise ValueError(f"{size} bytes are too many for it")
    return path.read_bytes()


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON object with its own checksum added."""
    return {**content, "sha256": _digest(content)}


def is_sealed(content: Mapping[str, Any]) -> bool:
    """Whether a parsed JSON object is as `sealed` made it."""
    return content.get("sha256") == _digest({name: value for name, value in content.items() if name != "sha256"})


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def sha256(path: str | Path) -> str:
    """The SHA-256 of a file, as `sha256sum` prints it. OSError if it cannot be read or is a pipe or device."""
    require_regular(path)
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()

"""Token files as training reads them: two memory-mapped arrays of token ids, and the `meta.json` that describes them.

`token_files` writes such directories. A run that trains on one that `python -m gpt.prepare` made does not copy it: its
own `meta.json` names the directory and repeats the checksums.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gpt.errors import UserError
from gpt.files import replace_json

META_FILE = "meta.json"
STATE_FILE = "state.json"  # in its place while a preparation is unfinished
FORMAT = "tinytensor tokens 1"


@dataclass(frozen=True)
class Tokens:
    """The two splits of a corpus as read-only memory-mapped arrays of token ids (count,)."""

    train: np.ndarray
    val: np.ndarray
    source: str
    unreadable: int = 0  # files and archive members that were skipped


def is_prepared(name: str) -> bool:
    """Whether `--data name` is a directory with finished token files. UserError if they are unfinished."""
    if (Path(name) / STATE_FILE).is_file() and not (Path(name) / META_FILE).exists():
        raise UserError(f"--data {name}: is not finished; give the same python -m gpt.prepare command again")
    try:
        content = json.loads((Path(name) / META_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.get("format") == FORMAT


def link_tokens(prepared: str | Path, directory: Path) -> None:
    """Write a `meta.json` into `directory` that points at the token files in the directory `prepared`."""
    open_tokens(prepared)
    prepared = Path(prepared).resolve()
    content = json.loads((prepared / META_FILE).read_text(encoding="utf-8"))
    replace_json(directory / META_FILE, {"directory": str(prepared), **content})


def open_tokens(directory: str | Path) -> Tokens:
    """The Tokens in a directory, or those it points at; UserError if a file is missing or was changed."""
    path = Path(directory) / META_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if "directory" in content:
            path = require_same(content)
        dtype = np.dtype(content["dtype"])
        train, val = (_map(path.parent / f"{name}.bin", dtype, content[name]) for name in ("train", "val"))
        return Tokens(train, val, content["source"], content.get("unreadable", 0))
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: corrupt or missing ({error})") from None


def require_same(content: dict) -> Path:
    """The path of the `meta.json` that a run's points at; UserError if the token files there have changed."""
    path = Path(content["directory"]) / META_FILE
    if json.loads(path.read_text(encoding="utf-8"))["sha256"] != content["sha256"]:
        raise UserError(f"{path}: describes other tokens than those that the run was created with")
    return path


def _map(path: Path, dtype: np.dtype, count: int) -> np.ndarray:
    """The `count` token ids of a file, memory-mapped."""
    if path.stat().st_size != count * dtype.itemsize:
        raise UserError(f"{path}: corrupt, {path.stat().st_size} bytes instead of {count * dtype.itemsize}")
    return np.memmap(path, dtype=dtype, mode="r")

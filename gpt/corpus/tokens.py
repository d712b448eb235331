"""Token files as training reads them: two memory-mapped arrays of token ids, and the `meta.json` that describes them.

Beside the tokens of dialogs there are files with a byte for each, which says whether it is a model's answer.

`token_files` writes such directories. A run that trains on one that `python -m gpt.prepare` made does not copy it: its
own `meta.json` names the directory and repeats the checksums. If it moved, they can be copied into the run.

Sizes and the checksum of a sample of blocks are compared whenever token files are opened. `verify_tokens` also reads
the whole of a file once, and remembers its size and time of modification, so that it need not be read again.
"""

import hashlib
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from gpt.corpus.split import SPLITS
from gpt.errors import UserError
from gpt.files import read_json, replace_json
from gpt.tokenizers.files import DTYPES

META_FILE = "meta.json"
STATE_FILE = "state.json"  # in its place while a preparation is unfinished
VERIFIED_FILE = ".verified.json"  # what `verify_tokens` remembers
FORMAT = "tinytensor tokens 1"
SAMPLED_BLOCKS, BLOCK_BYTES = 16, 1 << 16
SCAN_BYTES = 1 << 20
ANSWERS = ".answers"  # after the name of a split, that of the file which says what each token of its dialogs is:
ANSWER, BEGIN = 1, 2  # part of an answer, the first one of a dialog
FLAGS = np.dtype(np.uint8)
BAR_DELAY = 1  # seconds before a progress bar appears, so that small files show none


@dataclass(frozen=True)
class Tokens:
    """The two splits of a corpus as read-only memory-mapped arrays of token ids (count,)."""

    train: np.ndarray
    val: np.ndarray
    source: str
    unreadable: int = 0  # files and archive members that were skipped
    train_answers: np.ndarray | None = None  # (count,) ANSWER and BEGIN of each token, if the corpus is of dialogs
    val_answers: np.ndarray | None = None


def is_prepared(name: str) -> bool:
    """Whether `--data name` is a directory with finished token files. UserError if they are unfinished or corrupt."""
    directory = Path(name)
    if (directory / STATE_FILE).is_file() and not (directory / META_FILE).exists():
        raise UserError(f"--data {name}: is not finished; give the same python -m gpt.prepare command again")
    try:
        if read_json(directory / META_FILE).get("format") == FORMAT:
            return True
        reason = "is something else"
    except FileNotFoundError:
        reason = "is missing"
    except (OSError, ValueError) as error:
        reason = f"is corrupt ({error})"
    if (directory / "train.bin").exists() and (directory / "val.bin").exists():  # they are no folder of texts
        raise UserError(
            f"--data {name}: has token files, but their {META_FILE} {reason}: restore it from a copy, or prepare the "
            "text again"
        )
    return False


def link_tokens(prepared: str | Path, directory: Path) -> None:
    """Write a `meta.json` into `directory` that points at the token files in the directory `prepared`."""
    open_tokens(prepared)
    prepared = Path(prepared).resolve()
    content = read_json(prepared / META_FILE)
    replace_json(directory / META_FILE, {"directory": str(prepared), **content})


def open_tokens(directory: str | Path) -> Tokens:
    """The Tokens in a directory, or those it points at; UserError if a file is missing or was changed."""
    path, content = find_meta(directory)
    try:
        dtype = {kind.str: kind for kind in DTYPES.values()}[content["dtype"]]
        train, val = (_map(path.parent / f"{name}.bin", dtype, content, name) for name in SPLITS)
        answers = {
            f"{name}_answers": _map(path.parent / f"{name}{ANSWERS}.bin", FLAGS, content, name + ANSWERS)
            for name in SPLITS
            if name + ANSWERS in content.get("sha256", {})
        }
        return Tokens(train, val, content["source"], content.get("unreadable", 0), **answers)
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: corrupt or missing ({error})") from None


def find_meta(directory: str | Path) -> tuple[Path, dict[str, Any]]:
    """The `meta.json` beside the token files that a directory has or points at, and its content. Raises UserError."""
    path = Path(directory) / META_FILE
    try:
        content = read_json(path)
        is_link = "directory" in content and not (path.parent / "train.bin").exists()
        return (require_same(content, path.parent) if is_link else path), content
    except FileNotFoundError:
        raise UserError(f"{path}: missing: restore it from a copy; runs from before version 0.1.0 have none") from None
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: corrupt or missing ({error})") from None


def require_same(content: dict[str, Any], run: Path) -> Path:
    """The path of the `meta.json` that a run's points at; UserError if the token files there have moved or changed."""
    path = Path(content["directory"]) / META_FILE
    if not path.exists():
        raise UserError(
            f"{path}: missing, and the token files beside it with which the run was created: move them back, or copy "
            f"{' and '.join(f'{name}.bin' for name in content.get('sha256', SPLITS))} into {run}"
        )
    if read_json(path)["sha256"] != content["sha256"]:
        raise UserError(f"{path}: describes other tokens than those that the run was created with")
    return path


def _map(path: Path, dtype: np.dtype, content: dict[str, Any], name: str) -> np.ndarray:
    """The token ids of a split's file, or what they are of, memory-mapped."""
    size, expected = path.stat().st_size, content[name.removesuffix(ANSWERS)] * dtype.itemsize
    if size != expected:
        raise UserError(f"{path}: corrupt, {size} bytes instead of {expected}")
    if "samples" in content and sample_digest(path) != content["samples"][name]:  # the first version has none
        raise changed(path)
    return np.memmap(path, dtype=dtype, mode="r")


def changed(path: Path) -> UserError:
    """The error for a token file that is not the one that was written."""
    return UserError(f"{path}: is not the file that was prepared: restore it from a copy, or prepare the text again")


def sample_digest(path: Path) -> str:
    """The SHA-256 of blocks that are spread evenly over a file, from its first byte to its last."""
    digest = hashlib.sha256()
    room = max(path.stat().st_size - BLOCK_BYTES, 0)
    with open(path, "rb") as file:
        for begin in sorted({room * i // (SAMPLED_BLOCKS - 1) for i in range(SAMPLED_BLOCKS)}):
            file.seek(begin)
            digest.update(file.read(BLOCK_BYTES))
    return digest.hexdigest()


def scan(path: Path, dtype: np.dtype) -> dict[str, Any]:
    """What is remembered of a token file after reading all of it: when and how long it was, SHA-256, largest id."""
    digest, largest = hashlib.sha256(), 0
    identity = _identity(path)
    options: dict[str, Any] = {"unit": "B", "unit_scale": True, "dynamic_ncols": True, "delay": BAR_DELAY}
    with open(path, "rb") as file, tqdm(total=identity["bytes"], desc=f"verify {path.name}", **options) as bar:
        while block := file.read(SCAN_BYTES):
            digest.update(block)
            largest = max(largest, int(np.frombuffer(block, dtype).max()))
            bar.update(len(block))
    return {**identity, "sha256": digest.hexdigest(), "largest": largest}


def _identity(path: Path) -> dict[str, int]:
    """By what a file that was not written to since is recognized."""
    status = path.stat()
    return {"bytes": status.st_size, "mtime_ns": status.st_mtime_ns}


def remember(directories: Iterable[Path], scanned: dict[str, Any]) -> None:
    """Save what `scan` found {split: result} in the first directory that can be written to, or nowhere."""
    for directory in directories:
        with suppress(UserError):
            replace_json(directory / VERIFIED_FILE, scanned)
            return


def _remembered(directories: Iterable[Path], name: str, path: Path) -> dict[str, Any] | None:
    """What `scan` found in a split's file, unless it was written to since."""
    for directory in directories:
        with suppress(OSError, KeyError, TypeError, AttributeError, ValueError):
            found = read_json(directory / VERIFIED_FILE)[name]
            if _identity(path).items() <= found.items() and {"sha256", "largest"} <= found.keys():
                return found
    return None


def verify_tokens(directory: Path, vocab_size: int) -> None:
    """Read all tokens of a run's directory, unless that was done; UserError if they were changed or are too large."""
    meta, content = find_meta(directory)
    places = (meta.parent, directory)
    scanned, is_new = {}, False
    try:
        for name in content.get("sha256", SPLITS):  # the first version has no checksums
            path = meta.parent / f"{name}.bin"
            found = _remembered(places, name, path)
            if found is None:
                found, is_new = scan(path, np.dtype(content["dtype"]) if name in SPLITS else FLAGS), True
            scanned[name] = found
            if found["sha256"] != content.get("sha256", {}).get(name, found["sha256"]):
                raise changed(path)
            if name in SPLITS and found["largest"] >= vocab_size:
                raise UserError(f"{path}: has token id {found['largest']}, but the vocabulary only {vocab_size} tokens")
    except (OSError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f"{meta}: corrupt or missing ({error})") from None
    if is_new:
        remember(places, scanned)

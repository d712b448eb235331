"""Checkpoints: everything needed to resume a run, each complete or absent.

A checkpoint is a directory `step-000500` with `model.safetensors`, `optimizer.safetensors` and `state.json`, which
holds the progress, each file's size and SHA-256, and its own. It is written under a temporary name, flushed to the
disk, and renamed; it is renamed again before it is deleted. Other names in the same directory, such as those of copies,
are left alone. Since all randomness is a function of (seed, step), there is no generator state to save.
"""

import json
import os
import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors.numpy
from safetensors import SafetensorError

from gpt.errors import UserError
from gpt.files import is_sealed, read_json, sealed, sha256, sync, writing
from gpt.weights.directory import WEIGHTS_FILE
from gpt.weights.safetensors import host_arrays, write

PARTS = (WEIGHTS_FILE, "optimizer.safetensors")
PROGRESS_FILE = "state.json"
NAME = re.compile(r"step-([0-9]{6}|[1-9][0-9]{6,})")  # of a checkpoint
LEFTOVER = re.compile(r"\.step-[0-9]+\.(tmp|old)")  # of a process that was killed while it wrote or deleted one


class InvalidCheckpoint(Exception):
    """A checkpoint directory whose content is not what was saved; the message names it and says why."""


@dataclass
class Progress:
    """How far a run has come: updates made, the last and the best validation loss, seconds of training.

    loss_scale: that of float16; scaled_steps: how many steps it has had this value.
    """

    step: int = 0
    val_loss: float | None = None
    best_val_loss: float | None = None
    best_step: int = 0
    seconds: float = 0.0
    loss_scale: float = 2.0**16
    scaled_steps: int = 0


@dataclass(frozen=True)
class Checkpoint:
    """A run's progress, and the state dicts {name: array} of its model and optimizer.

    metrics: the SHA-256 of the rows up to here; earlier versions have none.
    """

    progress: Progress
    model: dict[str, Any]
    optimizer: dict[str, Any]
    metrics: str | None = None


def save_checkpoint(root: Path, checkpoint: Checkpoint, keep: int) -> None:
    """Write `root/step-NNNNNN`, then remove all but the newest `keep`. UserError, with nothing lost, if it fails.

    Later checkpoints are kept: they were invalid when the run was resumed, and are replaced when it reaches their step.
    """
    final = root / f"step-{checkpoint.progress.step:06d}"
    temporary = root / f".{final.name}.tmp"
    try:
        with writing(final):
            root.mkdir(exist_ok=True)  # without its parents: if the run was deleted, it stays so
            remove_leftovers(root)
            temporary.mkdir()
            _write(temporary, checkpoint)
            if os.path.lexists(final):
                _remove(final)
            os.rename(temporary, final)
            sync(root)
            prune_checkpoints(root, checkpoint.progress.step, keep)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def prune_checkpoints(root: Path, step: int, keep: int) -> None:
    """Remove all but the newest `keep` of the checkpoints up to `step`."""
    for old in saved_checkpoints(root, step)[:-keep]:
        _remove(old)


def _remove(path: Path) -> None:
    """Delete a checkpoint; being renamed first, it is never there in part."""
    condemned = path.with_name(f".{path.name}.old")
    os.rename(path, condemned)
    _delete(condemned)


def _delete(path: Path) -> None:
    """Delete a directory, a file or a link."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def remove_leftovers(root: Path) -> None:
    """Remove what a killed process left incomplete."""
    for path in _entries(root):
        if LEFTOVER.fullmatch(path.name):
            _delete(path)


def discard_checkpoints(root: Path) -> None:
    """Delete all checkpoints."""
    with writing(root):
        for path in saved_checkpoints(root):
            _remove(path)


def _write(directory: Path, checkpoint: Checkpoint) -> None:
    """Write the three files of a checkpoint and flush them to the disk."""
    files = {}
    for name, state in zip(PARTS, (checkpoint.model, checkpoint.optimizer), strict=True):
        write(directory / name, host_arrays(state))
        files[name] = _fingerprint(directory / name)
    content = sealed({"progress": asdict(checkpoint.progress), "files": files, "metrics": checkpoint.metrics})
    (directory / PROGRESS_FILE).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    for path in (*directory.iterdir(), directory):
        sync(path)


def load_newest(root: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest valid checkpoint under `root`, or None, and sentences about newer, invalid ones."""
    invalid: list[str] = []
    for path in reversed(saved_checkpoints(root)):
        try:
            return load_checkpoint(path), invalid
        except InvalidCheckpoint as error:
            invalid.append(str(error))
    return None, invalid


def load_checkpoint(path: Path) -> Checkpoint:
    """Read one checkpoint directory and verify its checksums. Raises InvalidCheckpoint."""
    try:
        state = read_json(path / PROGRESS_FILE)
        if "sha256" in state and not is_sealed(state):  # earlier versions have none
            raise InvalidCheckpoint(f"{path}: invalid ({PROGRESS_FILE} is not the file that was saved)")
        for name in PARTS:
            if _fingerprint(path / name) != state["files"][name]:
                raise InvalidCheckpoint(f"{path}: invalid ({name} is not the file that was saved)")
        model, optimizer = (safetensors.numpy.load_file(path / name) for name in PARTS)
        progress = Progress(**state["progress"])
        if not all(value is None or type(value) in (int, float) for value in asdict(progress).values()):
            raise InvalidCheckpoint(f"{path}: invalid (its progress does not consist of numbers)")
        if type(progress.step) is not int or progress.step != step_of(path):
            raise InvalidCheckpoint(f"{path}: invalid (it was saved at step {progress.step})")
    except (OSError, KeyError, TypeError, ValueError, SafetensorError) as error:
        raise InvalidCheckpoint(f"{path}: invalid ({error})") from None
    return Checkpoint(progress, model, optimizer, state.get("metrics"))


def _fingerprint(path: Path) -> dict[str, Any]:
    """Size and SHA-256 of a file."""
    return {"bytes": path.stat().st_size, "sha256": sha256(path)}


def step_of(path: Path) -> int:
    """The step in the name of a checkpoint; -1 for any other name."""
    match = NAME.fullmatch(path.name)
    return int(match[1]) if match else -1


def saved_checkpoints(root: Path, last: int | None = None) -> list[Path]:
    """Checkpoint directories under `root`, oldest first, up to those of step `last`."""
    found = sorted((step_of(path), path) for path in _entries(root) if step_of(path) >= 0 and os.path.isdir(path))
    return [path for step, path in found if last is None or step <= last]


def _entries(root: Path) -> list[Path]:
    """What a directory contains; nothing if it is missing. UserError if it cannot be read."""
    try:
        return [*root.iterdir()]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"{root}: cannot be read ({error.strerror})") from None

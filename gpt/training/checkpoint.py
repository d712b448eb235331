"""Checkpoints: everything needed to resume a run, each complete or absent.

A checkpoint is a directory `step-000500` with `model.safetensors`, `optimizer.safetensors` and `state.json`, which
holds the progress and each file's size and SHA-256. It is written under a temporary name, flushed to the disk, and
renamed. Since all randomness is a function of (seed, step), there is no generator state to save.
"""

import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors.numpy
from safetensors import SafetensorError

from gpt.errors import UserError
from gpt.files import sha256, sync, writing
from gpt.weights.directory import WEIGHTS_FILE
from gpt.weights.safetensors import host_arrays, write

PARTS = (WEIGHTS_FILE, "optimizer.safetensors")
PROGRESS_FILE = "state.json"


class InvalidCheckpoint(Exception):
    """A checkpoint directory whose content is not what was saved; the message names it and says why."""


@dataclass
class Progress:
    """How far a run has come: updates made, the last and the best validation loss, seconds of training."""

    step: int = 0
    val_loss: float | None = None
    best_val_loss: float | None = None
    best_step: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Checkpoint:
    """A run's progress, and the state dicts {name: array} of its model and optimizer."""

    progress: Progress
    model: dict[str, Any]
    optimizer: dict[str, Any]


def save_checkpoint(root: Path, checkpoint: Checkpoint, keep: int) -> None:
    """Write `root/step-NNNNNN`, then remove all but the newest `keep`. UserError, with nothing changed, if it fails."""
    final = root / f"step-{checkpoint.progress.step:06d}"
    temporary = root / f".{final.name}.tmp"
    try:
        with writing(final):
            _remove_leftovers(root)
            temporary.mkdir(parents=True)
            _write(temporary, checkpoint)
            if final.exists():  # an invalid one of the same step, skipped when the run was resumed
                shutil.rmtree(final)
            os.rename(temporary, final)
            sync(root)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    for old in _saved(root)[:-keep]:
        shutil.rmtree(old)


def _write(directory: Path, checkpoint: Checkpoint) -> None:
    """Write the three files of a checkpoint and flush them to the disk."""
    files = {}
    for name, state in zip(PARTS, (checkpoint.model, checkpoint.optimizer), strict=True):
        write(directory / name, host_arrays(state))
        files[name] = _fingerprint(directory / name)
    content = {"progress": asdict(checkpoint.progress), "files": files}
    (directory / PROGRESS_FILE).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    for path in (*directory.iterdir(), directory):
        sync(path)


def load_newest(root: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest valid checkpoint under `root`, or None, and sentences about newer, invalid ones."""
    invalid: list[str] = []
    for path in reversed(_saved(root)):
        try:
            return load_checkpoint(path), invalid
        except InvalidCheckpoint as error:
            invalid.append(str(error))
    return None, invalid


def load_checkpoint(path: Path) -> Checkpoint:
    """Read one checkpoint directory and verify its checksums. Raises InvalidCheckpoint."""
    try:
        state = json.loads((path / PROGRESS_FILE).read_text(encoding="utf-8"))
        for name in PARTS:
            if _fingerprint(path / name) != state["files"][name]:
                raise InvalidCheckpoint(f"{path}: invalid ({name} is not the file that was saved)")
        model, optimizer = (safetensors.numpy.load_file(path / name) for name in PARTS)
        progress = Progress(**state["progress"])
    except (OSError, KeyError, TypeError, ValueError, SafetensorError) as error:
        raise InvalidCheckpoint(f"{path}: invalid ({error})") from None
    return Checkpoint(progress, model, optimizer)


def require_checkpoint(root: Path) -> tuple[Checkpoint | None, list[str]]:
    """`load_newest`, but UserError if there are checkpoints and none is valid."""
    checkpoint, invalid = load_newest(root)
    if checkpoint is None and invalid:
        raise UserError(f"{'; '.join(invalid)}: no valid checkpoint remains, start the run again with another --out")
    return checkpoint, invalid


def _fingerprint(path: Path) -> dict[str, Any]:
    """Size and SHA-256 of a file."""
    return {"bytes": path.stat().st_size, "sha256": sha256(path)}


def _saved(root: Path) -> list[Path]:
    """Checkpoint directories under `root`, oldest first."""
    return sorted(root.glob("step-*"), key=lambda path: (len(path.name), path.name))


def _remove_leftovers(root: Path) -> None:
    """Remove what a killed process left incomplete."""
    for path in root.glob(".step-*.tmp"):
        shutil.rmtree(path)

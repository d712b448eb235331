"""Checkpoints: everything needed to go on with a run, each whole or not there at all.

Floor 5, above `files`. A checkpoint is a directory `step-000500` with `model.safetensors`,
`optimizer.safetensors` and `state.json`, which holds the progress and each file's size and SHA-256. It is
written under another name, forced to the disk, and renamed. Since all randomness is a function of (seed,
step), no generator state is saved. Read `gpt.training.run` next.
"""

import hashlib
import json
import os
import shutil
from dataclasses import asdict, dataclass

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

import tinytensor as tt
from gpt.errors import UserError
from gpt.files import sync, writing

PARTS = ("model.safetensors", "optimizer.safetensors")
STATE = "state.json"


class DamagedCheckpoint(Exception):
    """A checkpoint directory whose content is not what was saved; the message names it and says why."""


@dataclass
class Progress:
    """How far a run has come: updates made, the last and the best validation loss, seconds of work."""

    step: int = 0
    val_loss: float | None = None
    best_val_loss: float | None = None
    best_step: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Checkpoint:
    """A run's progress with the model's and the optimizer's state: {name: NumPy array} each."""

    progress: Progress
    model: dict
    optimizer: dict


def save_checkpoint(root, checkpoint, keep):
    """Write `root/step-NNNNNN`, then remove all but the newest `keep`. UserError, nothing changed, if it cannot."""
    final = root / f"step-{checkpoint.progress.step:06d}"
    beside = root / f".{final.name}.tmp"
    try:
        with writing(final):
            _remove_leftovers(root)
            beside.mkdir(parents=True)
            _write(beside, checkpoint)
            if final.exists():  # a damaged one of the same step, skipped when the run was resumed
                shutil.rmtree(final)
            os.rename(beside, final)
            sync(root)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    for old in _saved(root)[:-keep]:
        shutil.rmtree(old)


def _write(directory, checkpoint):
    """The three files of a checkpoint, on the disk when this returns."""
    files = {}
    for name, state in zip(PARTS, (checkpoint.model, checkpoint.optimizer), strict=True):
        arrays = {key: np.asarray(tt.to_numpy(value), order="C") for key, value in state.items()}
        safetensors.numpy.save_file(arrays, directory / name)
        files[name] = _fingerprint(directory / name)
    state = {"progress": asdict(checkpoint.progress), "files": files}
    (directory / STATE).write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")
    for path in (*directory.iterdir(), directory):
        sync(path)


def load_newest(root):
    """The newest whole checkpoint under `root`, or None, and a list of sentences about damaged ones passed over."""
    damaged = []
    for path in reversed(_saved(root)):
        try:
            return load_checkpoint(path), damaged
        except DamagedCheckpoint as error:
            damaged.append(str(error))
    return None, damaged


def load_checkpoint(path):
    """Read one checkpoint directory and check it against its fingerprints. Raises DamagedCheckpoint."""
    try:
        state = json.loads((path / STATE).read_text(encoding="utf-8"))
        for name in PARTS:
            if _fingerprint(path / name) != state["files"][name]:
                raise DamagedCheckpoint(f"{path}: damaged ({name} is not the file that was saved)")
        model, optimizer = (safetensors.numpy.load_file(path / name) for name in PARTS)
        progress = Progress(**state["progress"])
    except (OSError, KeyError, TypeError, ValueError, SafetensorError) as error:
        raise DamagedCheckpoint(f"{path}: damaged ({error})") from None
    return Checkpoint(progress, model, optimizer)


def require_checkpoint(root):
    """`load_newest`, but UserError if there are checkpoints and none is whole."""
    checkpoint, damaged = load_newest(root)
    if checkpoint is None and damaged:
        raise UserError(f"{'; '.join(damaged)}: no whole checkpoint is left, start the run again with another --out")
    return checkpoint, damaged


def _fingerprint(path):
    """Size and SHA-256 of a file."""
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
        return {"bytes": file.tell(), "sha256": digest.hexdigest()}


def _saved(root):
    """Checkpoint directories under `root`, oldest first."""
    return sorted(root.glob("step-*"), key=lambda path: (len(path.name), path.name))


def _remove_leftovers(root):
    """Remove what a killed process left half-written."""
    for path in root.glob(".step-*.tmp"):
        shutil.rmtree(path)

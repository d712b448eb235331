"""Checkpoints are complete or absent, and the newest valid one is found whatever happened to the others."""

import errno
import os
import shutil

import numpy as np
import pytest
import safetensors.numpy
from safetensors import SafetensorError

from gpt.errors import UserError
from gpt.training.checkpoint import Checkpoint, Progress, load_newest, save_checkpoint

FILES = ("model.safetensors", "optimizer.safetensors", "state.json")


def example(step):
    model = {"a.weight": np.full((3, 4), step, np.float32), "b": np.arange(6.0, dtype=np.float32).reshape(2, 3).T}
    optimizer = {"step": np.asarray(step), "m.0": np.full((3, 4), 0.5, np.float32)}
    return Checkpoint(Progress(step, 2.5, 2.25, step - 1, 12.5), model, optimizer)


def steps(root):
    return sorted(path.name for path in root.iterdir())


def test_a_checkpoint_is_restored_bit_exactly(tmp_path):
    save_checkpoint(tmp_path, example(5), keep=2)
    loaded, invalid = load_newest(tmp_path)
    assert invalid == []
    assert loaded.progress == example(5).progress
    for state, expected in ((loaded.model, example(5).model), (loaded.optimizer, example(5).optimizer)):
        assert state.keys() == expected.keys()
        for name, array in state.items():
            assert array.dtype == expected[name].dtype
            np.testing.assert_array_equal(array, expected[name])
    assert isinstance(loaded.optimizer["step"], np.ndarray)
    assert sorted(path.name for path in (tmp_path / "step-000005").iterdir()) == sorted(FILES)


def test_only_the_newest_by_step_are_kept(tmp_path):
    for step in (900_000, 999_999, 1_000_000, 1_000_001):
        save_checkpoint(tmp_path, example(step), keep=2)
    assert steps(tmp_path) == ["step-1000000", "step-1000001"]
    assert load_newest(tmp_path)[0].progress.step == 1_000_001


def test_without_checkpoints_there_is_none(tmp_path):
    assert load_newest(tmp_path) == (None, [])
    assert load_newest(tmp_path / "missing") == (None, [])


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("fault", ["missing", "empty", "truncated", "one bit"])
def test_an_invalid_checkpoint_is_named_and_the_previous_one_used(tmp_path, name, fault):
    for step in (10, 20):
        save_checkpoint(tmp_path, example(step), keep=2)
    path = tmp_path / "step-000020" / name
    content = bytearray(path.read_bytes())
    if fault == "missing":
        path.unlink()
    elif fault == "one bit":
        content[len(content) // 2 if name != "state.json" else content.index(b"bytes")] ^= 1
        path.write_bytes(content)
    else:
        path.write_bytes(content[: 0 if fault == "empty" else len(content) // 2])
    loaded, invalid = load_newest(tmp_path)
    assert loaded.progress.step == 10
    assert len(invalid) == 1
    assert "step-000020: invalid" in invalid[0]


def test_an_invalid_checkpoint_of_the_same_step_is_replaced(tmp_path):
    save_checkpoint(tmp_path, example(10), keep=2)
    (tmp_path / "step-000010" / "model.safetensors").unlink()
    save_checkpoint(tmp_path, example(10), keep=2)
    assert load_newest(tmp_path)[0].progress.step == 10


def test_leftovers_of_a_killed_process_are_ignored_and_removed(tmp_path):
    save_checkpoint(tmp_path, example(10), keep=2)
    shutil.copytree(tmp_path / "step-000010", tmp_path / ".step-000020.tmp")
    assert load_newest(tmp_path)[0].progress.step == 10
    save_checkpoint(tmp_path, example(20), keep=2)
    assert steps(tmp_path) == ["step-000010", "step-000020"]


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), SafetensorError("I/O error: No space left on device")],
)
def test_a_full_disk_leaves_the_previous_checkpoint_as_it_was(tmp_path, monkeypatch, error):
    save_checkpoint(tmp_path, example(10), keep=1)

    def fill(arrays, path, metadata):
        path.write_bytes(b"half of it")
        raise error

    monkeypatch.setattr(safetensors.numpy, "save_file", fill)
    with pytest.raises(UserError, match=r"step-000020: cannot be written \(.*No space left on device\)"):
        save_checkpoint(tmp_path, example(20), keep=1)
    assert steps(tmp_path) == ["step-000010"]
    assert load_newest(tmp_path)[0].progress.step == 10

"""The metrics file survives crashes and resumption; the plot is written, or its absence explained."""

import os
import sys

import pytest

from gpt.errors import UserError
from gpt.training.metrics import WINDOW, Metrics, smoothed, write_plot

ROWS = [{"step": step, "train_loss": 3.0 - step / 100} for step in (10, 20, 30)]


@pytest.fixture
def metrics(tmp_path):
    metrics = Metrics(tmp_path / "metrics.jsonl")
    for row in ROWS:
        metrics.append(row)
    return metrics


def test_rows_are_read_back(metrics):
    assert metrics.rows() == ROWS


def test_a_new_run_has_none(tmp_path):
    metrics = Metrics(tmp_path / "metrics.jsonl")
    metrics.save()
    assert metrics.rows() == []


def test_rows_after_the_checkpoint_and_an_incomplete_row_are_removed(metrics):
    with open(metrics.path, "a") as file:
        file.write('{"step": 40, "tra')
    metrics.truncate(20)
    assert metrics.path.read_text().count("\n") == 2
    metrics.append({"step": 25})
    assert metrics.rows() == [*ROWS[:2], {"step": 25}]


def test_rows_that_were_lost_or_changed_are_mentioned(metrics):
    digest = metrics.save()
    assert metrics.truncate(30, digest) == metrics.truncate(30) == []
    for text in ("", metrics.path.read_text().replace("2.9", "2.8")):
        metrics.path.write_text(text)
        assert metrics.truncate(30, digest) == [f"{metrics.path}: its rows up to step 30 are not those that were saved"]


def test_a_pipe_in_its_place_is_not_waited_for(metrics):
    metrics.path.unlink()
    os.mkfifo(metrics.path)
    with pytest.raises(UserError, match=r"metrics\.jsonl: cannot be read \(not a regular file\)"):
        metrics.rows()


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(UserError, match=r"metrics\.jsonl: cannot be written"):
        Metrics(tmp_path / "missing" / "metrics.jsonl").append({"step": 1})


def test_the_plot_is_a_png(tmp_path):
    pytest.importorskip("matplotlib")
    path = tmp_path / "loss.png"
    assert str(path) in write_plot([*ROWS, {"step": 30, "val_loss": 2.9}], path)
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.filterwarnings("error")
def test_a_run_that_was_only_evaluated_has_a_plot(tmp_path):
    pytest.importorskip("matplotlib")
    assert "loss curve" in write_plot([{"step": 0, "val_loss": 4.5}], tmp_path / "loss.png")


def test_smoothing_keeps_a_line_and_takes_noise_away():
    line = [float(i) for i in range(3 * WINDOW)]
    assert smoothed(line) == line
    noisy = [x + 3 * (-1) ** i for i, x in enumerate(line)]
    inner = slice(WINDOW // 2, -WINDOW // 2)
    assert max(abs(s - x) for s, x in zip(smoothed(noisy)[inner], line[inner], strict=True)) < 0.3
    assert smoothed([]) == []
    assert smoothed([2.0]) == [2.0]
    assert len(smoothed([float("inf"), float("-inf"), 1e308, 1e308])) == 4  # as a damaged file may have


def test_a_number_that_no_float_can_hold_is_not_read(metrics):
    with open(metrics.path, "a") as file:
        file.write('{"step": 40, "train_loss": 1' + "0" * 400 + "}\n")
    rows, invalid = metrics.read()
    assert rows == ROWS
    assert invalid == [f"{metrics.path}: line 4 is corrupt and left out"]


def test_without_matplotlib_one_line_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert "pip install -e '.[plot]'" in write_plot(ROWS, tmp_path / "loss.png")
    assert not (tmp_path / "loss.png").exists()

"""What a training shows: losses and samples above the bar, means instead of noise, and how it ended."""

import io
import json
import sys

import pytest

import train
from gpt.cli import run_command
from gpt.training import report
from gpt.training.checkpoint import Progress
from gpt.training.metrics import WINDOW
from gpt.training.report import Report


@pytest.fixture
def started(tiny, tmp_path):
    """A run that was stopped after 4 of 30 steps."""
    out = tmp_path / "run"
    argv = [*tiny, "--steps", "30", "--eval-interval", "10", "--log-interval", "1", "--sample-interval", "0"]
    assert run_command(train.main, [*argv, "--stop-after", "4", "--out", str(out)]) == 0
    return out


def resume(directory, *argv):
    return run_command(train.main, ["--resume", str(directory), *argv])


def losses(directory):
    """{step: training loss}."""
    rows = map(json.loads, (directory / "metrics.jsonl").read_text().splitlines())
    return {row["step"]: row["train_loss"] for row in rows if row["step"]}


def test_an_evaluation_is_a_line_with_the_mean_of_the_logged_losses(started, capsys):
    capsys.readouterr()
    assert resume(started) == 0
    lines = capsys.readouterr().out.splitlines()
    shown = [line for line in lines if line.startswith("step ")]
    assert [line.split(":")[0] for line in shown] == ["step 10", "step 20", "step 30"]
    logged = losses(started)
    for line, step in zip(shown, (10, 20, 30), strict=True):  # at step 10 also over what was logged before the stop
        mean = sum(logged[i] for i in range(step - WINDOW + 1, step + 1)) / WINDOW
        assert f"train loss {mean:.3f}, val loss " in line


def test_samples_come_before_the_first_step_at_their_interval_and_at_the_end(tiny, tmp_path, capsys):
    argv = [*tiny, "--steps", "25", "--eval-interval", "10", "--sample-interval", "20", "--out", str(tmp_path / "run")]
    assert run_command(train.main, argv) == 0
    lines = capsys.readouterr().out.splitlines()
    heads = [line for line in lines if line.startswith(("step ", "sample at "))]
    assert [head.split(":")[0] for head in heads] == [
        "step 0",
        "sample at step 0",
        "step 10",
        "step 20",
        "sample at step 20",
        "step 25",
        "sample at step 25",
    ]
    samples = [lines[lines.index(head) + 1] for head in heads if head.startswith("sample")]
    assert all(sample.startswith("    ") and sample.strip() for sample in samples)


@pytest.fixture
def shown(started):
    """The Report of the run, with its model."""
    run = train.open_run(started, {})
    model, *_ = train.make_model(run, {}, resumed=True)
    return Report(run, model, Progress(step=4))


def test_a_sample_leaves_the_model_training_and_the_terminal_unharmed(shown, monkeypatch, capsys):
    def stream(model, *_):
        assert not model.training
        yield from ((0, piece) for piece in "\x1b[31mred\nline")

    monkeypatch.setattr(report, "stream", stream)
    shown.run.train = train.TrainConfig(**{**vars(shown.run.train), "sample_interval": 2})
    capsys.readouterr()
    with shown:
        shown.advance()
    assert shown.model.training
    assert capsys.readouterr().out == "sample at step 4:\n    \ufffd[31mred\n    line\n"


def test_a_slow_model_writes_a_shorter_sample(shown, monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr(report, "stream", lambda *_: ((0, "x") for _ in range(50)))
    monkeypatch.setattr(report.time, "perf_counter", lambda: 0.2 * next(clock))
    assert shown._sample() == "xxx"


@pytest.mark.parametrize("is_terminal", [True, False])
def test_only_a_terminal_gets_a_bar(shown, monkeypatch, is_terminal):
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: is_terminal, raising=False)
    monkeypatch.setattr(sys, "stderr", stream)
    with shown:
        shown.log({"step": 5, "train_loss": 2.0, "tokens_per_second": 1234})
        shown.advance()
    assert ("30 [" in stream.getvalue()) == is_terminal


def test_a_run_that_diverged_says_so_also_when_it_is_stopped(started, monkeypatch, capsys):
    monkeypatch.setattr(report, "divergence", lambda rows, vocab_size: f"{len(rows)} rows went wrong")
    assert resume(started, "--stop-after", "6") == 0
    printed, errors = capsys.readouterr()
    assert errors == "warning: 7 rows went wrong\n"
    assert "stopped at step 6" in printed

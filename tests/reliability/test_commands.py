"""Around the work: outputs that are closed, signals, empty values, a run that diverges, errors of any length."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gpt import chat, export, generate, prepare
from gpt.cli import LossyStream, run_command, shortened
from gpt.explain import __main__ as explain
from gpt.serve import __main__ as serve
from gpt.training.metrics import divergence
from gpt.web import __main__ as web
from tests.reliability.conftest import contents, run

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("main", "argv", "name"),
    [
        (None, ["--resume", ""], "--resume"),
        (None, ["--out", ""], "--out"),
        (None, ["--data="], "--data"),
        (None, ["--steps=--"], "--steps"),
        (prepare.main, ["", "--out", "out"], "SOURCE"),
        (prepare.main, ["pydocs", "--out", ""], "--out"),
        (generate.main, [""], "DIR"),
        (chat.main, [""], "DIR"),
        (export.main, ["run", ""], "OUT"),
        (explain.main, [""], "RUN"),
        (serve.main, [""], "DIR"),
        (web.main, [""], "DIR"),
    ],
)
def test_an_empty_value_is_an_error(main, argv, name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert (run_command(main, argv) if main else run(*argv)) == 2
    assert capsys.readouterr().err == f"error: {name}: must be given a value, not an empty one\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("outputs", ["| true", "2>&1 | head -1", ">&- 2>&-"])
def test_a_closed_output_neither_ends_nor_cuts_a_training(flags, uninterrupted, tmp_path, outputs):
    out = tmp_path / "run"
    command = f'"$0" train.py "$@" {outputs}; exit ${{PIPESTATUS[0]}}'
    argv = ["bash", "-c", command, sys.executable, *flags, "--out", str(out)]
    end = subprocess.run(argv, cwd=ROOT, check=False, capture_output=True, text=True)
    assert end.returncode == 0, end.stderr
    assert "Error" not in end.stderr
    assert contents(out) == contents(uninterrupted)
    assert (out / "sample.txt").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is Linux's")
def test_a_full_output_does_not_either(flags, uninterrupted, tmp_path):
    with open("/dev/full", "w") as full:
        argv = [sys.executable, "train.py", *flags, "--out", str(tmp_path / "run")]
        assert subprocess.run(argv, cwd=ROOT, check=False, stdout=full, stderr=full).returncode == 0
    assert contents(tmp_path / "run") == contents(uninterrupted)


def test_a_preparation_whose_reader_has_left_is_complete(text_file, tmp_path):
    command = '"$0" -m gpt.prepare "$@" | true; exit ${PIPESTATUS[0]}'
    argv = [sys.executable, str(text_file), "--out", str(tmp_path / "out"), "--tokenizer", "char"]
    assert subprocess.run(["bash", "-c", command, *argv], cwd=ROOT, check=False).returncode == 0
    assert (tmp_path / "out/meta.json").exists()


def test_a_stream_that_fails_once_drops_the_rest(tmp_path):
    read, write = os.pipe()
    os.close(read)
    stream = LossyStream(os.fdopen(write, "w"))
    for _ in range(3):
        assert stream.write("text") == 4
        stream.flush()


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
def test_a_hangup_saves_as_sigterm_does_with_all_processes_of_the_run(flags, tmp_path, number):
    out = tmp_path / "run"
    argv = [*flags, "--processes", "2", "--steps", "1000000", "--checkpoint-interval", "1000000", "--out", str(out)]
    process = subprocess.Popen(
        [sys.executable, "train.py", *argv], cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 60
    while not (out / "metrics.jsonl").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, number)  # as a terminal does that is closed
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert len([*(out / "checkpoints").iterdir()]) == 1


def test_a_run_that_diverges_says_so(flags, tmp_path, capsys):
    out = tmp_path / "run"
    assert run(*flags, "--out", out, "--lr", 50, "--grad-clip", 0) == 0
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert line.endswith("it diverged: lower --lr (or Muon's --muon-lr), raise --warmup-steps or set --grad-clip")


def test_a_run_that_learns_says_nothing(flags, tmp_path, capsys):
    assert run(*flags, "--out", tmp_path / "run") == 0
    assert "warning" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("train_losses", "val_loss", "reason"),
    [
        ([4.2, 2.0], 2.1, None),
        ([4.7, 4.9], 4.9, None),  # a bigram model begins above uniform guesses
        ([4.2, 636.0], 640.0, "it diverged"),
        ([3.0, 4.1], 4.1, "it diverged"),  # one that began with another's weights
        ([4.2, 0.1], 9.0, "it has overfitted"),
        ([4.2, 5.0, 0.1], 9.0, "it has overfitted"),
    ],
)
def test_divergence_is_told_from_overfitting(train_losses, val_loss, reason):
    rows = [{"step": step, "train_loss": loss} for step, loss in enumerate(train_losses)]
    rows[-1]["val_loss"] = val_loss
    sentence = divergence(rows, vocab_size=65)
    assert (reason in sentence) if reason else sentence is None


def test_a_model_that_begins_with_anothers_weights_may_begin_far_above_uniform_guesses():
    rows = [{"step": 0, "val_loss": 11.1}, {"step": 3, "train_loss": 11.04}, {"step": 6, "train_loss": 11.0}]
    assert divergence([*rows, {"step": 6, "val_loss": 11.09}], vocab_size=300) is None
    assert "it diverged" in divergence([*rows, {"step": 6, "val_loss": 12.2}], vocab_size=300)


def test_no_error_is_longer_than_it_can_be_read(tmp_path, capsys):
    long = "x" * 5000
    for argv in (["--data", long], ["--resume", "x/" * 5000], ["--steps", long], ["--preset", "a b " * 2000], [long]):
        assert run(*argv) == 2
        line = capsys.readouterr().err
        assert line.startswith("error: ")
        assert len(line) < 700
    assert shortened("a\nb\x1b[2J\udcff é") == "a\\nb\\x1b[2J\\udcff é"
    assert shortened("a" * 200 + " b") == "a" * 200 + " b"
    assert shortened("a" * 201 + " b") == "a" * 97 + " ... " + "a" * 97 + " b"


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
def test_a_conversation_ends_at_once_when_it_is_terminated(uninterrupted, monkeypatch, capsys, number):
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda *_: signal.raise_signal(number))
    assert run_command(chat.main, [str(uninterrupted), "--device", "cpu"]) == 130
    assert capsys.readouterr().err.endswith("interrupted\n")


def test_an_error_after_a_prompt_is_on_a_line_of_its_own(uninterrupted, monkeypatch, capsys):
    def fail(*_):
        raise MemoryError
        yield

    monkeypatch.setattr(generate, "stream", fail)
    assert run_command(generate.main, [str(uninterrupted), "--prompt", "to be"]) == 2
    captured = capsys.readouterr()
    assert captured.out == "to be\n"
    assert captured.err.startswith("error: out of memory")

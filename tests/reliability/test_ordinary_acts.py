"""What users and machines do to runs: copies, moves, renames, sleep, fewer cores, files that are cut or no files."""

import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import train
from gpt import export, prepare
from gpt.cli import run_command
from gpt.errors import UserError
from gpt.training.batches import windows
from tests.reliability.conftest import contents, run

ROOT = Path(__file__).resolve().parents[2]


def resume_elsewhere(directory, *argv, **options):
    """The exit code of a process that resumes a run."""
    command = [sys.executable, "train.py", "--resume", str(directory), *map(str, argv)]
    end = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True, **options)
    assert "Traceback" not in end.stderr
    return end.returncode


@pytest.mark.parametrize("act", ["copied", "moved", "copied with new times", "archived", "linked to"])
def test_a_run_resumes_wherever_it_is(stopped, uninterrupted, tmp_path, act):
    place = tmp_path / "another place" / "another name"
    place.parent.mkdir()
    if act == "moved":
        stopped.rename(place)
    elif act == "copied":
        shutil.copytree(stopped, place)
    elif act == "copied with new times":  # as `cp -r` does
        shutil.copytree(stopped, place, copy_function=shutil.copy)
    elif act == "archived":
        shutil.unpack_archive(shutil.make_archive(str(tmp_path / "run"), "gztar", stopped), place)
    else:
        place.symlink_to(stopped)
    assert run("--resume", place) == 0
    assert contents(place) == contents(uninterrupted)


@pytest.mark.parametrize("remedy", ["move back", "copy"])
def test_a_run_whose_prepared_corpus_was_moved_says_what_to_do(
    flags, uninterrupted, text_file, tmp_path, capsys, remedy
):
    corpus, out, moved = tmp_path / "corpus", tmp_path / "run", tmp_path / "moved"
    assert run_command(prepare.main, [str(text_file), "--out", str(corpus), "--tokenizer", "char"]) == 0
    assert run(*flags, "--data", corpus, "--out", out, "--stop-after", 8) == 0
    out.rename(moved)
    corpus.rename(tmp_path / "elsewhere")
    assert run("--resume", moved) == 2
    message = f"error: {corpus}/meta.json: missing, and the token files beside it with which the run was created: move"
    assert f"{message} them back, or copy train.bin and val.bin into {moved}" in capsys.readouterr().err
    if remedy == "move back":
        (tmp_path / "elsewhere").rename(corpus)
    else:
        for name in ("train.bin", "val.bin"):
            shutil.copy(tmp_path / "elsewhere" / name, moved)
    assert run("--resume", moved) == 0
    assert contents(moved) == contents(uninterrupted)


def test_a_run_that_is_renamed_while_it_trains_is_not_written_in_two_places(stopped, tmp_path, monkeypatch, capsys):
    evaluate = train.evaluate

    def rename(*arguments):
        if stopped.exists():
            stopped.rename(tmp_path / "renamed")
        return evaluate(*arguments)

    monkeypatch.setattr(train, "evaluate", rename)
    assert run("--resume", stopped) == 2
    assert "because its directory does not exist any more" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["renamed"]
    assert run("--resume", tmp_path / "renamed") == 0


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="needs SIGSTOP")
def test_a_machine_that_sleeps_changes_nothing(flags, tmp_path):
    """As after a laptop's lid was closed: all processes of a run stop at once, and continue later."""
    argv = [*flags, "--processes", "2", "--steps", "400", "--checkpoint-interval", "100"]
    quiet = {"cwd": ROOT, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "start_new_session": True}
    slept, awake = tmp_path / "slept", tmp_path / "awake"
    process = subprocess.Popen([sys.executable, "train.py", *argv, "--out", str(slept)], **quiet)
    deadline = time.monotonic() + 60
    while not (slept / "metrics.jsonl").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    for _ in range(3):
        os.killpg(process.pid, signal.SIGSTOP)
        time.sleep(0.2)
        os.killpg(process.pid, signal.SIGCONT)
        time.sleep(0.02)
    assert process.wait(60) == 0
    assert (
        subprocess.run([sys.executable, "train.py", *argv, "--out", str(awake)], check=False, **quiet).returncode == 0
    )
    assert contents(slept, 400) == contents(awake, 400)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs sched_setaffinity")
def test_a_machine_with_fewer_cores_resumes_to_the_same_bits(flags, tmp_path):
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    argv = [sys.executable, "train.py", *flags, "--processes", "2", "--out"]
    assert subprocess.run([*argv, str(whole)], cwd=ROOT, check=False, capture_output=True).returncode == 0
    stop = ["--stop-after", "8"]
    assert subprocess.run([*argv, str(resumed), *stop], cwd=ROOT, check=False, capture_output=True).returncode == 0
    core = min(os.sched_getaffinity(0))
    assert resume_elsewhere(resumed, preexec_fn=lambda: os.sched_setaffinity(0, {core})) == 0
    assert contents(resumed) == contents(whole)


def cut(path):
    """Truncate a file to half."""
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize("name", ["train.bin", "val.bin"])
def test_a_token_file_that_becomes_shorter_while_it_is_used_ends_the_run_with_a_sentence(
    stopped, uninterrupted, monkeypatch, capsys, name
):
    evaluate, content = train.evaluate, (stopped / name).read_bytes()

    def cut_then_evaluate(*arguments):
        cut(stopped / name)
        return evaluate(*arguments)

    monkeypatch.setattr(train, "evaluate", cut_then_evaluate)
    assert run("--resume", stopped) == 2
    assert f"{name}: has become shorter while it was used: restore it from a copy" in capsys.readouterr().err
    monkeypatch.setattr(train, "evaluate", evaluate)
    (stopped / name).write_bytes(content)
    assert run("--resume", stopped) == 0
    assert contents(stopped) == contents(uninterrupted)


def test_windows_of_a_file_that_was_replaced_are_still_those_of_the_old_one(tmp_path):
    path = tmp_path / "train.bin"
    np.arange(100, dtype="<u2").tofile(path)
    tokens = np.memmap(path, dtype="<u2", mode="r")
    path.unlink()
    path.write_bytes(b"")
    assert windows(tokens, np.array([90]), 8)[1][0, -1] == 98
    path.unlink()
    assert windows(tokens, np.array([90]), 8)[1][0, -1] == 98
    np.arange(100, dtype="<u2").tofile(path)
    tokens = np.memmap(path, dtype="<u2", mode="r")
    cut(path)
    with pytest.raises(UserError, match=r"train\.bin: has become shorter"):
        windows(tokens, np.array([0]), 8)


@pytest.fixture
def _no_waiting():
    """A command that waits for something is ended by an exception."""

    def end(*_):
        raise TimeoutError("waits")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")], ids=["pipe", "device"])
@pytest.mark.parametrize(
    ("name", "code"),
    [
        *((name, 2) for name in ("config.json", "manifest.json", "meta.json", "tokenizer.json", "metrics.jsonl")),
        *((name, 2) for name in ("train.bin", "best/model.safetensors")),
        *((f"checkpoints/step-000008/{name}", 0) for name in ("state.json", "model.safetensors")),
        (".verified.json", 0),
    ],
)
@pytest.mark.usefixtures("_no_waiting")
def test_a_pipe_or_device_among_a_runs_files_is_not_read(stopped, uninterrupted, capsys, name, code, make):
    (stopped / name).unlink()
    make(stopped / name)
    assert run("--resume", stopped) == code
    if code:
        assert capsys.readouterr().err.startswith("error: ")
    else:
        assert contents(stopped) == contents(uninterrupted)


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_all_files_of_a_run_and_an_export_follow_the_umask(flags, tmp_path, umask):
    before = os.umask(umask)
    try:
        assert run(*flags, "--out", tmp_path / "run") == 0
        assert run_command(export.main, [str(tmp_path / "run"), str(tmp_path / "export")]) == 0
    finally:
        os.umask(before)
    paths = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(paths) > 15
    modes = {str(path.relative_to(tmp_path)): oct(stat.S_IMODE(path.stat().st_mode)) for path in paths}
    assert set(modes.values()) == {oct(0o666 & ~umask)}, modes

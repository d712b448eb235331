"""What users and machines do to runs: copies, moves, renames, sleep, fewer cores, files that are cut or no files."""

import json
import os
import shutil
import signal
import stat
import threading
import time

import numpy as np
import pytest
import safetensors.numpy
from tqdm import tqdm

import train
from gpt import export, prepare
from gpt.cli import run_command
from gpt.errors import UserError
from gpt.files import sha256
from gpt.training.batches import windows
from gpt.training.recipe import RENAMED
from tests.reliability.conftest import contents, run

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")


def fork(*argv, before=lambda: None):
    """The id of a process of its own group that calls `before` and then trains."""
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            tqdm.set_lock(threading.RLock())  # its own is shared by all forks
            os.setsid()
            before()
            code = run(*argv)
        finally:
            os._exit(code)
    return pid


def code_of(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


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


@needs_fork
def test_a_machine_that_sleeps_changes_nothing(flags, tmp_path):
    """As after a laptop's lid was closed: all processes of a run stop at once, and continue later."""
    argv = [*flags, "--processes", 2, "--steps", 60, "--checkpoint-interval", 30, "--eval-interval", 30]
    slept, awake = tmp_path / "slept", tmp_path / "awake"
    pid = fork(*argv, "--out", slept)
    deadline = time.monotonic() + 60
    while not (slept / "metrics.jsonl").exists():
        assert time.monotonic() < deadline
        time.sleep(0.005)
    for _ in range(3):
        os.killpg(pid, signal.SIGSTOP)
        time.sleep(0.2)
        os.killpg(pid, signal.SIGCONT)
        time.sleep(0.02)
    assert code_of(pid) == 0
    assert code_of(fork(*argv, "--out", awake)) == 0
    assert contents(slept, 60) == contents(awake, 60)


@needs_fork
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs sched_setaffinity")
def test_a_machine_with_fewer_cores_resumes_to_the_same_bits(flags, tmp_path):
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    argv = [*flags, "--processes", 2, "--out"]
    assert code_of(fork(*argv, whole)) == 0
    assert code_of(fork(*argv, resumed, "--stop-after", 8)) == 0
    core = min(os.sched_getaffinity(0))
    assert code_of(fork("--resume", resumed, before=lambda: os.sched_setaffinity(0, {core}))) == 0
    assert contents(resumed) == contents(whole)


def to_version_0_1_0(directory):
    """Turn a run into what that version would have written."""
    config, meta = (json.loads((directory / name).read_text()) for name in ("config.json", "meta.json"))
    for former, now in RENAMED.items():
        config["train"][former] = config["train"].pop(now)
    kept = ("format", "source", "dtype", "train", "val")
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "meta.json").write_text(json.dumps({name: meta[name] for name in kept}))
    for name in ("manifest.json", ".verified.json"):
        (directory / name).unlink()
    for checkpoint in (directory / "checkpoints").iterdir():
        path = checkpoint / "optimizer.safetensors"
        arrays = safetensors.numpy.load_file(path)
        safetensors.numpy.save_file(
            arrays | {"step": np.asarray(arrays["step"][0])}, path
        )  # one number for all parameters
        state = json.loads((checkpoint / "state.json").read_text())
        state["files"][path.name] = {"bytes": path.stat().st_size, "sha256": sha256(path)}
        (checkpoint / "state.json").write_text(json.dumps({name: state[name] for name in ("progress", "files")}))


def test_a_run_of_version_0_1_0_resumes_and_is_then_one_of_this_version(stopped, uninterrupted, capsys):
    to_version_0_1_0(stopped)
    assert run("--resume", stopped) == 0
    assert "if version 0.1.0 made it, dropout now draws other masks" in capsys.readouterr().err
    assert contents(stopped) == contents(uninterrupted)
    assert json.loads((stopped / "config.json").read_text()) == json.loads((uninterrupted / "config.json").read_text())
    assert (stopped / "manifest.json").exists()


def test_a_run_from_before_that_is_refused_with_a_sentence(stopped, capsys):
    to_version_0_1_0(stopped)
    (stopped / "meta.json").unlink()
    capsys.readouterr()
    assert run("--resume", stopped) == 2
    assert capsys.readouterr().err == (
        f"error: {stopped}/meta.json: missing: restore it from a copy; runs from before version 0.1.0 have none\n"
    )


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
        raise AssertionError("waits")  # not a TimeoutError, which is an OSError

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(10)
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

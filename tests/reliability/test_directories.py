"""One process at a time writes to a directory, and a new one appears complete or not at all."""

import errno
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from unittest.mock import Mock

import pytest

from gpt import export, prepare
from gpt.cli import run_command
from gpt.directories import LOCK_FILE, locked, new_directory
from gpt.errors import UserError
from tests.reliability.conftest import contents, run
from tests.reliability.forks import fork

ROOT = Path(__file__).resolve().parents[2]
HOLD = """
import sys, time
from pathlib import Path
from gpt.directories import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""
FORK = """
import os, sys, time
from pathlib import Path
from gpt.directories import locked
with locked(Path(sys.argv[1])):
    if os.fork() == 0:
        print("held", flush=True)  # once the fork has run its handlers, which leave the lock to its parent
    time.sleep(600)
"""


def python(source, *argv, **options):
    """A process that runs some source, once it has printed its first line."""
    process = subprocess.Popen(
        [sys.executable, "-c", source, *map(str, argv)], cwd=ROOT, stdout=subprocess.PIPE, text=True, **options
    )
    assert process.stdout.readline() == "held\n"
    return process


@pytest.fixture
def holder():
    """Starts processes that are killed at the end, with their children."""
    started = []

    def start(source, *argv):
        started.append(python(source, *argv, start_new_session=True))
        return started[-1]

    yield start
    for process in started:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def test_a_directory_is_locked_by_one_process_at_a_time(tmp_path, holder):
    process = holder(HOLD, tmp_path)
    with (
        pytest.raises(UserError, match=rf"is in use by process {process.pid}; wait until it has ended"),
        locked(tmp_path),
    ):
        pass
    process.kill()
    process.wait()
    assert (tmp_path / LOCK_FILE).exists()
    with locked(tmp_path):  # a lock file without its process is none
        pass
    assert not (tmp_path / LOCK_FILE).exists()


def test_a_lock_ends_with_its_process_although_a_fork_of_it_lives_on(tmp_path, holder):
    process = holder(FORK, tmp_path)
    process.kill()
    process.wait()
    with locked(tmp_path):
        pass


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="counts open files as Linux lists them")
def test_a_lock_leaves_no_file_open(tmp_path):
    before = os.listdir("/proc/self/fd")
    with locked(tmp_path / "a"):
        pass
    assert os.listdir("/proc/self/fd") == before


def test_a_fork_after_a_lock_has_ended_keeps_the_files_that_got_its_descriptor(tmp_path):
    with locked(tmp_path / "a"):
        pass
    with open(tmp_path / "file", "w") as file:
        inode = os.stat(file.name).st_ino
        pid = fork(lambda: os.fstat(file.fileno()).st_ino != inode, tmp_path / "out", tmp_path / "err")
        assert os.waitpid(pid, 0)[1] == 0, (tmp_path / "err").read_text()


def test_a_file_system_without_locks_has_none_and_one_that_fails_is_named(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")
    failure = OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
    monkeypatch.setattr(fcntl, "flock", Mock(side_effect=failure))
    with locked(tmp_path):
        pass
    failure.errno, failure.strerror = errno.EIO, os.strerror(errno.EIO)
    with pytest.raises(UserError, match=r"cannot be written \(Input/output error\)"), locked(tmp_path):
        pass


def test_a_directory_made_for_its_lock_is_removed_unless_something_was_put_into_it(tmp_path):
    with locked(tmp_path / "a/b"):
        pass
    assert not (tmp_path / "a").exists()
    with locked(tmp_path / "a/b"):
        (tmp_path / "a/b/file").touch()
    assert os.listdir(tmp_path / "a/b") == ["file"]


def test_two_resumptions_of_one_run_are_refused(stopped, holder, uninterrupted, capsys):
    process = holder(HOLD, stopped)
    assert run("--resume", stopped) == 2
    assert f"error: {stopped}: is in use by process {process.pid}" in capsys.readouterr().err
    process.kill()
    process.wait()
    assert run("--resume", stopped) == 0
    assert contents(stopped) == contents(uninterrupted)
    assert not (stopped / LOCK_FILE).exists()


def test_two_preparations_into_one_directory_are_refused(text_file, tmp_path, holder, capsys):
    out = tmp_path / "out"
    process = holder(HOLD, out)
    argv = [str(text_file), "--out", str(out), "--tokenizer", "char"]
    assert run_command(prepare.main, argv) == 2
    assert f"error: {out}: is in use by process {process.pid}" in capsys.readouterr().err
    process.kill()
    process.wait()
    assert run_command(prepare.main, argv) == 0


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt, UserError, OSError, ZeroDivisionError])
def test_whatever_fails_while_a_directory_is_filled_leaves_nothing(tmp_path, error):
    def fill():
        with new_directory([tmp_path / "a/b"], "b") as new:
            (new.path / "c").mkdir()
            raise error

    with pytest.raises(error):
        fill()
    assert not list(tmp_path.iterdir())


def test_a_new_directory_takes_the_first_free_place(tmp_path):
    (tmp_path / "1").mkdir()
    (tmp_path / "1/file").touch()
    (tmp_path / "2").mkdir()
    with new_directory([tmp_path / name for name in "123"], "x") as new:
        assert new.path.parent == tmp_path
        (new.path / "file").touch()
    assert new.path == tmp_path / "2"
    assert os.listdir(tmp_path / "2") == ["file"]
    with pytest.raises(UserError, match="exists and is not an empty directory"), new_directory([tmp_path / "1"], "x"):
        pass
    assert sorted(os.listdir(tmp_path)) == ["1", "2"]


def test_what_a_killed_creation_left_is_removed_by_the_next(tmp_path, holder):
    used, left = tmp_path / ".x.tmp-1", tmp_path / ".x.tmp-2"
    left.mkdir()
    holder(HOLD, used)
    with new_directory([tmp_path / "x"], "x"):
        pass
    assert used.exists()
    assert not left.exists()


def test_a_model_that_does_not_fit_into_memory_leaves_no_run(flags, tmp_path, monkeypatch, capsys):
    def fail(*_):
        raise MemoryError

    monkeypatch.setattr("train.build_optimizer", fail)
    assert run(*flags, "--out", tmp_path / "runs/run") == 2
    assert "error: out of memory: lower --batch-size" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_damaged_model_to_start_from_leaves_no_run(flags, uninterrupted, tmp_path, capsys):
    model = tmp_path / "model"
    assert run_command(export.main, [str(uninterrupted), str(model)]) == 0
    with open(model / "model.safetensors", "r+b") as file:
        file.truncate(2000)
    assert run(*flags[-2:], "--init-from", model, "--device", "cpu", "--out", tmp_path / "run") == 2
    assert "model.safetensors: corrupt" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["model"]


def test_an_export_that_fails_leaves_nothing(uninterrupted, tmp_path, monkeypatch, capsys):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("gpt.weights.directory.write", fail)
    assert run_command(export.main, [str(uninterrupted), str(tmp_path / "out")]) == 2
    assert "cannot be written (No space left on device)" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_current_directory_is_not_replaced(flags, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(*flags, "--out", ".") == 2
    assert "--out .: is the current directory or a mount point; name a new directory" in capsys.readouterr().err


def test_a_link_to_itself_is_one_sentence(flags, tmp_path, capsys):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert run(*flags, "--out", tmp_path / "loop") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {tmp_path / 'loop'}: ")
    assert os.listdir(tmp_path) == ["loop"]


def test_an_empty_directory_and_a_link_to_one_are_filled(flags, tmp_path):
    (tmp_path / "empty").mkdir()
    assert run(*flags, "--out", tmp_path / "empty", "--stop-after", 1) == 0
    (tmp_path / "other").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "other")
    assert run(*flags, "--out", tmp_path / "link", "--stop-after", 1) == 0
    assert (tmp_path / "link/config.json").exists()
    assert (tmp_path / "link").is_symlink()


CREATE = """
import os, sys, time
import train
from gpt import export
from gpt.cli import run_command
from gpt.corpus.token_files import TokenFiles
from gpt.weights import directory

def wait(*_):
    os.write(1, b"held\\n")
    time.sleep(600)

owner, name, main = {
    "model": (train, "build_optimizer", train.main),
    "tokens": (TokenFiles, "append", train.main),
    "export": (directory, "write", export.main),
}[sys.argv[1]]
setattr(owner, name, wait)
sys.exit(run_command(main, sys.argv[2:]))
"""


@pytest.fixture
def creation(flags, uninterrupted):
    """{what is being created: the arguments that create it, but for its directory}."""
    return {"model": [*flags, "--out"], "tokens": [*flags, "--out"], "export": [uninterrupted]}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("what", ["model", "tokens", "export"])
def test_a_signal_while_a_run_or_an_export_is_created_leaves_nothing(creation, tmp_path, what, number):
    process = python(CREATE, what, *creation[what], tmp_path / "a/new", stderr=subprocess.PIPE)
    assert [path.name for path in (tmp_path / "a").iterdir()] == [f".new.tmp-{process.pid}"]
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.endswith("interrupted\n")
    assert "Traceback" not in errors
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("what", ["tokens", "export"])
def test_what_a_kill_leaves_of_a_creation_is_removed_by_the_next(creation, uninterrupted, tmp_path, what):
    out = tmp_path / "new"
    process = python(CREATE, what, *creation[what], out)
    process.kill()
    process.communicate()
    assert os.listdir(tmp_path) == [f".new.tmp-{process.pid}"]
    if what == "export":
        assert run_command(export.main, [str(uninterrupted), str(out)]) == 0
    else:
        assert run(*creation[what], out) == 0
    assert os.listdir(tmp_path) == ["new"]


def test_a_run_deleted_while_it_trains_is_one_sentence_and_stays_deleted(flags, tmp_path):
    out = tmp_path / "a/run"
    argv = [*flags, "--out", str(out), "--steps", "1000000", "--eval-interval", "1000000"]
    process = subprocess.Popen(
        [sys.executable, "train.py", *argv], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while not (out / "checkpoints/step-000008").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    out.rename(tmp_path / "gone")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "Traceback" not in errors
    assert errors.splitlines()[-1].endswith("cannot be written, because its directory does not exist any more")
    assert not out.exists()


def test_a_preparation_whose_tokenizer_cannot_be_opened_leaves_nothing(text_file, tmp_path, capsys):
    argv = [str(text_file), "--out", str(tmp_path / "a/out"), "--tokenizer", "x" * 5000]
    assert run_command(prepare.main, argv) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert not list(tmp_path.iterdir())


def test_a_preparation_that_fails_leaves_nothing(tmp_path, capsys):
    (tmp_path / "empty.txt").touch()
    argv = [str(tmp_path / "empty.txt"), "--out", str(tmp_path / "a/out"), "--tokenizer", "char"]
    assert run_command(prepare.main, argv) == 2
    assert "contains no text" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["empty.txt"]

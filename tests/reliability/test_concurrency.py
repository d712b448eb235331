"""Several commands at once on one run or corpus: one writes, the others wait for nothing and read whole files."""

import os
import shutil
import signal
from contextlib import suppress

import pytest

import train
from gpt import export, generate, prepare
from gpt.cli import run_command
from gpt.errors import UserError
from gpt.files import sha256
from gpt.training.manifest import Manifest
from gpt.weights import load
from tests.reliability.conftest import contents, run
from tests.reliability.forks import fork, forked

STEPS = 60
GENERATE = ["run", "--tokens", 6, "--device", "cpu", "--temperature", 0]


def started(main, argv, place, name):
    """The process id of a command in the background, whose output goes to files of that name."""
    argv = [str(word) for word in argv]
    return fork(lambda: run_command(main, argv), place / f"{name}.out", place / f"{name}.err")


def ended(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def is_running(pid):
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


def together(main, argv, place):
    """How two processes ended that were given the same command at once: codes, and the errors of those refused."""
    pids = [started(main, argv, place, str(i)) for i in range(2)]
    codes = [ended(pid) for pid in pids]
    return codes, [(place / f"{i}.err").read_text() for i in range(2) if codes[i]]


@pytest.mark.parametrize("attempt", range(2))
def test_two_resumptions_at_once(attempt, stopped, uninterrupted, tmp_path):
    codes, errors = together(train.main, ["--resume", stopped], tmp_path)
    assert sorted(codes) in ([0, 0], [0, 2])  # one after the other, or one of them
    assert all("is in use by process" in text for text in errors)
    assert contents(stopped) == contents(uninterrupted)


@pytest.mark.parametrize("attempt", range(2))
def test_two_preparations_at_once(attempt, text_file, tmp_path):
    argv = [text_file, "--out", tmp_path / "out", "--tokenizer", "char"]
    codes, errors = together(prepare.main, argv, tmp_path)
    assert sorted(codes) == [0, 2]
    assert all("is in use by process" in text or "already contains a prepared corpus" in text for text in errors)
    argv[2] = tmp_path / "alone"
    assert run_command(prepare.main, [str(word) for word in argv]) == 0
    for path in (tmp_path / "alone").glob("*.bin"):
        assert path.read_bytes() == (tmp_path / "out" / path.name).read_bytes()


def test_two_exports_and_two_new_runs_at_once(uninterrupted, flags, tmp_path):
    for main, argv in (
        (export.main, [uninterrupted, tmp_path / "out"]),
        (train.main, [*flags, "--out", tmp_path / "run"]),
    ):
        codes, errors = together(main, argv, tmp_path)
        assert sorted(codes) == [0, 2]
        assert "Traceback" not in errors[0]
        assert "error: " in errors[0]
    assert contents(tmp_path / "run") == contents(uninterrupted)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["out", "run"]


@pytest.fixture(scope="module")
def history(flags, tmp_path_factory):
    """A longer run that nothing happened to, and {SHA-256: copy} of each best model that it had."""
    place = tmp_path_factory.mktemp("history")
    copies = {}
    record = Manifest.record_best

    def recorded(self, path):
        record(self, path)
        copies[sha256(path)] = shutil.copytree(path.parent.parent / "best", place / f"best-{len(copies)}")
        shutil.copy(path, copies[sha256(path)])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Manifest, "record_best", recorded)
        assert run(*flags, *longer(place / "run")) == 0
    assert len(copies) > STEPS / 4
    return place / "run", copies


def longer(out):
    return ["--steps", STEPS, "--eval-interval", 1, "--out", out]


@pytest.fixture
def training(flags, tmp_path):
    """The process id of the same run in the background."""
    pid = started(train.main, [*flags, *longer(tmp_path / "run")], tmp_path, "train")
    while not (tmp_path / "run/best/model.safetensors").exists():
        assert is_running(pid)
    yield pid
    with suppress(ProcessLookupError, ChildProcessError):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_generating_and_exporting_while_training_read_one_model_and_not_parts_of_two(training, history, tmp_path):
    finished, copies = history
    found = set()
    texts = {forked(generate.main, [copy, *GENERATE[1:]], tmp_path).output for copy in copies.values()}
    while is_running(training):
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        ends = forked(generate.main, GENERATE, tmp_path), forked(export.main, ["run", "out"], tmp_path)
        assert all(end.code == 0 or "was replaced while it was read" in end.error() for end in ends)
        if ends[0].code == 0:
            assert ends[0].output in texts
        if ends[1].code == 0:
            found.add(sha256(tmp_path / "out/model.safetensors"))
    assert found <= copies.keys()
    assert ended(training) == 0
    assert contents(tmp_path / "run", STEPS) == contents(finished, STEPS)


def test_weights_that_are_replaced_while_they_are_read_are_not_mixed(uninterrupted, tmp_path, monkeypatch):
    shutil.copytree(uninterrupted / "best", tmp_path / "best")
    reading = load.fill

    def fill(parameters, found):
        shutil.copy(uninterrupted / "best/model.safetensors", tmp_path / "new")
        os.replace(tmp_path / "new", tmp_path / "best/model.safetensors")
        reading(parameters, found)

    monkeypatch.setattr(load, "fill", fill)
    with pytest.raises(UserError, match=r"best/model\.safetensors: was replaced while it was read: give the command"):
        load.load_model(tmp_path / "best", "cpu")


def test_a_copy_made_while_training_resumes_to_the_same_bits_or_says_why_not(training, history, tmp_path):
    finished, _ = history
    ends = []
    while is_running(training):
        copy = tmp_path / f"copy-{len(ends)}"
        with suppress(shutil.Error, FileNotFoundError):  # a checkpoint that was removed meanwhile; cp goes on, too
            shutil.copytree(tmp_path / "run", copy)
        ends.append(copy)
    assert ended(training) == 0
    for copy in ends[:: max(1, len(ends) // 4)]:
        end = forked(train.main, ["--resume", copy], tmp_path)
        assert end.code in (0, 2), end
        if end.code == 2:
            end.error()
            continue
        found, expected = contents(copy, STEPS), contents(finished, STEPS)
        if "its rows up to step" in end.errors:  # they were copied before the checkpoint was saved
            del found["rows"], expected["rows"]
        assert found == expected
    assert contents(tmp_path / "run", STEPS) == contents(finished, STEPS)

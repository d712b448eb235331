"""A run that is disturbed for as long as one likes ends with the bits of one that nothing happened to.

    pytest -n 0 -s --soak-minutes 60 tests/reliability/test_soak.py

The trainer and its worker processes are interrupted, killed, stopped and continued, resumed, copied, exported and
generated from. Most of the time they are stopped, so that this costs a fraction of a core.
"""

import os
import random
import shutil
import signal
import statistics
import time
from contextlib import suppress
from pathlib import Path

import pytest

import train
from gpt import export, generate
from gpt.cli import run_command
from tests.reliability.conftest import contents
from tests.reliability.forks import fork, forked

SETTINGS = [
    "--processes",
    2,
    "--steps",
    10**7,
    "--eval-interval",
    200,
    "--log-interval",
    50,
    "--checkpoint-interval",
    100,
]
REST = 0.7  # share of the time in which the trainer is stopped
PATIENCE = 60  # seconds for what should take less than one
MAX_GROWTH = 4 << 20  # of the median of resident bytes from the second to the last third of a training


class Trainer:
    """A process that trains, or resumes a run, in a session of its own with its workers."""

    def __init__(self, argv, place):
        argv = [str(word) for word in argv]
        self.errors = place / "train.err"

        def start():
            os.setsid()
            signal.signal(signal.SIGHUP, signal.SIG_DFL)  # if this runs under nohup, where a trainer would ignore it
            os.nice(10)
            return run_command(train.main, argv)

        self.pid = fork(start, place / "train.out", self.errors)

    def wait_for_step(self, metrics, more=1):
        """Wait until as many rows have been written since now."""
        before, deadline = size(metrics), time.monotonic() + PATIENCE
        while size(metrics) < before + more:
            assert self.is_running(), self.errors.read_text()
            assert time.monotonic() < deadline, self.errors.read_text()
            time.sleep(0.02)

    def is_running(self):
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None

    def signal(self, number):
        os.killpg(self.pid, number)

    def rest(self, seconds):
        self.signal(signal.SIGSTOP)
        time.sleep(seconds)
        self.signal(signal.SIGCONT)

    def end(self, number):
        """Send a signal to the trainer alone; returns how it ended, once no process of its session is left."""
        os.kill(self.pid, number)
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        deadline = time.monotonic() + PATIENCE
        with suppress(ProcessLookupError):
            while time.monotonic() < deadline:
                os.killpg(self.pid, 0)
                time.sleep(0.02)
            pytest.fail("the trainer has ended, and a process that it started has not")
        return code

    def resources(self):
        """(resident bytes, open files, child processes) of the trainer."""
        root = Path("/proc") / str(self.pid)
        resident = int((root / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        children = (root / f"task/{self.pid}/children").read_text().split()
        return resident, len(os.listdir(root / "fd")), len(children)


@pytest.fixture
def trainers(tmp_path):
    """A function that starts a Trainer; those that a failed test leaves are killed."""
    place, started = tmp_path / "place", []
    place.mkdir()

    def start(*argv):
        started.append(Trainer(argv, place))
        return started[-1]

    yield start
    for trainer in started:
        with suppress(ProcessLookupError, ChildProcessError):
            os.killpg(trainer.pid, signal.SIGKILL)
            os.waitpid(trainer.pid, 0)


def size(path):
    return path.stat().st_size if path.exists() else 0


def last_step(directory):
    return max(int(path.name.removeprefix("step-")) for path in (directory / "checkpoints").glob("step-*"))


def disturb(start, out, place, seconds):
    """Train for a time with all that may happen meanwhile; returns how often what happened."""
    draw, counts = random.Random(seconds), {}
    trainer, metrics = None, out / "metrics.jsonl"
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if trainer is None:
            trainer = start("--resume", out)
            trainer.wait_for_step(metrics)
        act = draw.choice(["SIGTERM", "SIGINT", "SIGHUP", "SIGKILL", "stop", "generate", "export", "copy", "train"])
        counts[act] = counts.get(act, 0) + 1
        if act.startswith("SIG"):
            code = trainer.end(getattr(signal, act))
            assert code == (-signal.SIGKILL if act == "SIGKILL" else 130), (act, code, trainer.errors.read_text())
            trainer = None
            continue
        if act in ("generate", "export"):
            main, argv = (generate.main, ["--tokens", 5]) if act == "generate" else (export.main, [place / "model"])
            end = forked(main, [out, *argv], place)
            assert end.code == 0, end
            shutil.rmtree(place / "model", ignore_errors=True)
        elif act == "copy":
            copy = place / "copy"
            with suppress(shutil.Error, FileNotFoundError):  # of a checkpoint that was removed meanwhile
                shutil.copytree(out, copy)
            end = forked(train.main, ["--resume", copy, "--stop-after", last_step(copy) + 5], place)
            assert end.code == 0 or end.error(), end
            shutil.rmtree(copy)
        elif act == "train":
            trainer.wait_for_step(metrics, 1000)
        pause = draw.uniform(0.05, 0.5)
        time.sleep(pause * (1 - REST))
        trainer.rest(pause * REST)
    if trainer is None:  # killed, with rows after its last checkpoint
        trainer = start("--resume", out)
        trainer.wait_for_step(metrics)
    assert trainer.end(signal.SIGTERM) == 130
    return counts


def test_a_long_run_with_all_that_happens_to_it(flags, trainers, tmp_path, request):
    place, out = tmp_path / "place", tmp_path / "place" / "run"
    seconds = 60 * request.config.getoption("--soak-minutes")
    first = trainers(*flags, *SETTINGS, "--out", out)
    while not (out / "best/model.safetensors").exists():
        assert first.is_running(), first.errors.read_text()
        time.sleep(0.02)
    assert first.end(signal.SIGTERM) == 130
    counts = disturb(trainers, out, place, seconds)
    steps = last_step(out)

    calm = place / "calm"
    trainer = trainers(*flags, *SETTINGS, "--out", calm, "--stop-after", steps)
    samples = []
    while trainer.is_running():
        with suppress(FileNotFoundError, ProcessLookupError, IndexError):
            samples.append(trainer.resources())
        time.sleep(0.05)
    assert os.waitstatus_to_exitcode(os.waitpid(trainer.pid, 0)[1]) == 0, trainer.errors.read_text()
    assert contents(out, steps) == contents(calm, steps)
    assert sorted(os.listdir(out)) == sorted(os.listdir(calm))
    assert sorted(os.listdir(place)) == ["calm", "run", "train.err", "train.out"]

    if seconds >= 60:  # a shorter run is mostly its start
        third = len(samples) // 3
        middle, end = samples[third : 2 * third], samples[2 * third :]
        for name, bound, i in (("resident bytes", MAX_GROWTH, 0), ("open files", 0, 1), ("child processes", 0, 2)):
            before, after = (statistics.median(sample[i] for sample in part) for part in (middle, end))
            assert after <= before + bound, name
    print(f"soak: {steps} steps, {counts}")

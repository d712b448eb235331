"""Killed, or failed by the disk, at any event: nothing is lost, nothing is left, and the result is the same to the bit.

`pytest --thorough tests/reliability/test_kill.py` does it at every event, and kills at hundreds of random moments.
"""

import json
import os
import random
import shutil
import signal
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

import train
from gpt import export, prepare
from tests.reliability.conftest import contents, run
from tests.reliability.faults import Fault, run_with

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks the processes that it kills")
FEW, MANY = 4, 300  # cases of each test: quick, and thorough where not all are tried


@dataclass
class Trial:
    """A command that writes to `out`, and what to compare of it."""

    main: object
    argv: list
    again: list | None  # to repeat it where it has left a run; None: in the same words
    expected: Path
    start: Path | None = None  # what is in `out` before

    def prepare(self, out):
        shutil.rmtree(out.parent, ignore_errors=True)
        out.parent.mkdir()
        if self.start:
            shutil.copytree(self.start, out)

    def command(self, out):
        words = self.again if self.again and out.exists() else self.argv
        return [out if word == "OUT" else word for word in words]


def seen(directory):
    """{path: content} of everything below a directory but what tells the time."""
    if (directory / "metrics.jsonl").exists():
        paths = sorted(path.name for path in directory.iterdir() if path.name != "loss.png")
        return contents(directory) | {"": paths, "checkpoints": sorted(os.listdir(directory / "checkpoints"))}
    files = {str(path.relative_to(directory)): path for path in directory.rglob("*") if path.name[0] != "."}
    return {name: path.read_bytes() for name, path in files.items() if path.is_file()}


@pytest.fixture(scope="module")
def adapting(flags, uninterrupted):
    """The command of a run with LoRA."""
    return [*flags, "--init-from", uninterrupted, "--lora-rank", 2, "--out"]


@pytest.fixture(scope="module")
def adapted(adapting, tmp_path_factory):
    """That run, which nothing happened to."""
    directory = tmp_path_factory.mktemp("runs") / "adapted"
    assert run(*adapting, directory) == 0
    return directory


@pytest.fixture(params=["train", "lora", "resume", "prepare", "prepare dialogs", "export"])
def trial(request, flags, text_file, _stopped, uninterrupted, tmp_path):
    if request.param == "lora":
        command = [*request.getfixturevalue("adapting"), "OUT"]
        return Trial(train.main, command, ["--resume", "OUT"], request.getfixturevalue("adapted"))
    if request.param == "train":
        return Trial(train.main, [*flags, "--out", "OUT"], ["--resume", "OUT"], uninterrupted)
    if request.param == "resume":
        return Trial(train.main, ["--resume", "OUT"], None, uninterrupted, _stopped)
    main, argv = export.main, [uninterrupted, "OUT"]
    if request.param == "prepare dialogs":
        chat = tmp_path / "chat.jsonl"
        dialogs = [[{"role": role, "content": f"{n}"} for role in ("user", "assistant")] for n in range(60)]
        chat.write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in dialogs))
        main, argv = prepare.main, [chat, "--out", "OUT", "--vocab-size", "270", "--chat-template", "chatml"]
        argv += ["--val-share", "0.5"]
    if request.param == "prepare":
        main, argv = prepare.main, [text_file, "--out", "OUT", "--tokenizer", "char"]
    result = Trial(main, argv, None, tmp_path / "expected")
    assert run_with(main, result.command(result.expected), tmp_path / "expected").code == 0
    return result


def recover(trial, out, case):
    """Give the command again, and compare everything with what nothing happened to."""
    end = run_with(trial.main, trial.command(out), out.parent)
    if "already contains a prepared corpus" in end.errors or "exists and is not an empty directory" in end.errors:
        end = replace(end, code=0, errors="")  # all was done before it was killed, as the comparison shows
    assert end.code == 0, (case, end.errors)
    warnings = [line for line in end.errors.splitlines() if line.startswith("warning: ")]
    assert all("no checkpoint was saved yet" in line for line in warnings), (case, end.errors)
    assert os.listdir(out.parent) == [out.name], case
    expected, found = seen(trial.expected), seen(out)
    assert expected.keys() == found.keys(), case
    assert [name for name in expected if expected[name] != found[name]] == [], case


@pytest.fixture
def chosen(request):
    """Numbers up to a count: all of them if thorough, otherwise a few that are different for each seed."""

    def choose(count, seed):
        thorough = request.config.getoption("--thorough")
        numbers = range(1, count + 1)
        return numbers if thorough else sorted(random.Random(seed).sample(numbers, min(FEW, count)))

    return choose


@pytest.mark.parametrize("kind", ["KILL", "ENOSPC", "EIO"])
def test_at_any_event(trial, tmp_path, chosen, kind):
    out = tmp_path / "place" / "out"
    trial.prepare(out)
    whole = run_with(trial.main, trial.command(out), out.parent)
    assert whole.code == 0, whole.errors
    assert whole.events > 10
    for event in chosen(whole.events, kind + str(trial.argv[0])):
        trial.prepare(out)
        end = run_with(trial.main, trial.command(out), out.parent, Fault(event, kind))
        case = (kind, event, whole.events, end)
        if kind == "KILL":
            assert end.code == -signal.SIGKILL, case
        elif end.code:  # some failures need not stop the command
            assert end.code == 2, case
            assert end.errors.splitlines()[-1].startswith("error: "), case
            assert "Traceback" not in end.errors, case
        if end.code:
            recover(trial, out, case)


def test_at_any_moment(trial, tmp_path, request):
    out = tmp_path / "place" / "out"
    moments = random.Random(1)
    for _ in range(MANY if request.config.getoption("--thorough") else FEW):
        trial.prepare(out)
        delay = moments.uniform(0, 0.2)

        def kill(pid, delay=delay):
            time.sleep(delay)
            os.kill(pid, signal.SIGKILL)

        end = run_with(trial.main, trial.command(out), out.parent, until=kill)
        if end.code == -signal.SIGKILL:
            recover(trial, out, (delay, end))

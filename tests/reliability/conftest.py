"""What the tests of reliability share: a run of twelve steps that saves every fourth, and what two runs must share."""

import json
import shutil
import sys

import hypothesis
import pytest

import train
from gpt.cli import run_command
from tests.gpt.conftest import WORDS

FLAGS = {
    "--preset": "nanogpt-cpu",  # a GPT-2, which can be exported
    "--n-layer": 1,
    "--n-head": 1,
    "--n-embd": 8,
    "--block-size": 8,
    "--batch-size": 2,
    "--dropout": 0.1,
    "--warmup-steps": 2,
    "--device": "cpu",
    "--processes": 1,
    "--steps": 12,
    "--checkpoint-interval": 4,
    "--eval-interval": 3,
    "--eval-batches": 1,
    "--log-interval": 1,
}


def examples(quick, thorough):
    """Settings of hypothesis: how many examples to try, and without --thorough the same ones each time."""
    profile = hypothesis.settings.default
    return hypothesis.settings(max_examples=quick if profile.derandomize else thorough)


def run(*argv):
    """The exit code of train.py."""
    return run_command(train.main, [str(word) for word in argv])


def rows(directory):
    """The metrics without the two fields that tell the time."""
    lines = (directory / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in ("tokens_per_second", "seconds")} for line in lines]


def contents(directory, step=12):
    """All that must not differ between two runs of `step` steps: losses, weights, optimizer, best model."""
    checkpoint = directory / "checkpoints" / f"step-{step:06d}"
    files = [*checkpoint.glob("*.safetensors"), *(directory / "best").iterdir(), directory / "tokenizer.json"]
    return {str(path.relative_to(directory)): path.read_bytes() for path in files} | {"rows": rows(directory)}


@pytest.fixture(autouse=True)
def _no_plots(monkeypatch):
    """Matplotlib takes longer to draw than these runs to train."""
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)


@pytest.fixture(scope="session")
def text_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("".join(WORDS[i * i % 17 % len(WORDS)] + " \n"[i % 7 == 0] for i in range(300)))
    return path


@pytest.fixture(scope="session")
def flags(text_file):
    """A tiny run's flags."""
    return [str(word) for item in (*FLAGS.items(), ("--data", text_file)) for word in item]


@pytest.fixture(scope="session")
def uninterrupted(flags, tmp_path_factory):
    """The run that nothing happened to; read-only."""
    directory = tmp_path_factory.mktemp("runs") / "uninterrupted"
    assert run(*flags, "--out", directory) == 0
    return directory


@pytest.fixture(scope="session")
def _stopped(flags, tmp_path_factory):
    directory = tmp_path_factory.mktemp("runs") / "stopped"
    assert run(*flags, "--out", directory, "--stop-after", 8) == 0
    return directory


@pytest.fixture
def stopped(_stopped, tmp_path):
    """A run that was stopped after eight steps, with checkpoints of steps 4 and 8, to be damaged and resumed."""
    return shutil.copytree(_stopped, tmp_path / "run")

"""The same bits, and no traceback, whatever the environment: locale, time zone, umask, terminal, Python's switches.

Quick: two environments with all the differences that go together. `--thorough`: each difference by itself, too.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gpt import export, prepare
from gpt.cli import run_command
from tests.reliability.conftest import contents

ROOT = Path(__file__).resolve().parents[2]
# One process gives all commands, since most of its time is that of starting.
COMMANDS = """
import itertools, sys
import train
from gpt import export, generate, prepare
from gpt.cli import run_command

sys.modules["matplotlib.figure"] = None  # no plots: they take longer than all else
mains = {"train": train.main, "export": export.main, "generate": generate.main, "prepare": prepare.main}
given = [list(words) for end, words in itertools.groupby(sys.argv[1:], "::".__eq__) if not end]
print([run_command(mains[name], argv) for name, *argv in given])
"""
DIFFERENCES = {
    "C locale": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "POSIX locale": {"LC_ALL": "POSIX", "PYTHONUTF8": "1"},
    "Latin-1 output": {"PYTHONIOENCODING": "latin-1"},
    "time zone": {"TZ": "Pacific/Kiritimati"},
    "no time zone": {"TZ": "nowhere"},
    "hash seed": {"PYTHONHASHSEED": "12345"},
    "no asserts": {"PYTHONOPTIMIZE": "1"},
    "no docstrings": {"PYTHONOPTIMIZE": "2"},
    "development mode": {"PYTHONDEVMODE": "1"},
    "home that cannot be written": {"HOME": "/proc", "XDG_CACHE_HOME": "/proc"},
    "no home": {"HOME": "/nonexistent"},
    "no temporary directory": {"TMPDIR": "/nonexistent", "TEMP": "/nonexistent", "TMP": "/nonexistent"},
    "dumb terminal": {"TERM": "dumb", "COLUMNS": "1", "LINES": "1"},
    "no terminal": {"TERM": "", "COLUMNS": "many"},
    "closed umask": {"UMASK": "0o077"},
    "open umask": {"UMASK": "0o000"},
    "threads of BLAS": {"OPENBLAS_NUM_THREADS": "2", "OMP_NUM_THREADS": "2"},
}
TOGETHER = [
    [
        "C locale",
        "time zone",
        "hash seed",
        "no docstrings",
        "home that cannot be written",
        "dumb terminal",
        "closed umask",
    ],
    [
        "Latin-1 output",
        "no time zone",
        "development mode",
        "no home",
        "no temporary directory",
        "no terminal",
        "open umask",
    ],
]


def is_thorough(config):
    return config.getoption("--thorough")


@pytest.fixture(scope="module")
def expected(uninterrupted, text_file, tmp_path_factory):
    """What the commands make where nothing is unusual."""
    place = tmp_path_factory.mktemp("environment")
    assert run_command(prepare.main, [str(text_file), "--out", str(place / "corpus"), "--tokenizer", "char"]) == 0
    assert run_command(export.main, [str(uninterrupted), str(place / "model")]) == 0
    return made(uninterrupted, place)


def made(run, place):
    tokens = {path.name: path.read_bytes() for path in (place / "corpus").glob("*.bin")}
    return contents(run), tokens, {path.name: path.read_bytes() for path in (place / "model").iterdir()}


def commands(flags, text_file, place):
    run = str(place / "a rün 文")
    return [
        ["train", *flags, "--out", run],
        ["prepare", str(text_file), "--out", str(place / "corpus"), "--tokenizer", "char"],
        ["export", run, str(place / "model")],
        ["generate", run, "--prompt", "to be", "--device", "cpu"],
        ["generate", "文", "--seed", "文"],
    ]


@pytest.mark.parametrize("names", [*TOGETHER, *([name] for name in DIFFERENCES)], ids=lambda names: names[0])
def test_the_same_bits_in_any_environment(names, flags, text_file, expected, tmp_path, request):
    if len(names) == 1 and not is_thorough(request.config):
        pytest.skip("only with --thorough")
    changes = {name: value for difference in names for name, value in DIFFERENCES[difference].items()}
    umask = int(changes.pop("UMASK", "0o022"), 8)
    words = [word for argv in commands(flags, text_file, tmp_path) for word in [*argv, "::"]]
    end = subprocess.run(
        [sys.executable, "-c", COMMANDS, *words],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT), **changes}, umask=umask, check=False, capture_output=True,
        timeout=300,
    )  # fmt: skip
    errors = end.stderr.decode("utf-8", "replace")
    assert end.returncode == 0, errors
    assert end.stdout.splitlines()[-1] == b"[0, 0, 0, 0, 2]", errors
    assert "Traceback" not in errors
    assert errors.count("error: ") == 1
    assert made(tmp_path / "a rün 文", tmp_path) == expected

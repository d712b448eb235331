"""An installed wheel, far from any clone, trains, generates and runs the GPU path on the emulated device."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

import tinytensor as tt
from kernels import emulator

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("kernels", "tinytensor", "gpt", "train.py", "setup.cfg", "pyproject.toml", "README.md", "LICENSE")
SMALL = ["--preset=nanogpt-cpu", "--n-layer=1", "--n-head=2", "--n-embd=32", "--block-size=16", "--eval-batches=1"]
# without site, an editable install of the clone is invisible; PYTHONPATH names the dependencies instead
PYTHON = (sys.executable, "-S")
TIMEOUT = 300  # seconds; reached only by a command that hangs


def install(wheel_directory, target):
    """Build a wheel from a copy of the sources, so that no build directory is left here; install it without network."""
    copy = wheel_directory / "source"
    copy.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, copy)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", wheel_directory, copy], check=True)
    (wheel,) = wheel_directory.glob("*.whl")
    subprocess.run([*pip, "install", "-q", "--no-deps", "--no-index", "--target", target, wheel], check=True)
    return wheel


class Installation:
    """A wheel, unpacked by pip into a directory, and an empty directory to work in."""

    def __init__(self, directory):
        self.target, self.work = directory / "target", directory / "work"
        self.work.mkdir()
        self.wheel = install(directory, self.target)

    def python(self, *words):
        """Run `python words...` where the wheel and its dependencies can be imported and the clone cannot."""
        path = [self.target, sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, path))}
        return subprocess.run(
            [*PYTHON, *map(str, words)],
            cwd=self.work,
            env=environment,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )

    def script(self, name, *words):
        """Run the console script `name` likewise."""
        return self.python(self.target / "bin" / name, *words)


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    if os.name == "nt":
        pytest.skip("console scripts are executables on Windows, which `python -S` cannot run")
    return Installation(tmp_path_factory.mktemp("wheel"))


def test_the_wheel_holds_kernels_and_types_but_no_tests(installed):
    names = set(zipfile.ZipFile(installed.wheel).namelist())
    suffixes = (".cu", ".cuh", ".h", ".cpp")
    kernel_sources = {str(p.relative_to(ROOT)) for p in (ROOT / "kernels").rglob("*") if p.suffix in suffixes}
    assert kernel_sources
    assert kernel_sources <= names
    assert {"kernels/py.typed", "tinytensor/py.typed", "gpt/py.typed", "gpt/web/page.css", "gpt/web/page.js"} <= names
    top_level = {name.partition("/")[0] for name in names if ".dist-info/" not in name}
    assert top_level == {"kernels", "tinytensor", "gpt", "train.py"}


def test_version_and_name(installed):
    program = (
        "import importlib.metadata, tinytensor; print(tinytensor.__file__);"
        "print(tinytensor.__version__, importlib.metadata.version('tinytensor-gpt'))"
    )
    where, versions = installed.python("-c", program).stdout.splitlines()
    assert Path(where).is_relative_to(installed.target)
    assert versions == f"{tt.__version__} {tt.__version__}"


def test_it_trains_generates_exports_and_explains(installed):
    trained = installed.script("tinytensor-train", *SMALL, "--steps", "3", "--out", "run")
    assert trained.returncode == 0, trained.stderr
    assert "val loss" in trained.stdout
    generated = installed.script("tinytensor-generate", "run", "--prompt", "The", "--tokens", "5", "--seed", "1")
    assert generated.returncode == 0, generated.stderr
    assert generated.stdout.startswith("The")
    exported = installed.script("tinytensor-export", "run", "exported")
    assert exported.returncode == 0, exported.stderr
    assert (installed.work / "exported" / "model.safetensors").is_file()
    explained = installed.script("tinytensor-explain", "run")
    assert explained.returncode == 0, explained.stderr
    assert (installed.work / "explain.html").is_file()


@pytest.mark.skipif(not emulator.available(), reason=emulator.MISSING)
def test_it_trains_on_the_emulated_device(installed):
    words = ["--device", "emulated", *SMALL, "--steps", "2", "--out", "emulated"]
    trained = installed.script("tinytensor-train", *words)
    assert trained.returncode == 0, trained.stderr
    assert "on emulated" in trained.stdout


@pytest.mark.parametrize("name", ["train", "generate", "chat", "prepare", "export", "explain", "serve", "web"])
def test_a_mistake_on_a_console_script_is_one_sentence_and_exit_code_2(installed, name):
    done = installed.script(f"tinytensor-{name}", "--no-such-flag")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1

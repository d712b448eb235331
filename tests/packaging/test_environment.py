"""What can be wrong with a machine is said in one sentence: a foreign package `kernels`, no GPU, a driver alone."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOREIGN_KERNELS = "def get_kernel(repository):\n    raise NotImplementedError\n"  # as Hugging Face's package has it
TIMEOUT = 120  # seconds; reached only by a command that hangs

# CuPy without its CUDA libraries, on a machine with a GPU and a driver. Only the GPU is a mock: the errors are those of
# CuPy itself, which looks for NVRTC and cuBLAS when they are first used and does not find them.
DRIVER_ALONE = """
import sys
from unittest import mock

import cupy
from cupy_backends.cuda.libs import nvrtc


def compile_kernel(name):
    nvrtc.createProgram("", "kernel.cu", (), ())


def multiply(*matrices):
    from cupy_backends.cuda.libs import cublas
    cublas.create()


gpu = mock.MagicMock()
gpu.cuda.runtime.getDeviceCount.return_value = 1
gpu.cuda.runtime.CUDARuntimeError = cupy.cuda.runtime.CUDARuntimeError
gpu.cuda.compiler.CompileException = cupy.cuda.compiler.CompileException
gpu.matmul.side_effect = multiply
if sys.argv.pop(1) == "nvrtc":
    gpu.RawModule.return_value.get_function.side_effect = compile_kernel
sys.modules["cupy"] = gpu

import train

sys.exit(train.console_script())
"""


def run(*words, path, cwd, options=(), **environment):
    """The finished process of `python words...` with `path` as its PYTHONPATH."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, path))} | environment
    command = [sys.executable, *options, *map(str, words)]
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=TIMEOUT, check=False
    )


def write_package(directory, source):
    (directory / "kernels").mkdir(parents=True)
    (directory / "kernels" / "__init__.py").write_text(source)
    return directory


def test_a_clone_uses_its_own_kernels_whatever_is_installed(tmp_path):
    foreign = write_package(tmp_path / "foreign", FOREIGN_KERNELS)
    done = run("-c", "import tinytensor; print(tinytensor.ones(2).exp())", path=[foreign], cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_a_foreign_package_installed_over_ours_does_not_break_it(tmp_path):
    # pip puts two packages of one name into one directory, and the later `__init__.py` replaces the earlier
    for package in ("kernels", "tinytensor"):
        for source in (ROOT / package).rglob("*.py"):
            copy = tmp_path / source.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_text(source.read_text())
    (tmp_path / "kernels" / "__init__.py").write_text(FOREIGN_KERNELS)
    done = run("-c", "import tinytensor; print(tinytensor.__file__)", path=[tmp_path], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).is_relative_to(tmp_path)


def assert_refused(done, directory, *words):
    """Exit code 2, one line on stderr that has all `words`, and nothing written."""
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: device 'cuda")
    for word in words:
        assert word in line
    assert list(directory.iterdir()) == []


def test_without_a_gpu_device_cuda_is_refused_before_anything_is_written(tmp_path):
    done = run(ROOT / "train.py", "--device", "cuda", path=[ROOT], cwd=tmp_path, CUDA_VISIBLE_DEVICES="")
    assert_refused(done, tmp_path, "--device cpu" if importlib.util.find_spec("cupy") else "pip install -e '.[gpu]'")


@pytest.mark.parametrize("library", ["nvrtc", "cublas"])
def test_with_a_driver_alone_device_cuda_is_refused_before_anything_is_written(library, tmp_path):
    pytest.importorskip("cupy", reason="needs CuPy, but no GPU: pip install -e '.[gpu]'")
    if os.name == "nt":
        pytest.skip("hides the CUDA libraries with symbolic links")
    packages, work = tmp_path / "packages", tmp_path / "work"
    packages.mkdir()
    work.mkdir()
    for entry in Path(sysconfig.get_path("platlib")).iterdir():
        if not entry.name.startswith("nvidia"):
            (packages / entry.name).symlink_to(entry)
    # without site, Python sees these packages and no others
    where = {"path": [packages, ROOT], "cwd": work, "options": ["-S"]}
    load = "import sys, cuda.pathfinder; cuda.pathfinder.load_nvidia_dynamic_lib(sys.argv[1])"
    if run("-c", load, library, **where).returncode == 0:
        pytest.skip(f"{library} is installed on this machine, outside Python's packages")
    done = run("-c", DRIVER_ALONE, library, "--device", "cuda", **where)
    assert_refused(done, work, library, "pip install")

"""What the environment lacks is said in one sentence, or done without: folders, streams, processes, other software."""

import ctypes
import errno
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from unittest.mock import MagicMock

import pytest

import tinytensor as tt
from gpt import chat, generate
from gpt.cli import run_command
from gpt.errors import UserError
from gpt.tokenizers.bpe import BpeTokenizer
from gpt.training.metrics import write_plot
from kernels import emulator
from kernels.cpu.compiled import _loops
from kernels.emulator import compiler
from tests.reliability.conftest import run

ROOT = Path(__file__).resolve().parents[2]


def package(folder, name, source, monkeypatch):
    """Make Python find a package with this source in place of the installed one."""
    (folder / name).mkdir()
    (folder / name / "__init__.py").write_text(source)
    for module in [module for module in sys.modules if module.partition(".")[0] == name]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.syspath_prepend(folder)


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", ">&- 2>&- <&-"])
@pytest.mark.parametrize("module", ["gpt.generate", "gpt.chat"])
def test_a_standard_stream_may_be_closed(uninterrupted, module, closed):
    argv = ["bash", "-c", f'echo hi | "$0" "$@" {closed}', sys.executable, "-m", module, str(uninterrupted)]
    end = subprocess.run([*argv, "--device", "cpu", "--tokens", "3"], cwd=ROOT, check=False, capture_output=True)
    assert end.returncode == 0, end.stderr.decode()
    assert b"Error" not in end.stderr


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (OSError(errno.EMFILE, "Too many open files", "a"), "a: Too many open files; raise the limit on open files"),
        (BlockingIOError(errno.EAGAIN, "no"), "a process cannot be started: no; raise the limit on processes"),
        (RuntimeError("can't start new thread"), "no thread can be started; raise the limit on processes and threads"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "out of memory: lower --batch-size"),
        (ImportError("x.so: failed to map segment from shared object"), "out of memory: lower --batch-size"),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "a/b"), "a/b: Not a directory"),
        (OSError(errno.ELOOP, "Too many levels of symbolic links", "a"), "a: Too many levels of symbolic links"),
    ],
)
def test_what_the_system_refuses_is_one_sentence(error, sentence, capsys):
    def fail(_):
        raise error

    assert run_command(fail) == 2
    line = capsys.readouterr().err
    assert line.startswith(f"error: {sentence}")
    assert line.count("\n") == 1


def test_a_deleted_working_directory_is_one_sentence(uninterrupted, tmp_path, monkeypatch, capsys):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    for main in (generate.main, chat.main):
        assert run_command(main, [str(uninterrupted)]) == 2
        assert capsys.readouterr().err.startswith("error: the current directory cannot be used (No such file")
    assert run("--out", "run") == 2


def test_a_home_that_cannot_be_written_to_keeps_cupy_away_and_auto_says_so(tmp_path, monkeypatch):
    package(tmp_path, "cupy", "import os\nos.makedirs('/dev/null/.cupy')\n", monkeypatch)
    sentence = r"CuPy cannot be imported \(/dev/null/.cupy: Not a directory\); set CUPY_CACHE_DIR to a folder"
    with pytest.raises(tt.DeviceError, match=sentence):
        tt.device("cuda")
    with pytest.warns(UserWarning, match=sentence):
        assert tt.device("auto").name == "cpu"


@pytest.mark.parametrize("error", ["ValueError", "OSError", "RuntimeError", "ImportError"])
def test_a_run_ends_without_its_plot_if_matplotlib_fails(tmp_path, monkeypatch, error):
    monkeypatch.delitem(sys.modules, "matplotlib.figure")
    package(tmp_path, "matplotlib", f"raise {error}('Key backend: foo is not valid')", monkeypatch)
    assert write_plot([], tmp_path / "loss.png").startswith("loss.png not written: ")


@pytest.mark.skipif(not emulator.available(), reason=emulator.MISSING)
@pytest.mark.parametrize("share", [0, 0.1, 0.9])
def test_a_truncated_object_of_the_emulator_is_compiled_again(tmp_path, monkeypatch, share):
    monkeypatch.setenv("TINYTENSOR_CACHE", str(tmp_path))
    source = 'extern "C" __attribute__((visibility("default"))) int one() { return 1; }'
    path = compiler.compile_shared("one.cpp", source, compiler.COMMON)
    os.truncate(path, int(path.stat().st_size * share))
    assert compiler.compile_shared("one.cpp", source, compiler.COMMON) == path
    assert ctypes.CDLL(str(path)).one() == 1


@pytest.mark.parametrize(
    "error", [emulator.CompileError("cc1plus: not found"), OSError(errno.ENOSPC, "No space left"), RuntimeError("HOME")]
)
def test_a_compiler_or_cache_that_fails_makes_the_emulated_device_missing(monkeypatch, error):
    def fail():
        raise error

    monkeypatch.setattr(emulator, "available", lambda: True)
    monkeypatch.setattr(emulator, "runtime", fail)
    with pytest.raises(tt.DeviceError, match=r"^device 'emulated': cannot be used \(.+\); set TINYTENSOR_CACHE to"):
        tt.device("emulated")


def test_a_compiler_that_says_nothing_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("TINYTENSOR_CACHE", str(tmp_path))
    monkeypatch.setattr(compiler, "find_compiler", lambda: shutil.which("false"))
    with pytest.raises(emulator.CompileError, match=r"false has exit code 1 \(compiling one.cpp for the emulator\)"):
        compiler.compile_shared("one.cpp", "int one;", compiler.COMMON)


DAMAGE = {"truncated": lambda content: content[: len(content) // 2], "zeros": lambda content: bytes(len(content))}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("kind", ["nbi", "nbc"])
def test_a_damaged_cache_of_numba_is_compiled_again(tmp_path, monkeypatch, kind, damage):
    numba = pytest.importorskip("numba")
    jit = pytest.importorskip("kernels.cpu.loops.jit")
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    (tmp_path / "twice.py").write_text("def twice(x):\n    return 2 * x\n")

    def compiled():
        """The loop of a new process."""
        found = importlib.util.spec_from_file_location("twice", tmp_path / "twice.py")
        module = importlib.util.module_from_spec(found)
        found.loader.exec_module(module)
        return jit.loop(module.twice)

    assert compiled()(2) == 4
    (path,) = tmp_path.rglob(f"*.{kind}")
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    assert compiled()(2) == 4
    again = compiled()
    assert again(2) == 4
    assert sum(again.stats.cache_hits.values()) == 1


def test_numba_that_cannot_load_llvm_leaves_the_numpy_passes(monkeypatch):
    class Finder:
        def find_spec(self, name, *_):
            if name == "kernels.cpu.loops":
                raise OSError("Could not find/load shared object file 'libllvmlite.so'")

    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    monkeypatch.delitem(sys.modules, "kernels.cpu.loops", raising=False)
    monkeypatch.delattr("kernels.cpu.loops", raising=False)
    assert _loops.__wrapped__() is None


def test_tokenizers_without_threads_is_one_sentence(monkeypatch):
    class PanicException(BaseException):
        """What Rust raises."""

    tokenizers = MagicMock()
    tokenizers.Tokenizer().train_from_iterator.side_effect = PanicException("The global thread pool is missing")
    monkeypatch.setattr("gpt.tokenizers.bpe.import_tokenizers", lambda: tokenizers)
    monkeypatch.setattr("gpt.tokenizers.bpe.add_byte_level", lambda _: None)
    with pytest.raises(UserError, match=r"tokenizers failed, perhaps for lack of memory or threads \(The global"):
        BpeTokenizer.train(["text"], 300)

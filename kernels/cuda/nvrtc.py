"""Compile CUDA source with no GPU and no driver: NVRTC and ptxas from PyPI, for any architecture they know.

Floor 0, beside the kernels: nothing here runs a kernel. `compile_ptx` turns CUDA C into PTX through NVRTC's C
interface (CuPy's wrapper of it asks for a driver), `resources` turns that into machine code with ptxas and reads back
what it says about registers, shared memory and spills. Needs `pip install nvidia-cuda-nvrtc-cu12
nvidia-cuda-nvcc-cu12`. The table made from this is `kernels/cuda/report.py`.
"""

import ctypes
import functools
import hashlib
import os
import re
import subprocess
import tempfile
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, files, version
from pathlib import Path

from kernels.emulator.compiler import cache_directory

NVRTC, PTXAS = "nvidia-cuda-nvrtc-cu12", "nvidia-cuda-nvcc-cu12"
ARCHITECTURES = (50, 60, 61, 70, 75, 80, 86, 89, 90, 100, 120)


class CompilerMissing(RuntimeError):
    """A compiler's wheel is not installed; the message says which."""


class CompileError(RuntimeError):
    """The compiler's own messages."""


@dataclass(frozen=True)
class Resources:
    """What one thread and one block of a kernel use, as ptxas reports it."""

    registers: int  # per thread
    static_shared: int  # bytes per block, dynamic shared memory not included
    spill_stores: int  # bytes per thread
    spill_loads: int  # bytes per thread


def _wheel_file(package: str, pattern: str) -> Path:
    """The installed file of `package` whose path matches the regular expression `pattern`."""
    try:
        found = [f for f in files(package) or [] if re.search(pattern, str(f))]
    except PackageNotFoundError:
        found = []
    if not found:
        raise CompilerMissing(f"{package} is not installed: pip install {package}")
    return Path(found[0].locate())


@functools.cache
def _nvrtc() -> ctypes.CDLL:
    return ctypes.CDLL(str(_wheel_file(NVRTC, r"libnvrtc\.so\.12$|nvrtc64_120_0\.dll$")))


@functools.cache
def _ptxas() -> Path:
    return _wheel_file(PTXAS, r"bin/ptxas(\.exe)?$")


def find_compilers() -> None:
    """Raise CompilerMissing unless both compilers are installed."""
    _nvrtc(), _ptxas()


def _log(program: ctypes.c_void_p) -> str:
    size = ctypes.c_size_t()
    _nvrtc().nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    _nvrtc().nvrtcGetProgramLog(program, log)
    return log.value.decode()


@functools.cache
def compile_ptx(source: str, architecture: int, options: tuple[str, ...] = ()) -> str:
    """PTX of CUDA C `source` for sm_`architecture`. Raises CompileError with NVRTC's log."""
    nvrtc, program, size = _nvrtc(), ctypes.c_void_p(), ctypes.c_size_t()
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"kernel.cu", 0, None, None)
    try:
        flags = [option.encode() for option in (f"-arch=compute_{architecture}", *options)]
        if nvrtc.nvrtcCompileProgram(program, len(flags), (ctypes.c_char_p * len(flags))(*flags)):
            raise CompileError(_log(program))
        nvrtc.nvrtcGetPTXSize(program, ctypes.byref(size))
        ptx = ctypes.create_string_buffer(size.value)
        nvrtc.nvrtcGetPTX(program, ptx)
        return ptx.value.decode()
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


@functools.cache
def resources(source: str, architecture: int, options: tuple[str, ...] = ()) -> dict[str, Resources]:
    """{kernel name: Resources} of CUDA C `source` on sm_`architecture`. Raises CompileError.

    What ptxas said is kept in the cache directory, named by a hash of all that it depends on.
    """
    find_compilers()
    key = "\0".join([version(NVRTC), version(PTXAS), source, str(architecture), *options])
    kept = cache_directory() / "ptxas" / hashlib.sha256(key.encode()).hexdigest()[:20]
    if not kept.exists():
        log = _assemble(compile_ptx(source, architecture, options), architecture)
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=kept.parent, delete=False) as file:
            file.write(log)
        os.replace(file.name, kept)  # whole: another process may be reading
    return _parse_ptxas(kept.read_text())


def _assemble(ptx: str, architecture: int) -> str:
    """What ptxas says of PTX that it assembles for sm_`architecture`."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kernel.ptx")
        path.write_text(ptx)
        command = [_ptxas(), "-v", f"-arch=sm_{architecture}", path, "-o", Path(folder, "kernel.cubin")]
        result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise CompileError(result.stderr)
    return result.stderr


def _parse_ptxas(log: str) -> dict[str, Resources]:
    """Read ptxas -v: one paragraph per kernel, opened by "Compiling entry function 'NAME'"."""

    def number(pattern: str, text: str) -> int:
        found = re.search(pattern, text)
        return int(found[1]) if found else 0

    kernels = {}
    for paragraph in re.split(r"(?=Compiling entry function)", log)[1:]:
        name = re.search(r"Compiling entry function '(\w+)'", paragraph)[1]
        kernels[name] = Resources(
            registers=number(r"Used (\d+) registers", paragraph),
            static_shared=number(r"(\d+) bytes smem", paragraph),
            spill_stores=number(r"(\d+) bytes spill stores", paragraph),
            spill_loads=number(r"(\d+) bytes spill loads", paragraph),
        )
    return kernels

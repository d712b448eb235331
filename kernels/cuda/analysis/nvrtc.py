"""Compile CUDA source as CuPy does, with no GPU and no driver, and read back what each kernel uses.

CuPy's wrapper of NVRTC asks the driver for the architecture, so this calls NVRTC's C interface directly, for any
architecture, with CuPy's options (`CUPY_OPTIONS`). As under CuPy, NVRTC produces machine code rather than PTX; its
assembler is asked to report registers, shared memory and spills. Needs `pip install nvidia-cuda-nvrtc-cu12`, and for
kernels with `storage.cuh` of 16 bits `nvidia-cuda-runtime-cu12` and CuPy, which have the headers.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import re
import tempfile
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, files, version
from pathlib import Path

from kernels.emulator.compiler import cache_directory

NVRTC, RUNTIME = "nvidia-cuda-nvrtc-cu12", "nvidia-cuda-runtime-cu12"
ARCHITECTURES = (50, 60, 61, 70, 75, 80, 86, 89, 90, 100, 120)
# What CuPy 14 passes for a RawModule besides -arch and include directories.
CUPY_OPTIONS = ("--std=c++17", "-ftz=true", "--device-as-default-execution-space")


class CompilerMissing(RuntimeError):
    """NVRTC is not installed; the message says how to install it."""


class CompileError(RuntimeError):
    """The compiler's own messages."""


@dataclass(frozen=True)
class Resources:
    """What one thread and one block of a kernel use, as the assembler reports it."""

    registers: int  # per thread
    static_shared: int  # bytes per block, dynamic shared memory not included
    spill_stores: int  # bytes per thread
    spill_loads: int  # bytes per thread


@functools.cache
def load_nvrtc() -> ctypes.CDLL:
    """NVRTC's shared library from its PyPI wheel. Raises CompilerMissing."""
    try:
        found = [f for f in files(NVRTC) or [] if re.search(r"libnvrtc\.so\.12$|nvrtc64_120_0\.dll$", str(f))]
    except PackageNotFoundError:
        found = []
    if not found:
        raise CompilerMissing(f"{NVRTC} is not installed: pip install {NVRTC}")
    return ctypes.CDLL(str(found[0].locate()))


@functools.cache
def include_options() -> tuple[str, ...]:
    """Where cuda_fp16.h and cuda_bf16.h are, and what they include from CuPy's own copies. Raises CompilerMissing."""
    try:
        (header,) = (file for file in files(RUNTIME) or [] if file.name == "cuda_bf16.h")
        (target,) = (file for file in files("cupy-cuda12x") or [] if str(file).endswith("libcudacxx/nv/target"))
    except (PackageNotFoundError, ValueError):
        raise CompilerMissing(f"kernels of 16 bits need headers: pip install {RUNTIME} cupy-cuda12x") from None
    return (f"-I{Path(header.locate()).parent}", f"-I{Path(target.locate()).parents[1]}")


@functools.cache
def resources(source: str, architecture: int, options: tuple[str, ...] = ()) -> dict[str, Resources]:
    """{kernel name: Resources} of CUDA C `source` on sm_`architecture`, compiled with `options` and CUPY_OPTIONS.

    Raises CompilerMissing, or CompileError with NVRTC's log. What the assembler reported is stored in the cache
    directory, under a hash of everything that it depends on.
    """
    options = (*options, *CUPY_OPTIONS)
    load_nvrtc()
    sixteen_bits = any(option.startswith("-DSTORAGE") for option in options)
    headers = include_options() if sixteen_bits and "#include <cuda_" in source else ()
    key = "\0".join([version(NVRTC), source, str(architecture), *options])
    cached = cache_directory() / "nvrtc" / hashlib.sha256(key.encode()).hexdigest()[:20]
    if not cached.exists():
        log = compiler_log(source, (f"-arch=sm_{architecture}", *options, *headers, "--ptxas-options=-v"))
        cached.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=cached.parent, delete=False) as file:
            file.write(log)
        os.replace(file.name, cached)  # renamed into place: another process may be reading
    return _parse_log(cached.read_text())


def compiler_log(source: str, options: tuple[str, ...]) -> str:
    """NVRTC's messages on compiling `source` with exactly these options. Raises CompileError with them if it fails."""
    return compiled(source, options)[0]


def compiled(source: str, options: tuple[str, ...]) -> tuple[str, bytes]:
    """NVRTC's messages, and the module's machine code. Raises CompileError with the messages if it fails."""
    nvrtc, program = load_nvrtc(), ctypes.c_void_p()
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"kernel.cu", 0, None, None)
    try:
        flags = [option.encode() for option in options]
        failed = nvrtc.nvrtcCompileProgram(program, len(flags), (ctypes.c_char_p * len(flags))(*flags))
        size = ctypes.c_size_t()
        nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
        log = ctypes.create_string_buffer(size.value)
        nvrtc.nvrtcGetProgramLog(program, log)
        if failed:
            raise CompileError(log.value.decode())
        nvrtc.nvrtcGetCUBINSize(program, ctypes.byref(size))
        code = ctypes.create_string_buffer(size.value)
        nvrtc.nvrtcGetCUBIN(program, code)
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    return log.value.decode(), code.raw


def _parse_log(log: str) -> dict[str, Resources]:
    """One paragraph per kernel, opened by "Compiling entry function 'NAME'"."""

    def number(pattern: str, text: str) -> int:
        found = re.search(pattern, text)
        return int(found[1]) if found else 0

    kernels = {}
    for paragraph in re.split(r"(?=Compiling entry function)", log)[1:]:
        name = re.match(r"Compiling entry function '(\w+)'", paragraph)
        kernels[name[1] if name else ""] = Resources(
            registers=number(r"Used (\d+) registers", paragraph),
            static_shared=number(r"(\d+) bytes smem", paragraph),
            spill_stores=number(r"(\d+) bytes spill stores", paragraph),
            spill_loads=number(r"(\d+) bytes spill loads", paragraph),
        )
    return kernels

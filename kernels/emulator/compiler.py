"""CUDA source to shared object: finds the host's C++ compiler and caches what it built.

`build_module` compiles one `.cu` text against device.h, `build_runtime` the scheduler and the checker that every
module links to. Objects are named by a hash of all that went into them, end with their own, and are renamed into
place whole, so neither parallel processes nor a crash of the machine leave half a file to be loaded.
Next: module.py, which loads and launches.
"""

import functools
import hashlib
import os
import platform
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from kernels.caches import make_private
from kernels.emulator.errors import CompileError
from kernels.emulator.source.declarations import add_checks
from kernels.emulator.source.launches import end_main, has_main, overloaded_kernels, translate_launches
from kernels.emulator.source.translate import (
    ANY_INCLUDE,
    find_kernels,
    host_options,
    inline_includes,
    rename_own_types,
    translate,
)

HERE = Path(__file__).parent
SEARCH = [f"-I{HERE / 'include'}", f"-I{HERE / 'runtime'}"]
RUNTIME = ("runtime", "checker", "order", "access_counts", "hooks")  # the .cpp files, in the order of their use
COMMON = ["-std=c++17", "-fPIC", "-pthread", "-march=native", "-fno-strict-aliasing", "-Wno-unknown-pragmas"]
COMMON += ["-Wno-narrowing"]  # `int pair[] = {i, 0}` of a wider i: an error to C++, a warning to NVRTC
# Hidden: two modules may each have a kernel `k`, or instances of the same template, and must not meet.
COMMON += ["-fvisibility=hidden", "-fno-semantic-interposition"]
# Without contraction all builds give the same bits. (A GPU fuses more; write fmaf where it matters.)
# A GPU has neither errno nor traps. Line tables, so that a fault can name its line.
COMMON += ["-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-g1"]
LINK = ["-shared", "-pthread", "-o", "built.so"]
FAST = ["-O3", "-fstack-clash-protection"]
# The thread sanitizer's pass makes each load and store a call, which hooks.cpp answers instead of its own runtime.
# Likewise the bounds of arrays whose size the source states, the alignment of vector types, and arithmetic that C++
# leaves undefined. Vectorizing would merge the accesses of several source lines.
CHECKED = ["-DEMULATOR_CHECKED", "-O1", "-fno-tree-vectorize", "-fstack-clash-protection"]
CHECKED += ["-fsanitize=thread,bounds,alignment,signed-integer-overflow,shift-exponent,float-cast-overflow"]
# Else the static variables of a template would be one for all modules of the process.
GNU_COMMON = ["-fno-gnu-unique"]
# A load stays where the source has it, and is not made later, behind the condition under which alone its value is used.
GNU_CHECKED = ["--param=tsan-distinguish-volatile=1", "-fno-tree-sink"]
# clang++ omits a read that is followed by a write to the same address; the read may be uninitialized or out of bounds.
CLANG_CHECKED = ["-mllvm", "-tsan-instrument-read-before-write", "-mllvm", "-tsan-distinguish-volatile"]
# As nvcc: a product and a sum become one fused multiply-add where the source allows; see include/emulator/math.h.
ROUNDED = ["-DEMULATOR_GPU_ROUNDING", "-ffp-contract=fast"]
KINDS = {
    "fast": FAST,
    "checked": CHECKED,
    "counted": ["-DEMULATOR_COUNT_FLOPS", *CHECKED],
    "lines": [*CHECKED, "-fno-tree-sra"],  # replacing structs by their members would split a load of a float4
    "rounded": [*FAST, *ROUNDED],
}
DIGEST_BYTES = 32
MISSING = "the emulator needs a C++ compiler: install g++ or clang++ (Debian: apt install g++), or set CXX"


@functools.cache
def find_compiler():
    """Absolute path of the C++ compiler ($CXX, g++ or clang++), or None."""
    names = [os.environ.get("CXX"), "g++", "clang++"]
    return next((path for name in names if name and (path := shutil.which(name))), None)


@functools.cache
def find_tool(name):
    """Absolute path of a tool that reads object files, under its GNU or its LLVM name."""
    path = shutil.which(name) or shutil.which(f"llvm-{name}")
    if path is None:
        raise CompileError(f"the emulator needs {name}: install binutils or llvm")
    return path


def available():
    """Whether this machine can compile kernels for the emulator."""
    return find_compiler() is not None


def cache_directory():
    """Where compiled things are kept: $TINYTENSOR_CACHE, else tinytensor/ in the user's cache directory."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("TINYTENSOR_CACHE") or Path(base) / "tinytensor")


def object_directory():
    """Where compiled objects are kept, a folder of its own: what `make_private` may delete is ours.

    CompileError if it belongs to another user, who could have put anything there.
    """
    directory = cache_directory() / "emulator"
    if not make_private(directory):
        raise CompileError(f"{directory}: belongs to another user; set TINYTENSOR_CACHE to a directory of your own")
    return directory


@functools.cache
def compiler_version():
    """What the compiler says of itself."""
    return subprocess.run([find_compiler(), "--version"], capture_output=True, text=True).stdout


@functools.cache
def fingerprint():
    """What a compiled object depends on besides its source: compiler, processor, and the emulator's own sources."""
    try:
        processor = re.search(r"^(flags|Features)\s*:.*$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)[0]
    except (OSError, TypeError):
        processor = platform.processor()
    files = [*(HERE / "include").rglob("*"), *(HERE / "runtime").iterdir(), *(HERE / "source").glob("*.py")]
    sources = "".join(path.read_text() for path in sorted(files) if path.is_file())
    return "\n".join([find_compiler(), compiler_version(), platform.machine(), processor, sources])


def export_kernels(text, name_expressions, program=False):
    """C++ lines that make each kernel of `text` callable through emulator_call_N and describe it to Python.

    Not those of a program whose name is also that of a function of the host.
    """
    command = [find_compiler(), "-E", "-P", "-x", "c++", "-"]
    text = ANY_INCLUDE.sub("", text)  # they would define what marks a kernel
    preprocessed = subprocess.run(command, input=text, capture_output=True, text=True).stdout
    kernels, templates = find_kernels(preprocessed)
    known = templates | kernels
    for name in overloaded_kernels(preprocessed) if program else ():
        kernels.pop(name, None)
    for expression in name_expressions:  # the bounds of a template may depend on its arguments
        name = expression.partition("<")[0].rpartition("::")[2].strip()
        kernels[expression] = ("(1024)", *known.get(name, (None, [], []))[1:])
    lines = [f"EMULATOR_KERNEL({i}, {kernels[name][0]}, {name})" for i, name in enumerate(kernels)]
    rows = (f"{name}|{','.join(names)}|{','.join(restricted)}\\n" for name, (_, names, restricted) in kernels.items())
    return "\n".join([*lines, f'EMULATOR_EXPORT const char emulator_kernels[] = "{"".join(rows)}";', ""])


def is_complete(path):
    """Whether a cached object ends with the SHA-256 of the rest. Loading a truncated one would kill the process."""
    content = path.read_bytes() if path.exists() else b""
    return hashlib.sha256(content[:-DIGEST_BYTES]).digest() == content[-DIGEST_BYTES:]


def compile_shared(stem, text, flags, libraries=(), finish=str):
    """Path of the shared object that `finish(text)` compiles to; built only if the cache has none for `text`."""
    if not available():
        raise CompileError(MISSING)
    key = hashlib.sha256("\0".join([fingerprint(), stem, text, *flags, *libraries]).encode()).hexdigest()[:20]
    directory = object_directory() / key
    target = directory / f"{stem}.so"
    if is_complete(target):
        return target
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory) as scratch:
        source, built = Path(scratch) / stem, Path(scratch) / "built.so"
        source.write_text(finish(text))
        # Linking apart from compiling: there the sanitizer's flags would add its own runtime.
        compile_step = [*flags, *SEARCH, "-x", "c++", "-c", stem, "-o", "built.o"]
        for command in (compile_step, [*LINK, "built.o", *libraries]):
            result = subprocess.run([find_compiler(), *command], cwd=scratch, capture_output=True, text=True)
            if result.returncode:
                said = result.stderr.strip() or f"{find_compiler()} has exit code {result.returncode}"
                errors = [line for line in said.splitlines() if "error" in line] or [said]
                raise CompileError(f"{errors[0].strip()} (compiling {stem} for the emulator)")
        with open(built, "ab") as file:
            file.write(hashlib.sha256(built.read_bytes()).digest())
        os.replace(source, directory / stem)
        os.replace(built, target)
    return target


@functools.cache
def build_runtime():
    """Path of the emulator's own shared object."""
    text = "".join(f'#include "{HERE / "runtime" / name}.cpp"\n' for name in RUNTIME)
    return compile_shared("runtime.cpp", text, [*COMMON, "-O2"])


def build_module(code, name, options, name_expressions, kind, program=False):
    """Path of the shared object of one `.cu` text, every kernel in it exported; `kind` is a key of KINDS.

    program: the source has code for the host, with `kernel<<<...>>>(...)` and perhaps a `main`.
    """
    runtime = str(build_runtime())  # first: it says what is missing where there is no compiler
    macros, directories = host_options(options)
    code = translate(inline_includes(code, name, directories), name)
    macros += rename_own_types(code)
    header, footer = "emulator/device.h", ""
    if program:
        code, header = translate_launches(code, name), "emulator/program.h"
        if has_main(code):
            code, footer = end_main(code), "EMULATOR_MAIN\n"
    flags = [*COMMON, *KINDS[kind], *(f"-I{directory}" for directory in directories)]
    watched = kind in ("checked", "counted", "lines")
    is_clang = "clang" in compiler_version()
    flags += [] if is_clang else GNU_COMMON
    if watched:
        flags += CLANG_CHECKED if is_clang else GNU_CHECKED

    def build(code):
        # The macros come after device.h: a -DD=32 must not change the system's headers.
        text = f'#include "{header}"\n{macros}#line 1 "{name}"\n{code}\n{footer}// {" ".join(name_expressions)}\n'
        return compile_shared(
            name, text, flags, [runtime], lambda text: text + export_kernels(macros + code, name_expressions, program)
        )

    if not watched:
        return build(code)
    try:
        return build(add_checks(code))
    except CompileError:  # a jump past a declaration, say: then without the destructors of announced variables
        return build(add_checks(code, locals_too=False))

"""Checks plain CUDA sources: what each kernel compiles to, and what a launch or the file's own `main` does wrong.

    python -m kernels.emulator check saxpy.cu --launch "saxpy<<<4, 256>>>(rand(1000), zeros(1000), 2.0, 1000)"
    python -m kernels.emulator check vector_add.cu            # runs its main()

Launches can also stand in a file beside the source, saxpy.launches, one a line. Exit code 0: no findings, 1: findings,
2: the input is at fault. Next: programs.py.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from kernels.emulator.checks import checked, notes
from kernels.emulator.compiler import MISSING, available
from kernels.emulator.errors import CompileError, EmulatorError, LaunchError
from kernels.emulator.module import RawModule
from kernels.emulator.source.launches import TEMPLATE_KERNEL, has_main
from kernels.emulator.source.scan import blank
from kernels.emulator.source.translate import inline_includes
from kernels.emulator.tool import launches

MACRO = re.compile(r"[A-Za-z_]\w*(\([\w, .]*\))?(=.*)?", re.DOTALL)
KINDS = {"f": "float", "i": "int", "b": "bool", "v": "struct", "B": "bfloat", "p": "address", "c": "complex"}


def add_arguments(parser):
    """The command line of `check`."""
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE.cu")
    parser.add_argument(
        "--launch", action="append", default=[], help="KERNEL<<<GRID, BLOCK>>>(ARGUMENTS); may be repeated"
    )
    parser.add_argument("--main", default=None, metavar="ARGUMENTS", help="run main() with these arguments")
    parser.add_argument("--no-main", action="store_true", help="do not run main()")
    parser.add_argument("--orders", type=positive, default=3, help="orders of threads and blocks to try (default: 3)")
    parser.add_argument("--same-value-writes", action="store_true", help="threads may write one value to one place")
    parser.add_argument("--deterministic", action="store_true", help="atomics whose order decides are findings")
    parser.add_argument("--count-lines", action="store_true", help="count bank conflicts and uncoalesced accesses")
    parser.add_argument("-D", dest="macros", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("-I", dest="folders", action="append", default=[], metavar="FOLDER")


def positive(text):
    """A number of orders, at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be a whole number of at least 1")
    return int(text)


class Checker:
    """Checks files one after another and counts findings. LaunchError if an option cannot mean anything."""

    def __init__(self, options):
        self.options, self.findings, self.launched = options, 0, set()
        for folder in options.folders:
            if not Path(folder).is_dir():
                raise LaunchError(f"-I {folder}: is no folder")
        for macro in options.macros:
            if not MACRO.fullmatch(macro):
                raise LaunchError(f"-D {macro!r}: must be NAME or NAME=VALUE")
        self.compiler = [f"-D{macro}" for macro in options.macros] + [f"-I{folder}" for folder in options.folders]

    def check(self, path):
        """Checks one file. Raises CompileError, or LaunchError for what is wrong with the command line."""
        code = _read(path)
        program = has_main(code) or "<<<" in code
        if self.options.main is not None and not has_main(code):
            raise LaunchError(f"--main {self.options.main!r}: {path} has no main")
        module = RawModule(code, options=(*self.compiler, f"-I{path.parent}"), name=path.name)
        module.program = program
        wanted = self._wanted(path)
        whole = inline_includes(code, path.name, [*self.options.folders, path.parent])
        templates = set(TEMPLATE_KERNEL.findall(blank(whole)))
        instances = dict.fromkeys(launch.kernel for launch in wanted if "<" in launch.kernel)
        if len(self.options.files) > 1:  # then another file may have the template
            instances = [name for name in instances if name.partition("<")[0].rpartition("::")[2] in templates]
        module.name_expressions = tuple(instances)
        with checked():
            kernels = module.build().kernels
        module.name_expressions = tuple(kernels)  # also those that are not extern "C", which CuPy would not find
        for name in kernels:
            self._describe(path, module, name)
        for launch in wanted:
            if launch.kernel in kernels:
                self._launch(path, module, launch)
                self.launched.add(launch.text)
            elif launch.kernel in templates:
                name = launch.kernel
                raise LaunchError(f"{path}: {name} is a template: name its arguments, as in {name}<float><<<1, 32>>>")
            elif len(self.options.files) == 1 or not self.options.launch:
                raise LaunchError(f"{path}: has no kernel {launch.kernel!r}; it has {', '.join(kernels) or 'none'}")
        runs_main = has_main(code) and not self.options.no_main and (self.options.main is not None or not wanted)
        if runs_main:
            self._main(path)
        if not kernels and not runs_main:
            print(f"{path}: note: has no kernel to check")
        elif not wanted and not runs_main:
            print(f"{path}: note: compiled only: no --launch, no main to run, no {path.with_suffix('.launches').name}")

    def _wanted(self, path):
        """The LaunchTexts of --launch, else of the file beside `path`."""
        beside = _beside(path)
        if self.options.launch and beside:
            print(f"{path}: note: {path.with_suffix('.launches')} is not read, as --launch is given")
        return [launches.parse(text) for text in self.options.launch or beside]

    def check_all_launched(self):
        """LaunchError for a launch of --launch whose kernel is in none of the files."""
        for text in self.options.launch:
            if launches.parse(text).text not in self.launched:
                raise LaunchError(f"{text!r}: none of the files has that kernel")

    def _describe(self, path, module, name):
        with checked():
            kernel = module.get_function(name)
        parameters = ", ".join(_parameter(*p) for p in kernel.parameters)
        print(f"{path}: {name}({parameters}) compiles; {kernel.shared_size_bytes} bytes of static shared memory")

    def _launch(self, path, module, launch):
        results, last = [], None
        for seed in range(self.options.orders):
            options = {
                name: getattr(self.options, name) for name in ("same_value_writes", "deterministic", "count_lines")
            }
            with checked(seed, **options) as seen:
                kernel = module.get_function(launch.kernel)
                values, named = launches.arguments(launch, kernel.parameters, np.random.default_rng(0))
                try:
                    kernel.max_dynamic_shared_size_bytes = max(launch.shared, kernel.max_dynamic_shared_size_bytes)
                    kernel(launch.grid, launch.block, values, shared_mem=launch.shared)
                except LaunchError:
                    raise
                except EmulatorError as error:
                    self._find(path, f"{type(error).__name__}: {error}")
                    return
            last = seen[0]
            arrays = {name: getattr(array, "host", array) for name, array in named.items()}
            results.append({name: array.copy() for name, array in arrays.items() if array.nbytes < 1 << 28})
        for name, first in results[0].items():
            others = [result[name] for result in results[1:] if result[name].tobytes() != first.tobytes()]
            if others and last.not_deterministic and all(_differ_by_rounding(first, other) for other in others):
                print(f"{path}: note: {name} differs between orders of the threads by rounding: {launch.text}")
            elif others:
                self._find(path, f"NotDeterministic: {name} differs between orders of the threads: {launch.text}")
        for sentence in notes(last):
            print(f"{path}: note: {sentence}")
        print(
            f"{path}: {launch.kernel}<<<{launch.grid}, {launch.block}>>> ran in {self.options.orders} orders: read "
            f"{last.bytes_read:,} bytes, wrote {last.bytes_written:,}, passed {last.barriers} barriers"
        )

    def _main(self, path):
        """Runs main() once for each order of the threads; what it prints is shown once. Stops at the first finding."""
        for seed in range(self.options.orders):
            code, lines = self._run_program(path, seed, None if seed == 0 else subprocess.DEVNULL)
            for kind, text in lines:
                if kind == "error":
                    raise CompileError(text)
                if kind == "finding":
                    self._find(path, text)
            if code or any(kind == "finding" for kind, _ in lines):
                break
        for sentence in dict.fromkeys(text for kind, text in lines if kind == "note"):
            print(f"{path}: note: {sentence}")
        count = {name: sum(1 for kind, text in lines if (kind, text) == ("launch", name)) for _, name in lines}
        ran = ", ".join(f"{name} {number} times" for name, number in count.items() if number) or "no kernel"
        ended = f"main() returned {code}" if code >= 0 else f"main() was killed by signal {-code}"
        print(f"{path}: {ended}; without a finding ran {ran}, in {seed + 1} order{'s' * (seed > 0)}")
        if code and not any(kind == "finding" for kind, _ in lines):
            self._find(path, f"{ended}; it must return 0")

    def _run_program(self, path, seed, output):
        """(exit code, [(kind, text)] of its report) of main() in a process of its own."""
        with tempfile.TemporaryDirectory() as folder:
            report = Path(folder) / "report"
            words = [sys.executable, "-m", "kernels.emulator.tool.programs", f"--report={report}"]
            words += ["--same-value-writes"] * self.options.same_value_writes
            words += ["--deterministic"] * self.options.deterministic + ["--count-lines"] * self.options.count_lines
            words += [f"--seed={seed}", *(f"--option={option}" for option in self.compiler)]
            words += [str(path), *(self.options.main or "").split()]
            environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
            code = subprocess.run(words, env=environment, check=False, stdout=output).returncode
            lines = [json.loads(line) for line in report.read_text().splitlines()] if report.exists() else []
        return code, lines

    def _find(self, path, text):
        self.findings += 1
        print(f"{path}: {text}")


def _read(path):
    """The text of a file. CompileError if it is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise CompileError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8") from None


def _beside(path):
    """The launches in the file beside `path`, if there is one."""
    beside = path.with_suffix(".launches")
    lines = _read(beside).splitlines() if beside.exists() else []
    return [line for line in lines if line.strip() and not line.strip().startswith(("#", "//"))]


def _differ_by_rounding(a, b):
    """Whether two arrays of floats agree in half of their digits."""
    if a.dtype.kind != "f":
        return False
    scale = np.abs(a, dtype=np.float64).max()
    return bool(np.abs(a - b.astype(np.float64)).max() <= np.sqrt(np.finfo(a.dtype).eps) * scale)


def _parameter(name, parameter, restricted):
    """A parameter as C would declare it, near enough."""
    if parameter.kind == b"a":
        return f"CArray of {parameter.size} dimensions {name}"
    if parameter.kind != b"p":
        return f"{KINDS[parameter.kind.decode()]}{8 * parameter.size} {name}"
    pointee = f"{KINDS[parameter.pointee.decode()]}{8 * parameter.pointee_size}"
    if parameter.components:
        bits = 8 * parameter.pointee_size // parameter.components
        pointee = f"{KINDS[parameter.component.decode()]}{bits}x{parameter.components}"
    pointee = "const " * bool(parameter.constant) + pointee
    return f"{pointee} *{'__restrict__ ' * restricted}{name}"


def main(words=None):
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m kernels.emulator", description="CUDA on the CPU, checked")
    commands = parser.add_subparsers(dest="command", required=True)
    add_arguments(commands.add_parser("check", help="compile and run CUDA sources, and report what is wrong"))
    options = parser.parse_args(words)
    try:
        if not available():
            raise CompileError(MISSING)
        checker = Checker(options)
        for path in options.files:
            checker.check(path)
        checker.check_all_launched()
    except UnicodeDecodeError as error:
        print(f"error: an included file is not UTF-8; save it as UTF-8: {error}", file=sys.stderr)
        return 2
    except MemoryError as error:
        print(f"error: the launch needs more memory than this machine has: {error}", file=sys.stderr)
        return 2
    except (EmulatorError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{checker.findings} finding{'s' * (checker.findings != 1)}")
    return 1 if checker.findings else 0

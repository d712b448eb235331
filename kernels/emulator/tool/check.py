"""Checks plain CUDA sources: what each kernel compiles to, and what a launch or the file's own `main` does wrong.

    python -m kernels.emulator check saxpy.cu --launch "saxpy<<<4, 256>>>(rand(1000), zeros(1000), 2.0, 1000)"
    python -m kernels.emulator check vector_add.cu            # runs its main()

Launches can also stand in a file beside the source, saxpy.launches, one a line. Exit code 0: no findings, 1: findings,
2: the input is at fault. Next: programs.py.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from kernels.emulator.checks import checked
from kernels.emulator.compiler import MISSING, available
from kernels.emulator.errors import CompileError, EmulatorError, LaunchError
from kernels.emulator.module import RawModule
from kernels.emulator.source.launches import has_main
from kernels.emulator.tool import launches

KINDS = {"f": "float", "i": "int", "b": "bool", "v": "struct", "B": "bfloat", "p": "address"}


def add_arguments(parser):
    """The command line of `check`."""
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE.cu")
    parser.add_argument(
        "--launch", action="append", default=[], help="KERNEL<<<GRID, BLOCK>>>(ARGUMENTS); may be repeated"
    )
    parser.add_argument("--main", default=None, metavar="ARGUMENTS", help="run main() with these arguments")
    parser.add_argument("--no-main", action="store_true", help="do not run main()")
    parser.add_argument("--orders", type=int, default=3, help="orders of threads and blocks to try (default: 3)")
    parser.add_argument("--same-value-writes", action="store_true", help="threads may write one value to one place")
    parser.add_argument("--deterministic", action="store_true", help="atomics whose order decides are findings")
    parser.add_argument("--count-lines", action="store_true", help="count bank conflicts and uncoalesced accesses")
    parser.add_argument("-D", dest="macros", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("-I", dest="folders", action="append", default=[], metavar="FOLDER")


class Checker:
    """Checks files one after another and counts findings."""

    def __init__(self, options):
        self.options, self.findings = options, 0
        self.compiler = [f"-D{macro}" for macro in options.macros] + [f"-I{folder}" for folder in options.folders]

    def check(self, path):
        """Checks one file. Raises CompileError, or LaunchError for what is wrong with the command line."""
        code = path.read_text()
        program = has_main(code) or "<<<" in code
        module = RawModule(code, options=(*self.compiler, f"-I{path.parent}"), name=path.name)
        module.program = program
        texts = self.options.launch or _beside(path)
        wanted = [launches.parse(text) for text in texts]
        module.name_expressions = tuple(dict.fromkeys(launch.kernel for launch in wanted if "<" in launch.kernel))
        with checked():
            kernels = module.build().kernels
        module.name_expressions = tuple(kernels)  # also those that are not extern "C", which CuPy would not find
        for name in kernels:
            self._describe(path, module, name)
        for launch in wanted:
            if launch.kernel not in kernels and len(self.options.files) == 1:
                raise LaunchError(f"{path}: has no kernel {launch.kernel!r}; it has {', '.join(kernels) or 'none'}")
            if launch.kernel in kernels:
                self._launch(path, module, launch)
        if program and has_main(code) and not self.options.no_main and (self.options.main is not None or not wanted):
            self._main(path)

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
            results.append({name: array.tobytes() for name, array in arrays.items() if array.nbytes < 1 << 28})
        for name in results[0]:
            if len({result[name] for result in results}) > 1:
                self._find(path, f"NotDeterministic: {name} differs between orders of the threads: {launch.text}")
        for sentence in last.not_deterministic:
            print(f"{path}: note: {sentence}")
        for line in last.lines:
            if line.excess:
                what = "bank conflicts" if line.memory == "shared" else "sectors too many"
                print(f"{path}: note: {line.line}: {line.excess} {what} in {line.accesses} accesses by warps")
        print(
            f"{path}: {launch.kernel}<<<{launch.grid}, {launch.block}>>> ran in {self.options.orders} orders: read "
            f"{last.bytes_read:,} bytes, wrote {last.bytes_written:,}, passed {last.barriers} barriers"
        )

    def _main(self, path):
        with tempfile.TemporaryDirectory() as folder:
            report = Path(folder) / "report"
            words = [sys.executable, "-m", "kernels.emulator.tool.programs", f"--report={report}"]
            words += ["--same-value-writes"] * self.options.same_value_writes + [f"--option={o}" for o in self.compiler]
            words += [str(path), *(self.options.main or "").split()]
            environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
            code = subprocess.run(words, env=environment, check=False).returncode
            lines = [json.loads(line) for line in report.read_text().splitlines()] if report.exists() else []
        for kind, text in lines:
            if kind == "error":
                raise CompileError(text)
            if kind == "finding":
                self._find(path, text)
        count = {name: sum(1 for kind, text in lines if (kind, text) == ("launch", name)) for _, name in lines}
        ran = ", ".join(f"{name} {number} times" for name, number in count.items() if number) or "no kernel"
        print(f"{path}: main() returned {code}; without a finding ran {ran}")

    def _find(self, path, text):
        self.findings += 1
        print(f"{path}: {text}")


def _beside(path):
    """The launches in the file beside `path`, if there is one."""
    beside = path.with_suffix(".launches")
    lines = beside.read_text().splitlines() if beside.exists() else []
    return [line for line in lines if line.strip() and not line.strip().startswith(("#", "//"))]


def _parameter(name, parameter, restricted):
    """A parameter as C would declare it, near enough."""
    if parameter.kind == b"a":
        return f"CArray of {parameter.size} dimensions {name}"
    if parameter.kind != b"p":
        return f"{KINDS[parameter.kind.decode()]}{8 * parameter.size} {name}"
    pointee = f"{'const ' * bool(parameter.constant)}{KINDS[parameter.pointee.decode()]}{8 * parameter.pointee_size}"
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
    except (EmulatorError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{checker.findings} finding{'s' * (checker.findings != 1)}")
    return 1 if checker.findings else 0

"""Would a test fail if this line were wrong? Changes the source in one place at a time, and runs the tests on each.

    python tests/reliability/mutation.py tinytensor/optim gpt/training/checkpoint.py --sample 50

A mutant is the source with one operator, comparison, constant or condition changed, or one statement removed. It is
killed if a test fails on it, and survives otherwise: then a test is missing, or the change makes no difference, which
`mutation.md` has to say why. All happens in a copy of the repository.
"""

import argparse
import ast
import fnmatch
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import hypothesis  # noqa: F401  these are imported here, once
import numba  # noqa: F401
import pytest
import safetensors.numpy  # noqa: F401

ROOT = Path(__file__).resolve().parents[2]
# {pattern of source files: the tests that are to notice}; the first that fits, and in it the fastest first
TESTS = {
    "tinytensor/tensor.py": [
        "tests/engine/test_gradients.py",
        "tests/engine/test_engine.py",
        "tests/engine/test_devices.py",
    ],
    "tinytensor/ops/*": [
        "tests/engine/test_fused.py",
        "tests/engine/test_gradients.py",
        "tests/engine/test_op_semantics.py",
        "tests/engine/test_engine.py",
    ],
    "tinytensor/optim/*": [
        "tests/engine/test_optim.py",
        "tests/engine/test_muon.py",
        "tests/gpt/training/test_trainer.py",
    ],
    "gpt/training/batches.py": ["tests/gpt/training/test_batches.py"],
    "gpt/training/metrics.py": [
        "tests/gpt/training/test_metrics.py",
        "tests/reliability/test_commands.py::test_divergence_is_told_from_overfitting",
        "tests/reliability/test_resume.py",
    ],
    "gpt/training/checkpoint.py": ["tests/gpt/training/test_checkpoint.py", "tests/reliability/test_resume.py"],
    "gpt/training/manifest.py": ["tests/reliability/test_resume.py"],
    "gpt/training/run.py": [
        "tests/gpt/training/test_run.py",
        "tests/reliability/test_tokens.py",
        "tests/reliability/test_resume.py",
    ],
    "gpt/directories.py": ["tests/reliability/test_directories.py"],
    "gpt/files.py": ["tests/gpt/training", "tests/reliability/test_resume.py"],
}
SWAPPED = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Add, ast.Pow: ast.Mult, ast.LShift: ast.RShift, ast.RShift: ast.LShift,
    ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip
REMOVED = (ast.Expr, ast.Assign, ast.AugAssign, ast.Raise, ast.Break, ast.Continue)
LONGEST = 10  # times as long as on the unchanged source a mutant may run; then it is killed by its endless loop


@dataclass(frozen=True)
class Mutant:
    """The bytes `begin` to `end` of a file replaced."""

    path: str
    line: int
    begin: int
    end: int
    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {' '.join(self.before.split())} -> {self.after}"


def changed(node: ast.AST) -> ast.AST | None:
    """The node with its operator or value changed, or None if it has none."""
    copy = deepcopy(node)
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        copy.ops = [SWAPPED[type(node.ops[0])]()]
    elif isinstance(node, (ast.BinOp, ast.BoolOp, ast.AugAssign)) and type(node.op) in SWAPPED:
        copy.op = SWAPPED[type(node.op)]()
    elif isinstance(node, ast.UnaryOp):
        copy = copy.operand
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        copy.value = not node.value
    elif isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        copy.value = node.value + 1
    elif isinstance(node, ast.Return) and node.value and not isinstance(node.value, ast.Constant):
        copy = ast.Return(ast.Constant(None))
    else:
        return None
    return copy


def interesting(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes below `node` that run: no annotations, docstrings, imports, or parts of f-strings."""
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "bases"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not isinstance(child, (ast.JoinedStr, ast.Import, ast.ImportFrom)):
                yield child
                yield from interesting(child)


def replacements(node: ast.AST) -> Iterator[tuple[ast.AST, str]]:
    """Yield (a node to replace, the source to replace it by)."""
    if (copy := changed(node)) is not None:
        yield node, f"({ast.unparse(copy)})" if isinstance(node, ast.expr) else ast.unparse(copy)
    if isinstance(node, (ast.If, ast.IfExp, ast.While)) and not isinstance(node.test, (ast.Compare, ast.UnaryOp)):
        yield node.test, f"(not ({ast.unparse(node.test)}))"
    # without its only assignment, a name is an error that any test would notice
    named = isinstance(node, ast.Assign) and all(isinstance(target, (ast.Name, ast.Tuple)) for target in node.targets)
    docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    if isinstance(node, REMOVED) and not named and not docstring:
        yield node, "pass"


def mutants(path: str) -> list[Mutant]:
    """All mutants of a file."""
    source = (ROOT / path).read_bytes()
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    found = []
    for node in interesting(ast.parse(source)):
        for old, after in replacements(node):
            begin, end = starts[old.lineno - 1] + old.col_offset, starts[old.end_lineno - 1] + old.end_col_offset
            found.append(Mutant(path, old.lineno, begin, end, source[begin:end].decode(), after))
    return found


def related_tests(path: str) -> list[str]:
    """The tests for a source file."""
    return next((tests for pattern, tests in TESTS.items() if fnmatch.fnmatch(path, pattern)), ["tests"])


class Copy:
    """A copy of the repository to run tests in."""

    def __init__(self, directory: Path):
        self.directory = directory
        names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
        for name in names.decode().split("\0")[:-1]:
            if (ROOT / name).is_file():
                (directory / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, directory / name)
        # Byte code is found by size and second of modification, which do not tell mutants apart: by content instead.
        compiling = [sys.executable, "-m", "compileall", "-q", "--invalidation-mode", "checked-hash", "."]
        subprocess.run(compiling, cwd=directory, check=True)
        sys.dont_write_bytecode = True
        os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
        self.seconds: dict[tuple, float] = {}

    def passes(self, tests: list[str], timeout: float = 0) -> bool:
        """Whether the tests pass, in a forked process: most of a run's time would be that of its imports."""
        pid = os.fork()
        if pid == 0:
            os.chdir(self.directory)
            sys.path[0] = str(self.directory)
            os.environ["PYTHONPATH"] = str(self.directory)  # for processes that tests start
            signal.alarm(math.ceil(timeout))
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 1)
            os.dup2(null, 2)
            os._exit(pytest.main(["-q", "-x", "-n", "0", "-p", "no:cacheprovider", *tests]))
        return os.waitpid(pid, 0)[1] == 0

    def survives(self, mutant: Mutant) -> bool:
        """Whether the tests pass on a mutant."""
        tests = related_tests(mutant.path)
        if tuple(tests) not in self.seconds:
            began = time.monotonic()
            if not self.passes(tests):
                raise SystemExit(f"error: the tests fail on the unchanged source: {' '.join(tests)}")
            self.seconds[tuple(tests)] = time.monotonic() - began
        path = self.directory / mutant.path
        source = path.read_bytes()
        path.write_bytes(source[: mutant.begin] + mutant.after.encode() + source[mutant.end :])
        try:
            return self.passes(tests, 30 + LONGEST * self.seconds[tuple(tests)])
        finally:
            path.write_bytes(source)


def main() -> int:
    """Try mutants, and print those that survive; exit code 1 if there are any."""
    parser = argparse.ArgumentParser(description="Find changes of the source that no test notices.")
    parser.add_argument("sources", nargs="+", help="files or folders, relative to the repository")
    parser.add_argument("--sample", type=int, default=0, help="how many mutants, drawn at random; 0 tries all")
    parser.add_argument("--seed", type=int, default=1, help="of the draw")
    options = parser.parse_args()
    paths = [found for name in options.sources for found in sorted((ROOT / name).rglob("*.py")) or [ROOT / name]]
    found = [mutant for path in paths for mutant in mutants(path.relative_to(ROOT).as_posix())]
    if options.sample:
        found = random.Random(options.seed).sample(found, min(options.sample, len(found)))
    survivors = 0
    with tempfile.TemporaryDirectory() as directory:
        copy = Copy(Path(directory))
        for mutant in sorted(found, key=lambda mutant: (mutant.path, mutant.begin)):
            if copy.survives(mutant):
                survivors += 1
                print(f"survived: {mutant}", flush=True)
    print(f"{len(found)} mutants, {survivors} survived")
    return bool(survivors)


if __name__ == "__main__":
    sys.exit(main())

"""What both kinds of puzzle are: a name, a task for the learner, hints, a solution, and a check that can refuse.

The task is a file in `tasks/`, of which the learner gets a copy to fill in; the solution, in `solutions/`, is the code
alone. Read check_autograd.py and check_cuda.py next, then the two tables of puzzles, autograd.py and cuda.py.
"""

import math
import multiprocessing
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import ClassVar

HERE = Path(__file__).parent
TIME_LIMIT = 20.0  # seconds; an answer takes well under one


class Refused(Exception):
    """An answer is wrong; the message says what was found."""


@dataclass(frozen=True)
class Puzzle:
    """One puzzle. `title` says in a line what is computed; `hints` get more explicit, none is the answer."""

    name: str
    title: str
    hints: tuple[str, ...]
    kind: ClassVar[str]
    suffix: ClassVar[str]

    def task(self) -> str:
        """The text of the file that a learner starts from."""
        return (HERE / "tasks" / (self.name + self.suffix)).read_text(encoding="utf-8")

    def solution_path(self) -> Path:
        """The file with a right answer."""
        return HERE / "solutions" / (self.name + self.suffix)

    def check(self, path: Path) -> None:
        """Raise Refused unless the file `path` answers this puzzle; it may run for ever."""
        raise NotImplementedError

    def prepare(self, path: Path) -> None:
        """What a check needs that must not count as its time. Raises Refused if the file is not even valid."""


def check_within(puzzle: Puzzle, path: Path, seconds: float = TIME_LIMIT) -> None:
    """`puzzle.check(path)` in a forked process, which is killed after `seconds`; raises Refused, for that as well."""
    puzzle.prepare(path)
    fork = multiprocessing.get_context("fork")
    ours, theirs = fork.Pipe(duplex=False)
    process = fork.Process(target=_report, args=(puzzle.check, path, theirs, seconds))
    process.start()
    theirs.close()
    try:
        finding = ours.recv() if ours.poll(seconds) else f"it did not end within {seconds:g} s: is a loop endless?"
    except EOFError:
        process.join()
        finding = f"it ended the process that ran it (exit code {process.exitcode})"
    finally:
        process.kill()
        process.join()
        ours.close()
    if finding is not None:
        raise Refused(finding)


def _report(check: Callable[[Path], None], path: Path, connection: Connection, seconds: float) -> None:
    """In the forked process: send what the check found, None if the answer is right."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches both processes; the first one ends this one
    signal.alarm(math.ceil(seconds) + 5)  # and if the first one was killed, this does
    finding = None
    try:
        check(path)
    except Refused as refused:
        finding = str(refused)
    sys.stdout.flush()  # what the learner's code printed
    connection.send(finding)

"""Runs a command in a forked process, which costs milliseconds where starting Python and its imports costs a second."""

import os
import resource
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from gpt.cli import run_command

TRACEBACK = 70  # exit code of a process that ended with one
SECONDS, MEMORY = 60, 2 << 30  # after which a command is killed by SIGALRM, and what it may allocate


@dataclass(frozen=True)
class End:
    """How a command ended: its exit code or minus the signal, and what it printed."""

    code: int
    output: str
    errors: str

    def error(self) -> str:
        """The one sentence with which a command was refused, and nothing else but warnings and progress bars."""
        assert self.code == 2, self
        assert "Traceback" not in self.errors, self
        lines = [line for line in self.errors.split("\n") if line.startswith("error: ")]
        assert len(lines) == 1, self
        assert self.errors.endswith(lines[0] + "\n"), self
        return lines[0]


def fork(function: Callable[[], int], output: Path, errors: Path, stdin: Path | str = os.devnull) -> int:
    """The id of a forked process that ends with the exit code `function()`."""
    for path in (output, errors):
        path.write_text("")  # a process that is killed at once has made none
    pid = os.fork()
    if pid == 0:
        code = TRACEBACK
        try:
            tqdm.set_lock(threading.RLock())  # its own is shared by all forks, and would stay locked by a killed one
            _redirect(stdin, output, errors)
            code = function()
        except SystemExit as leaving:
            code = leaving.code or 0
        except BaseException:
            traceback.print_exc()
        finally:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            os._exit(code)
    return pid


def forked(main: Callable, argv: list, place: Path, stdin: bytes = b"") -> End:
    """Run `main(argv)` in the directory `place`, with bounds on time and memory."""
    beside = {name: place.with_name(name) for name in ("stdin", "stdout", "stderr")}
    beside["stdin"].write_bytes(stdin)

    def run() -> int:
        os.chdir(place)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
        signal.alarm(SECONDS)
        return run_command(main, [str(word) for word in argv])

    pid = fork(run, beside["stdout"], beside["stderr"], beside["stdin"])
    _, status = os.waitpid(pid, 0)
    printed = (beside[name].read_text(encoding="utf-8") for name in ("stdout", "stderr"))
    return End(os.waitstatus_to_exitcode(status), *printed)


def _redirect(stdin: Path | str, output: Path, errors: Path) -> None:
    """Open the standard streams on files, as Python opens them by itself."""
    sys.stdin = open(stdin, encoding="utf-8")  # noqa: SIM115
    sys.stdout = open(output, "w", encoding="utf-8")  # noqa: SIM115
    sys.stderr = open(errors, "w", encoding="utf-8", errors="backslashreplace")  # noqa: SIM115
    for descriptor, stream in enumerate((sys.stdin, sys.stdout, sys.stderr)):
        os.dup2(stream.fileno(), descriptor)

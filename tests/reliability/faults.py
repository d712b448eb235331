"""Runs a command in a forked process that is killed, or in which a call fails, at its n-th file-system event.

Events are the calls that change something below a directory: opening for writing, rename, mkdir, unlink, rmdir, fsync,
and writing a safetensors file, which then is half written. Python's audit hooks see them before they happen.
"""

import errno
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import safetensors.numpy

from gpt.cli import run_command
from tests.reliability.forks import fork

CHANGES = {"os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


@dataclass(frozen=True)
class Fault:
    """What happens at event number `event`: an OSError of that errno, or SIGKILL."""

    event: int
    kind: str  # KILL, or the name of an errno

    def strike(self, path) -> None:
        if self.kind == "KILL":
            os.kill(os.getpid(), signal.SIGKILL)
        number = getattr(errno, self.kind)
        raise OSError(number, os.strerror(number), str(path))


@dataclass(frozen=True)
class End:
    """How a process ended: exit code or minus the signal, what it printed on stderr, and how many events it had."""

    code: int
    errors: str
    events: int


class Events:
    """Counts the events below `directory`, and lets the fault strike."""

    def __init__(self, directory: Path, fault: Fault | None):
        self.directory, self.fault, self.count = str(directory), fault, 0

    def install(self) -> None:
        sys.addaudithook(self._audit)
        fsync, save_file = os.fsync, safetensors.numpy.save_file

        def counted_fsync(descriptor):
            self.happen("fsync")
            fsync(descriptor)

        def counted_save(tensors, path, metadata=None):
            save_file(tensors, path, metadata=metadata)
            content = Path(path).read_bytes()
            os.truncate(path, len(content) // 2)
            self.happen(path)
            Path(path).write_bytes(content)

        os.fsync, safetensors.numpy.save_file = counted_fsync, counted_save

    def happen(self, path) -> None:
        self.count += 1
        if self.fault and self.count == self.fault.event:
            self.fault.strike(path)

    def _audit(self, event, arguments) -> None:
        if event in CHANGES or (event == "open" and arguments[2] & WRITING):
            path = arguments[0]
            if isinstance(path, str) and (not os.path.isabs(path) or path.startswith(self.directory)):
                self.happen(path)


def run_with(main: Callable, argv: list, directory: Path, fault: Fault | None = None, until=None) -> End:
    """Run `main(argv)` in a fork, with a fault below `directory`; `until(pid)` may kill it meanwhile."""
    report, output = directory.with_name("events"), directory.with_name("stderr")
    report.write_text("0")

    def run() -> int:
        events = Events(directory, fault)
        events.install()
        code = run_command(main, [str(word) for word in argv])
        report.write_text(str(events.count))
        return code

    pid = fork(run, Path(os.devnull), output)
    if until:
        until(pid)
    _, status = os.waitpid(pid, 0)
    return End(os.waitstatus_to_exitcode(status), output.read_text(), int(report.read_text() or 0))

"""Runs a command in a forked process that is killed, or in which a call fails, at its n-th file-system event.

Events are the calls that change something below a directory: opening for writing, rename, mkdir, unlink, rmdir, fsync,
and writing a safetensors file, which then is half written. Python's audit hooks see them before they happen.
"""

import errno
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import safetensors.numpy
from tqdm import tqdm

from gpt.cli import run_command

CHANGES = {"os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
TRACEBACK = 70  # exit code of a process that ended with one


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
    output.write_text("")  # a process killed at once has made none
    pid = os.fork()
    if pid == 0:
        code = TRACEBACK
        try:
            tqdm.set_lock(threading.RLock())  # its own is shared by all forks, and would stay locked by a killed one
            _redirect(output)
            events = Events(directory, fault)
            events.install()
            code = run_command(main, [str(word) for word in argv])
            sys.stderr.flush()
            report.write_text(str(events.count))
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    if until:
        until(pid)
    _, status = os.waitpid(pid, 0)
    return End(os.waitstatus_to_exitcode(status), output.read_text(), int(report.read_text() or 0))


def _redirect(path: Path) -> None:
    """Send stderr to a file and stdout nowhere."""
    sys.stdout, sys.stderr = open(os.devnull, "w"), open(path, "w")  # noqa: SIM115
    for stream, descriptor in ((sys.stdout, 1), (sys.stderr, 2)):
        os.dup2(stream.fileno(), descriptor)

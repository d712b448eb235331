"""The checked launch."""

import re
import subprocess
from contextvars import ContextVar
from typing import NamedTuple

from kernels.emulator import errors

FAULTS = [errors.EmulatorError, errors.OutOfBounds, errors.UninitializedRead, errors.DataRace, errors.DivergentBarrier]
FAULTS += [errors.BadShuffle, errors.Crash, errors.AssertionFailed]
_request = ContextVar("emulator_request", default=None)


class SharedVariable(NamedTuple):
    """A static `__shared__` variable: the function that declares it, its name, its place in thread-local storage."""

    function: str
    name: str
    offset: int
    bytes: int


def shared_variables(path):
    """The static `__shared__` variables of a compiled module, from its symbol table."""
    table = subprocess.run(["readelf", "-sWC", str(path)], capture_output=True, text=True).stdout
    found = {}
    for match in re.finditer(
        r"^\s*\d+: ([0-9a-f]+)\s+(\d+|0x[0-9a-f]+) TLS\s+\S+\s+\S+\s+(\d+) (.*)$", table, re.MULTILINE
    ):
        scope, _, name = match[4].strip().rpartition("::")
        function = re.split(r"[(<]", scope)[0].split()[-1:] or [""]
        found[match[1]] = SharedVariable(function[0], name, int(match[1], 16), int(match[2], 0))
    return list(found.values())


def current_request():
    return _request.get()


def fault(record, kernel, path):
    """The exception for a record's fault, its program counters turned into source lines."""
    lines = [source_line(path, pc) if pc else "" for pc in record.pcs]
    text = record.message.decode(errors="replace").replace("@line", "line")
    for i, line in enumerate(lines):
        text = text.replace(f"@{i}", line)
    return FAULTS[record.fault](f"{path.stem}: kernel {kernel}, {text}")


def source_line(path, pc):
    return hex(pc)

"""What a compiled module says of its variables: the symbol table of its shared object.

Next: module.py, which loads it.
"""

import re
import subprocess
from typing import NamedTuple

from kernels.emulator.compiler import find_tool

SYMBOL = re.compile(r"^\s*\d+: ([0-9a-f]+)\s+(\S+) (TLS|OBJECT)\s+\S+\s+\S+\s+(\d+) (.*)$", re.MULTILINE)
SECTION = re.compile(r"^\s*\[\s*(\d+)\] (\S+)", re.MULTILINE)


class Variable(NamedTuple):
    """A static `__shared__` variable, with the function that declares it, or one of the whole module."""

    function: str
    name: str
    offset: int  # in thread-local storage, or in the image
    bytes: int
    constant: bool = False


class Symbols(NamedTuple):
    """The shared and the module-wide variables of a module, and where two that Python can find are."""

    shared: list
    variables: list
    anchor: int  # emulator_anchor, in thread-local storage
    kernels: int  # emulator_kernels, in the image


def read_symbols(path):
    """The Symbols of a compiled module."""
    table = subprocess.run([find_tool("readelf"), "-sSWC", str(path)], capture_output=True, text=True).stdout
    sections = dict(SECTION.findall(table))
    shared, variables, sizes, known = {}, {}, {}, {}
    for offset, size, kind, section, symbol in SYMBOL.findall(table):
        scope, _, name = re.sub(r" \[.*\]$", "", symbol.strip()).rpartition("::")
        function = "".join(re.sub(r"[<(].*", "", scope).split()[-1:])
        variable = Variable(function, name, int(offset, 16), int(size, 0), sections.get(section) == "emulator_constant")
        if name in ("emulator_anchor", "emulator_kernels"):
            known[name] = variable.offset
        elif name.startswith(("emulator_before_", "emulator_size_")):
            sizes[scope, name] = variable.bytes
        elif kind == "TLS" and variable.bytes:  # size 0: a reference to the runtime's own variables
            shared[offset] = (scope, variable)
        elif kind == "OBJECT" and sections.get(section) in (".data", ".bss", "emulator_constant"):
            variables[offset] = variable
    names = ("emulator", "completed", "_", "guard ", "threadIdx", "DW.")
    return Symbols(
        [_inner(scope, variable, sizes) for scope, variable in shared.values()],
        [v for v in variables.values() if not v.name.startswith(names)],
        known["emulator_anchor"],
        known["emulator_kernels"],
    )


def _inner(scope, variable, sizes):
    """The variable itself, where it has an emulator::Shared (qualifiers.h) around it."""
    name = variable.name.removeprefix("emulator_shared_")
    if name == variable.name:
        return variable
    offset = variable.offset + sizes[scope, f"emulator_before_{name}"]
    return variable._replace(name=name, offset=offset, bytes=sizes[scope, f"emulator_size_{name}"])

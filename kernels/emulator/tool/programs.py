"""Whole CUDA programs on the CPU: a `.cu` file with a `main`, its launches checked one by one.

    python -m kernels.emulator.tool.programs FILE.cu [ARGUMENTS]

The program runs in this process, which ends when it calls `exit`; what it asks the CUDA runtime for (cuda_runtime.h) is
done here: memory, and launches, which run in the checked build on that memory in place. Each finding is printed as it
comes, once per kernel and line, and the program goes on. Next: check.py, which runs this for each file.
"""

import argparse
import ctypes
import json
import math
import os
import re
import sys
from pathlib import Path

import numpy as np

from kernels.emulator import checks
from kernels.emulator.errors import EmulatorError, LaunchError
from kernels.emulator.memory.arena import ALIGNMENT, Arena
from kernels.emulator.module import Build, RawModule, execute
from kernels.emulator.record import LaunchRecord, Parameter, Region

GAP = 1 << 16  # bytes around an allocation that belong to nobody
LAUNCH_FAILURE = 719  # cudaErrorLaunchFailure
Malloc = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
Free = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
Written = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_size_t)
Run = ctypes.CFUNCTYPE(
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_void_p,
    ctypes.POINTER(ctypes.c_void_p),
    ctypes.POINTER(Parameter),
    ctypes.c_int,
    ctypes.POINTER(ctypes.c_uint32),
    ctypes.POINTER(ctypes.c_uint32),
    ctypes.c_size_t,
)


class Allocation:
    """What one cudaMalloc returned: its memory, and which of its bytes somebody wrote."""

    def __init__(self, size, number, managed):
        self.memory = np.empty(size + 2 * GAP, np.uint8)
        self.address = -(-(self.memory.ctypes.data + GAP) // ALIGNMENT) * ALIGNMENT
        self.size, self.name = size, f"allocation {number}".encode()
        self.written = np.full(size, managed, np.uint8)  # what the host writes to managed memory, nobody sees

    def region(self, read_only):
        """The Region of a launch that may touch it."""
        return Region(
            base=self.address,
            bytes=self.size,
            name=self.name,
            type=b"memory",
            item=1,
            written=self.written.ctypes.data,
            read_only=read_only,
        )


class ProgramKernel:
    """A kernel as checks.run wants it: the launch's record has the rest."""

    shared_size_bytes = 0

    def __init__(self, name):
        self.name = name

    def run(self, record, build, arguments):
        execute(record, build, self.name)


class Program(RawModule):
    """A loaded program. `report(kind, text)` hears of each launch and finding."""

    program = True

    def __init__(self, path, options, request, report):
        super().__init__(path.read_text(), options=(*options, f"-I{path.parent}"), name=path.name)
        self.request, self.report = request, report
        self.allocations, self.count, self.seen = {}, 0, set()
        self.loaded = Build(self, request.build)
        self.callbacks = [Malloc(self._malloc), Free(self._free), Written(self._written), Run(self._launch)]
        names = ("malloc", "free", "written", "launch")
        for name, callback in zip(names, self.callbacks, strict=True):
            pointer = ctypes.c_void_p.in_dll(self.loaded.shared_object, f"emulator_host_{name}")
            pointer.value = ctypes.cast(callback, ctypes.c_void_p).value

    def main(self, words):
        """Runs `main` with the command line `words`; returns what it returns, unless it calls exit."""
        arguments = (ctypes.c_char_p * (len(words) + 1))(*(word.encode() for word in words))
        return self.loaded.shared_object.emulator_run_main(len(words), arguments)

    def _malloc(self, size, managed):
        self.count += 1
        allocation = Allocation(max(size, 1), self.count, managed)
        self.allocations[allocation.address] = allocation
        return allocation.address

    def _free(self, address):
        self.allocations.pop(address, None)

    def _written(self, address, size):
        for allocation in self.allocations.values():
            start = address - allocation.address
            if 0 <= start < allocation.size:
                allocation.written[start : start + size] = 1

    def _launch(self, name, line, call, arguments, parameters, count, grid, block, shared):
        kernel = ProgramKernel(name.decode())
        record = LaunchRecord(call=call, arguments=arguments, dynamic_shared=shared)
        record.grid[:], record.block[:] = grid[:3], block[:3]
        try:
            if math.prod(record.block) > 1024 or 0 in (*record.grid, *record.block):
                place = f" at {line.decode()}" if line else ""
                raise LaunchError(
                    f"kernel {kernel.name}, launched{place} with grid {tuple(grid[:3])} and block {tuple(block[:3])}: "
                    "no GPU accepts that"
                )
            arena = Arena([], shared, checks.dynamic_pieces(self.code, shared))
            record.dynamic_shared_memory = arena.dynamic_shared
            regions = arena.regions + self._regions(arguments, parameters, count)
            checks.run(self.request, record, kernel, self.loaded, [], regions)
            self.report("launch", kernel.name)
            for note in checks.notes(self.request.launches.pop()):
                self.report("note", note)
        except EmulatorError as error:
            self._found(error)
            return LAUNCH_FAILURE
        return 0

    def _regions(self, arguments, parameters, count):
        """All live allocations; const are those that only pointers to const were passed to."""
        passed, writable, structs = set(), set(), False
        for i in range(count):
            kind = parameters[i].kind
            structs |= kind == b"v"
            if kind == b"p":
                address = ctypes.cast(arguments[i + 1], ctypes.POINTER(ctypes.c_void_p))[0] or 0
                owner = next((a for a in self.allocations.values() if 0 <= address - a.address < a.size), None)
                (passed if parameters[i].constant else writable).add(owner)
        return [a.region(not structs and a in passed - writable) for a in self.allocations.values()]

    def _found(self, error):
        text = str(error)
        place = (
            type(error),
            re.sub(r"block \(.*?\)|thread \(.*?\)|\d+ of allocation \d+|\b(?:byte|lane) \d+", "", text),
        )
        if place not in self.seen:
            self.seen.add(place)
            self.report("finding", f"{type(error).__name__}: {text}")


def main(words=None):
    """Runs a program; what it found goes to --report, a file of one JSON value per line."""
    parser = argparse.ArgumentParser(prog="python -m kernels.emulator.tool.programs", description=main.__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--report", type=Path, help="where to write findings and launches (default: stderr)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--same-value-writes", action="store_true")
    parser.add_argument("--deterministic", action="store_true")
    parser.add_argument("--count-lines", action="store_true")
    parser.add_argument("--option", action="append", default=[], help="of the compiler, such as -DN=4")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="of the program")
    options = parser.parse_args(words)
    output = os.open(options.report, os.O_WRONLY | os.O_CREAT | os.O_APPEND) if options.report else 2

    def report(kind, text):  # at once and unbuffered: the program may call exit
        os.write(output, (json.dumps([kind, text]) + "\n").encode())

    request = checks.Request(
        options.seed, False, options.same_value_writes, options.deterministic, options.count_lines, []
    )
    try:
        program = Program(options.file, options.option, request, report)
    except EmulatorError as error:
        report("error", str(error))
        return 2
    return program.main([str(options.file), *options.arguments])


if __name__ == "__main__":
    sys.exit(main())

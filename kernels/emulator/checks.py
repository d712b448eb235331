"""The checked launch: what it watches, what it counts, and how a fault becomes a sentence.

    with checked(seed=3) as launches:
        kernel(grid, block, args)
    launches[0].bytes_read

The kernel works on copies of its arrays, far apart in memory, so that an index just past one array never lands in
another; the copies go back when the launch ends well. Builds on record.py; checker.cpp watches the accesses.
"""

import re
import subprocess
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kernels.emulator import errors
from kernels.emulator.compiler import find_tool
from kernels.emulator.record import Region

HERE = Path(__file__).parent
ALIGNMENT = 256  # of every allocation on a GPU
GAP = 1 << 16  # bytes at least between two arrays, and as many as the larger one has
FAULTS = [errors.EmulatorError, errors.OutOfBounds, errors.UninitializedRead, errors.DataRace, errors.DivergentBarrier]
FAULTS += [errors.BadShuffle, errors.MisalignedAccess, errors.Crash, errors.AssertionFailed]  # scheduler.h's FaultKind
TLS_SYMBOL = re.compile(r"^\s*\d+: ([0-9a-f]+)\s+(\S+) TLS\s+\S+\s+\S+\s+\d+ (.*)$", re.MULTILINE)
_request = ContextVar("checked launches", default=None)


@dataclass(frozen=True)
class Launch:
    """What one checked launch did.

    bytes_read, bytes_written: global memory, every access of every thread; unique_*: each byte counted once;
    shared_*: shared memory. atomics: operations (each also reads and writes). barriers: passed, summed over blocks.
    flops: float additions, subtractions, multiplications and divisions, 2 for an fma, as the source states them;
    special: exp, log, sqrt, tanh and their like. Both are None unless `checked` was asked to count them.
    """

    kernel: str
    grid: tuple
    block: tuple
    shared_memory: int
    bytes_read: int
    bytes_written: int
    unique_bytes_read: int
    unique_bytes_written: int
    shared_bytes_read: int
    shared_bytes_written: int
    atomics: int
    barriers: int
    flops: int | None
    special: int | None


@dataclass
class Request:
    """A `with checked(...)` block: what it asked for and the launches it saw."""

    seed: int
    count_flops: bool
    launches: list

    @property
    def build(self):
        """The kind of build that answers it, see compiler.KINDS."""
        return "counted" if self.count_flops else "checked"


@contextmanager
def checked(seed=0, count_flops=False):
    """Every launch inside runs in the checked build, threads and blocks in an order drawn from `seed`.

    `count_flops` also counts operations: `float` becomes a class that counts, so the source must convert floats to
    integers explicitly, and an index one past the end of an inner dimension goes unnoticed.
    Yields the list that collects a `Launch` for each launch. Raises the subclass of EmulatorError that fits a fault.
    """
    token = _request.set(Request(seed, count_flops, []))
    try:
        yield _request.get().launches
    finally:
        _request.reset(token)


def current_request():
    """The innermost `with checked(...)` of this thread, or None."""
    return _request.get()


class SharedVariable(NamedTuple):
    """A static `__shared__` variable: the function that declares it, and its place in thread-local storage."""

    function: str
    name: str
    offset: int
    bytes: int


def shared_variables(path):
    """(static shared variables, offset of emulator_anchor) of a compiled module, from its symbol table."""
    table = subprocess.run([find_tool("readelf"), "-sWC", str(path)], capture_output=True, text=True).stdout
    found, anchor = {}, 0
    for offset, size, symbol in TLS_SYMBOL.findall(table):
        scope, _, name = symbol.strip().rpartition("::")
        if name == "emulator_anchor":
            anchor = int(offset, 16)
        elif int(size, 0):  # size 0: a reference to the runtime's own variables
            function = re.sub(r"[<(].*", "", scope).split()[-1:]
            found[offset] = SharedVariable("".join(function), name, int(offset, 16), int(size, 0))
    return list(found.values()), anchor


class Group:
    """Arguments that share memory, as in-place kernels have them, and their place in the arena."""

    def __init__(self, start, stop):
        self.start, self.stop, self.members = start, stop, []

    def slices(self):
        """(argument, the slice of the group that its bytes are) of each member."""
        for argument in self.members:
            offset = argument.memory.ctypes.data - self.start
            yield argument, slice(offset, offset + argument.memory.nbytes)


def group_overlapping(arguments):
    """The arrays among `arguments` in Groups, by address."""
    groups = []
    for argument in sorted((a for a in arguments if a.memory is not None), key=lambda a: a.memory.ctypes.data):
        start = argument.memory.ctypes.data
        if not argument.memory.nbytes or not groups or start >= groups[-1].stop:
            groups.append(Group(start, start))
        groups[-1].stop = max(groups[-1].stop, start + argument.memory.nbytes)
        groups[-1].members.append(argument)
    return groups


def flat_bytes(memory):
    """The bytes of a contiguous array, as a view."""
    return memory.ravel(order="K").view(np.uint8)


def allocation_offset(memory):
    """How far `memory` begins into the allocation it is a view of: a GPU aligns allocations, not views."""
    start = memory.ctypes.data
    while isinstance(memory.base, np.ndarray):
        memory = memory.base
    return start - memory.ctypes.data


class Arena:
    """The memory of one checked launch: copies of its arrays and its dynamic shared memory, with gaps between."""

    def __init__(self, arguments, dynamic_shared):
        self.groups = group_overlapping(arguments)
        sizes = [group.stop - group.start for group in self.groups] + [dynamic_shared]
        gap = max(GAP, *sizes) // ALIGNMENT * ALIGNMENT + ALIGNMENT
        self.memory = np.empty(sum(sizes) + (gap + ALIGNMENT) * (len(sizes) + 1), np.uint8)
        self.regions, at = [], gap - self.memory.ctypes.data % ALIGNMENT
        for group in self.groups:
            self._place(group, at + allocation_offset(group.members[0].memory) % ALIGNMENT)
            at += -(-group.bytes.size // ALIGNMENT) * ALIGNMENT + ALIGNMENT + gap
        self.dynamic_shared = self.memory[at : at + dynamic_shared]
        if dynamic_shared:
            address = self.dynamic_shared.ctypes.data
            self.regions.append(shared_region(address, dynamic_shared, "dynamic shared memory"))

    def _place(self, group, at):
        group.bytes = self.memory[at : at + group.stop - group.start]
        group.written = np.ones(group.bytes.size, np.uint8)
        for argument, where in group.slices():
            group.bytes[where] = flat_bytes(argument.memory)
            if argument.written is not None:
                group.written[where] = argument.written
            argument.value = np.asarray(group.bytes.ctypes.data + where.start)
        if group.bytes.size:
            first = group.members[0]
            self.regions.append(
                Region(
                    base=group.bytes.ctypes.data,
                    bytes=group.bytes.size,
                    name=first.name.encode(),
                    type=str(first.memory.dtype).encode(),
                    item=first.memory.itemsize,
                    written=group.written.ctypes.data,
                )
            )

    def give_back(self, stored):
        """Copies what the launch wrote to the arrays; `stored`: the base addresses of regions that it wrote to."""
        for group in self.groups:
            if group.bytes.ctypes.data in stored:
                for argument, where in group.slices():
                    flat_bytes(argument.memory)[...] = group.bytes[where]
                    if argument.written is not None:
                        argument.written[...] = group.written[where]


def shared_region(address, size, name):
    """The Region of a piece of shared memory."""
    return Region(base=address, bytes=size, name=name.encode(), type=b"shared memory", item=1, shared=1)


def launch(request, record, kernel, arguments):
    """One checked launch. Its counts join the request's launches; a fault leaves the arrays as they were."""
    build = kernel.module.build()
    arena = Arena(arguments, record.dynamic_shared)
    storage = build.thread_storage()
    statics = [shared_region(storage + v.offset, v.bytes, v.name) for v in build.shared_of(kernel.name)]
    regions = sorted(arena.regions + statics, key=lambda region: region.base)
    record.checked, record.seed = 1, request.seed
    record.regions, record.region_count = (Region * len(regions))(*regions), len(regions)
    record.dynamic_shared_memory = arena.dynamic_shared.ctypes.data
    kernel.run(record, build, arguments)
    arena.give_back({region.base for region in record.regions[: len(regions)] if region.stored})
    counts = {name: getattr(record.counts, name) for name, _ in record.counts._fields_}
    if not request.count_flops:
        counts |= {"flops": None, "special": None}
    shared = kernel.shared_size_bytes + record.dynamic_shared
    request.launches.append(Launch(kernel.name, tuple(record.grid), tuple(record.block), shared, **counts))


def fault(record, kernel, path):
    """The exception for a record's fault, its program counters translated to source lines."""
    text = record.message.decode(errors="replace")
    for i, pc in enumerate(record.pcs):
        text = text.replace(f"@{i}", source_line(path, pc) if pc else "")
    return FAULTS[record.fault](f"kernel {kernel}, {text}")


def source_line(path, pc):
    """The line, as "file.cu:12", of the call that returns to `pc` in the shared object `path`, by its line table."""
    command = [find_tool("addr2line"), "-i", "-e", str(path), hex(pc - 1)]
    frames = subprocess.run(command, capture_output=True, text=True).stdout.split("\n")
    places = [re.sub(r" .*", "", frame).rpartition("/")[2] for frame in frames if not frame.startswith(str(HERE))]
    return next((place for place in places if not place.startswith("?") and place), f"an unknown line ({pc:#x})")

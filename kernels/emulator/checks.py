"""The checked launch: what it watches, what it counts, and how a fault becomes a sentence.

    with checked(seed=3) as launches:
        kernel(grid, block, args)
    launches[0].bytes_read

The kernel works on copies of its arrays, far apart in memory, so that an index just past one array never lands in
another; the copies go back when the launch ends well. Builds on record.py; checker.cpp watches the accesses.
"""

import ctypes
import re
import subprocess
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kernels.emulator import errors
from kernels.emulator.compiler import find_tool
from kernels.emulator.record import Region

HERE = Path(__file__).parent
ALIGNMENT = 256  # of every allocation on a GPU
GAP = 1 << 16  # bytes at least between two arrays, and as many as the larger one has
FAULTS = [errors.EmulatorError, errors.OutOfBounds, errors.UninitializedRead, errors.DataRace, errors.DivergentBarrier]
FAULTS += [errors.BadShuffle, errors.MisalignedAccess, errors.Crash, errors.AssertionFailed]
FAULTS += [errors.UndefinedArithmetic, errors.ReadOnlyWrite, errors.RestrictViolation, errors.SameValueRace]
FAULTS += [errors.NotDeterministic, errors.Deadlock]  # scheduler.h's FaultKind
PARTS = 16  # of a dynamic shared buffer, see __shared_part__
_request = ContextVar("checked launches", default=None)


@dataclass(frozen=True)
class Launch:
    """What one checked launch did.

    bytes_read, bytes_written: global memory, every access of every thread; unique_*: each byte counted once;
    shared_*: shared memory. atomics: operations (each also reads and writes). barriers: passed, summed over blocks.
    flops: float additions, subtractions, multiplications and divisions, 2 for an fma, as the source states them;
    special: exp, log, sqrt, tanh and their like. Both are None unless `checked` was asked to count them.
    not_deterministic: a sentence for each line whose atomic operations give another result in another order.
    lines: a LineAccesses for each line, kind of memory, if `checked` was asked to count them.
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
    not_deterministic: tuple = ()
    lines: tuple = ()


@dataclass(frozen=True)
class LineAccesses:
    """How the warps of a launch accessed memory at one line, as a GPU would.

    memory: "shared" or "global". accesses: by whole warps. transfers: turns of the banks of shared memory, sectors of
    32 bytes of global memory. least: the transfers of the same bytes without conflicts, side by side.
    """

    line: str
    memory: str
    accesses: int
    transfers: int
    least: int

    @property
    def excess(self):
        """Transfers that another order of the data would save: bank conflicts, uncoalesced sectors."""
        return self.transfers - self.least


@dataclass
class Request:
    """A `with checked(...)` block: what it asked for and the launches it saw."""

    seed: int
    count_flops: bool
    same_value_writes: bool
    deterministic: bool
    count_lines: bool
    launches: list

    @property
    def build(self):
        """The kind of build that answers it, see compiler.KINDS."""
        return "counted" if self.count_flops else "checked"


@contextmanager
def checked(seed=0, count_flops=False, same_value_writes=False, deterministic=False, count_lines=False):
    """Every launch inside runs in the checked build, threads and blocks in an order drawn from `seed`.

    `count_flops` also counts operations: `float` becomes a class that counts, so the source must convert floats to
    integers explicitly, and an index one past the end of an inner dimension goes unnoticed.
    `same_value_writes` allows threads to write one value to one place without a barrier, else a SameValueRace.
    `deterministic` makes a NotDeterministic error of what `Launch.not_deterministic` lists.
    `count_lines` counts bank conflicts and uncoalesced accesses, `Launch.lines`.
    Yields the list that collects a `Launch` for each launch. Raises the subclass of EmulatorError that fits a fault.
    """
    token = _request.set(Request(seed, count_flops, same_value_writes, deterministic, count_lines, []))
    try:
        yield _request.get().launches
    finally:
        _request.reset(token)


def current_request():
    """The innermost `with checked(...)` of this thread, or None."""
    return _request.get()


class Group:
    """Arguments whose memory is copied as a whole, because they share it, and their place in the arena.

    aliases: a number above 0 if other groups share memory with this one, which __restrict__ keeps apart.
    """

    def __init__(self, start, stop):
        self.start, self.stop, self.members, self.aliases = start, stop, [], 0

    def slices(self):
        """(argument, the slice of the group that its bytes are) of each member."""
        for argument in self.members:
            offset = argument.memory.ctypes.data - self.start
            yield argument, slice(offset, offset + argument.memory.nbytes)


def group_overlapping(arguments, keep_restricted=True):
    """The arrays among `arguments` in Groups, by address; if `keep_restricted`, a __restrict__ one is never shared."""
    groups = []
    for argument in sorted((a for a in arguments if a.memory is not None), key=lambda a: a.memory.ctypes.data):
        start = argument.memory.ctypes.data
        if not argument.memory.nbytes or not groups or start >= groups[-1].stop:
            groups.append(Group(start, start))
        groups[-1].stop = max(groups[-1].stop, start + argument.memory.nbytes)
        groups[-1].members.append(argument)
    if not keep_restricted:
        return groups
    return [part for number, group in enumerate(groups, 1) for part in separate(group, number)]


def separate(group, number):
    """`group`, or several in its place: each __restrict__ argument that shares memory with others gets its own."""
    restricted = [a for a in group.members if a.restricted]
    if not restricted or len(group.members) == 1:
        return [group]
    groups = []
    for argument in restricted:
        start = argument.memory.ctypes.data
        groups.append(Group(start, start + argument.memory.nbytes))
        groups[-1].members.append(argument)
    group.members = [a for a in group.members if not a.restricted]
    groups += [group] if group.members else []
    for part in groups:
        part.aliases = number
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
    """The memory of one checked launch: copies of its arrays and its dynamic shared memory, with gaps between.

    Sparse arrays (sparse.py) are too large to copy and stay where they are.
    """

    def __init__(self, arguments, dynamic_shared, parts):
        groups = group_overlapping(arguments)
        in_place = [group for group in groups if all(a.sparse for a in group.members)]
        self.groups = [group for group in groups if group not in in_place]
        sizes = [group.stop - group.start for group in self.groups] + [dynamic_shared] * (1 + parts)
        gap = max(GAP, *sizes) // ALIGNMENT * ALIGNMENT + ALIGNMENT
        self.memory = np.empty(sum(sizes) + (gap + 2 * ALIGNMENT) * (len(sizes) + 1), np.uint8)
        self.regions, at = [], gap - self.memory.ctypes.data % ALIGNMENT
        for group in in_place:
            group.bytes, group.written = flat_bytes(group.members[0].memory), None
            self._add_region(group)
        for group in self.groups:
            self._place(group, at + allocation_offset(group.members[0].memory) % ALIGNMENT)
            at += -(-group.bytes.size // ALIGNMENT) * ALIGNMENT + ALIGNMENT + gap
        self.dynamic_shared = self.memory[at : at + dynamic_shared]
        for part in range(1 + parts if dynamic_shared else 0):
            address = self.memory.ctypes.data + at
            name = "a part of dynamic shared memory" if part else "dynamic shared memory"
            self.regions.append(shared_region(address, dynamic_shared, name))
            self.regions[-1].part = part
            at += -(-dynamic_shared // ALIGNMENT) * ALIGNMENT + gap

    def _place(self, group, at):
        group.bytes = self.memory[at : at + group.stop - group.start]
        group.written = np.ones(group.bytes.size, np.uint8)
        for argument, where in group.slices():
            group.bytes[where] = flat_bytes(argument.memory)
            if argument.written is not None:
                group.written[where] = argument.written
            argument.value = np.asarray(group.bytes.ctypes.data + where.start)
        group.before = group.bytes.copy() if group.aliases else None
        if group.bytes.size:
            self._add_region(group)

    def _add_region(self, group):
        first = group.members[0]
        self.regions.append(
            Region(
                base=group.bytes.ctypes.data,
                bytes=group.bytes.size,
                name=first.name.encode(),
                type=str(first.memory.dtype).encode(),
                item=first.memory.itemsize,
                written=None if group.written is None else group.written.ctypes.data,
                read_only=all(a.constant for a in group.members),
                group=group.aliases,
                host=group.start,
            )
        )

    def give_back(self, stored):
        """Copies what the launch wrote to the arrays; `stored`: the base addresses of regions that it wrote to."""
        for group in self.groups:
            if group.bytes.ctypes.data in stored:
                for argument, where in group.slices():
                    changed = ... if group.before is None else group.bytes[where] != group.before[where]
                    flat_bytes(argument.memory)[changed] = group.bytes[where][changed]
                    if argument.written is not None:
                        argument.written[...] = group.written[where]


def shared_region(address, size, name):
    """The Region of a piece of shared memory."""
    return Region(base=address, bytes=size, name=name.encode(), type=b"shared memory", item=1, shared=1)


def global_region(address, variable):
    """The Region of a `__device__` or `__constant__` variable."""
    name, size = variable.name.encode(), variable.bytes
    return Region(base=address, bytes=size, name=name, type=b"a variable", item=1, read_only=variable.constant)


def launch(request, record, kernel, arguments):
    """One checked launch. Its counts join the request's launches; a fault leaves the arrays as they were."""
    build = kernel.module.build()
    arena = Arena(arguments, record.dynamic_shared, PARTS if "__shared_part__" in kernel.module.code else 0)
    record.dynamic_shared_memory = arena.dynamic_shared.ctypes.data
    run(request, record, kernel, build, arguments, arena.regions)
    arena.give_back({region.base for region in record.regions[: record.region_count] if region.stored})


def run(request, record, kernel, build, arguments, regions):
    """Runs a kernel that may touch `regions` besides its module's own memory, and adds a Launch to the request's."""
    storage, image = build.thread_storage(), build.image()
    regions = regions + [shared_region(storage + v.offset, v.bytes, v.name) for v in build.shared_of(kernel.name)]
    regions += [global_region(image + v.offset, v) for v in build.symbols.variables]
    regions.sort(key=lambda region: region.base)
    record.checked, record.seed = 1, request.seed
    record.same_value_writes, record.count_lines = request.same_value_writes, request.count_lines
    record.regions, record.region_count = (Region * len(regions))(*regions), len(regions)
    kernel.run(record, build, arguments)
    counts = {name: getattr(record.counts, name) for name, _ in record.counts._fields_}
    if not request.count_flops:
        counts |= {"flops": None, "special": None}
    shared = kernel.shared_size_bytes + record.dynamic_shared
    notes = read_notes(record, build.path)
    order = tuple(
        f"kernel {kernel.name}, line {line}: {n[0]} atomic additions round in an order that is not fixed"
        for kind, line, n in notes
        if kind == "order"
    )
    lines = tuple(LineAccesses(line, kind, *n) for kind, line, n in notes if kind != "order")
    grid, block = tuple(record.grid), tuple(record.block)
    request.launches.append(Launch(kernel.name, grid, block, shared, **counts, not_deterministic=order, lines=lines))
    if request.deterministic and order:
        raise errors.NotDeterministic(order[0])


def read_notes(record, path):
    """[(kind, source line, numbers)] of what the runtime noted by place in the program, added up by line."""
    text = ctypes.string_at(record.notes, record.notes_size).decode() if record.notes else ""
    places = [(kind, int(pc), *map(int, numbers)) for kind, pc, *numbers in map(str.split, text.splitlines())]
    lines = dict(zip([p[1] for p in places], source_lines(path, [p[1] for p in places]), strict=True))
    sums = {}
    for kind, pc, *numbers in places:
        before = sums.get((kind, lines[pc]), [0] * len(numbers))
        sums[kind, lines[pc]] = [a + b for a, b in zip(before, numbers, strict=True)]
    return [
        (kind, line, numbers) for (kind, line), numbers in sorted(sums.items(), key=lambda item: natural(item[0][1]))
    ]


def natural(line):
    """A key that sorts "a.cu:9" before "a.cu:10"."""
    name, _, number = line.rpartition(":")
    return name, int(number) if number.isdecimal() else 0


def fault(record, kernel, path):
    """The exception for a record's fault, its program counters translated to source lines."""
    text = record.message.decode(errors="replace")
    for i, pc in enumerate(record.pcs):
        text = text.replace(f"@{i}", source_line(path, pc) if pc else "")
    return FAULTS[record.fault](f"kernel {kernel}, {text}")


def source_line(path, pc):
    """The line, as "file.cu:12", of the call that returns to `pc` in the shared object `path`, by its line table."""
    return source_lines(path, [pc])[0]


def source_lines(path, pcs):
    """The lines of several such calls."""
    if not pcs:
        return []
    command = [find_tool("addr2line"), "-a", "-i", "-e", str(path), *(hex(pc - 1) for pc in pcs)]
    output = subprocess.run(command, capture_output=True, text=True).stdout
    found = []
    for answer, pc in zip(re.split(r"^0x[0-9a-f]+\n", output, flags=re.MULTILINE)[1:], pcs, strict=True):
        frames = [frame for frame in answer.split("\n") if not frame.startswith(str(HERE))]
        places = [re.sub(r" .*", "", frame).rpartition("/")[2] for frame in frames]
        found.append(next((p for p in places if not p.startswith("?") and p), f"an unknown line ({pc:#x})"))
    return found

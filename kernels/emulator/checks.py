"""The checked launch: what it watches, what it counts, and how a fault becomes a sentence.

    with checked(seed=3) as launches:
        kernel(grid, block, args)
    launches[0].bytes_read

The kernel works on copies of its arrays (memory/arena.py), which go back when the launch ends well. Builds on
record.py; runtime/checker.cpp watches the accesses.
"""

import ctypes
import re
import subprocess
import threading
from collections import deque
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path

from kernels.emulator import errors
from kernels.emulator.compiler import find_tool
from kernels.emulator.memory import live
from kernels.emulator.memory.arena import Arena, global_region, shared_region
from kernels.emulator.record import Region
from kernels.emulator.source.translate import DYNAMIC_SHARED

HERE = Path(__file__).parent
FAULTS = [errors.EmulatorError, errors.OutOfBounds, errors.UninitializedRead, errors.DataRace, errors.DivergentBarrier]
FAULTS += [errors.BadShuffle, errors.MisalignedAccess, errors.Crash, errors.AssertionFailed]
FAULTS += [errors.UndefinedArithmetic, errors.ReadOnlyWrite, errors.RestrictViolation, errors.SameValueRace]
FAULTS += [errors.NotDeterministic, errors.Deadlock, errors.LaunchError]  # scheduler.h's FaultKind
PARTS = 16  # of a dynamic shared buffer, see __shared_part__
_request = ContextVar("checked launches", default=None)
_everywhere = None  # the request of `checked_everywhere`
_one_at_a_time = threading.Lock()  # a launch works on copies of its arrays: no other may write to them meanwhile
_rounded = ContextVar("launches that round as a GPU", default=False)


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
    findings: list = field(default_factory=list)  # as sentences

    @property
    def build(self):
        """The kind of build that answers it, see compiler.KINDS."""
        return "counted" if self.count_flops else "lines" if self.count_lines else "checked"


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


@contextmanager
def checked_everywhere(findings):
    """Every launch of the process, in each thread, runs in the checked build, but for those inside a `checked`.

    What is wrong raises as in `checked`, and is also added to the list `findings`, in case the caller catches it.
    """
    global _everywhere
    outer, _everywhere = _everywhere, Request(0, False, False, False, False, deque(maxlen=0), findings)
    try:
        yield
    finally:
        _everywhere = outer


@contextmanager
def gpu_rounding():
    """Every launch inside that is not checked rounds as on a GPU: denormal numbers are zero, a product and a sum fuse.

    `__expf` and its kind are computed as a GPU defines them. A result that is right in both roundings is not right by
    luck; the bits are those of no GPU.
    """
    token = _rounded.set(True)
    try:
        yield
    finally:
        _rounded.reset(token)


def current_build():
    """The kind of build for a launch here and now, see compiler.KINDS."""
    request = current_request()
    return request.build if request else "rounded" if _rounded.get() else "fast"


def current_request():
    """The innermost `with checked(...)` of this thread, else that of the whole process, or None."""
    return _request.get() or _everywhere


def launch(request, record, kernel, arguments):
    """One checked launch. Its counts join the request's launches; a fault leaves the arrays as they were."""
    build = kernel.module.build()
    pieces = dynamic_pieces(kernel.module.code, record.dynamic_shared)
    with _one_at_a_time:
        arena = Arena(arguments, record.dynamic_shared, pieces)
        record.dynamic_shared_memory = arena.dynamic_shared
        try:
            run(request, record, kernel, build, arguments, arena.regions + live.regions(arguments))
        except errors.EmulatorError as error:
            request.findings.append(f"{type(error).__name__}: {error}")
            raise
        arena.give_back({region.base for region in record.regions[: record.region_count] if region.stored})


def dynamic_pieces(code, size):
    """How many regions `size` bytes of dynamic shared memory need: one, and one for each part that may be declared.

    One even for 0 bytes, if the source has such a buffer: else an access to it would be blamed on an array nearby.
    """
    if not size and not DYNAMIC_SHARED.search(code):
        return 0
    return 1 + (PARTS if "__shared_part__" in code else 0)


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


def notes(seen):
    """Sentences on what a Launch did that is no fault: atomics whose order decides, bank conflicts, excess sectors."""
    found = list(seen.not_deterministic)
    for line in seen.lines:
        if line.excess:
            what = "bank conflicts" if line.memory == "shared" else "sectors too many"
            found.append(f"{line.line}: {line.excess} {what} in {line.accesses} accesses by warps")
    return found


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

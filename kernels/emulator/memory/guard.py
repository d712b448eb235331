"""The fast build's arrays, apart from the memory of the process: a write past an array must not end it.

Nothing in the fast build watches stores. So NumPy arrays up to `LARGEST` bytes are copied to where a few pages around
each belong to nobody, and back; what was written there is an error. The emulated device's arrays (arrays.py) are
allocated with such a margin and not copied. Next: sparse.py.
"""

from contextlib import contextmanager

import numpy as np

from kernels.emulator.errors import OutOfBounds
from kernels.emulator.memory import arena

MARGIN = 1 << 14  # bytes on each side of an array
LARGEST = 64 << 20
PATTERN = 0xC7


@contextmanager
def guarded(kernel, arguments):
    """Inside, the kernel's arguments are copies with margins. Raises OutOfBounds for what was written to a margin."""
    copied = [a for a in arguments if a.memory is not None and not a.margin and a.memory.nbytes <= LARGEST]
    if not copied:
        yield
        return
    groups = arena.group_overlapping(copied, keep_restricted=False)
    size = sum(group.stop - group.start + 2 * arena.ALIGNMENT + MARGIN for group in groups) + 2 * MARGIN
    memory = np.empty(size, np.uint8)
    at, places = MARGIN - memory.ctypes.data % arena.ALIGNMENT, []
    for group in groups:
        begin = at + arena.allocation_offset(group.members[0].memory) % arena.ALIGNMENT
        end = begin + group.stop - group.start
        memory[at - arena.ALIGNMENT : begin] = memory[end : end + MARGIN] = PATTERN
        for argument, where in group.slices():
            memory[begin + where.start : begin + where.stop] = arena.flat_bytes(argument.memory)
            argument.place(memory.ctypes.data + begin + where.start)
        places.append((group, begin, end))
        at = -(-(end + MARGIN) // arena.ALIGNMENT) * arena.ALIGNMENT
    yield
    for group, begin, _ in places:
        for argument, where in group.slices():
            if not argument.constant:
                arena.flat_bytes(argument.memory)[...] = memory[begin + where.start : begin + where.stop]
    for group, _, end in places:
        (written,) = np.nonzero(memory[end : end + MARGIN] != PATTERN)
        if written.size:
            raise OutOfBounds(
                f"kernel {kernel.name} writes past the end of {group.members[-1].name!r}, up to byte {written[-1]} "
                "after it: run it inside `with checked():` to learn which thread, and at which line"
            )

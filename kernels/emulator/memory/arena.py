"""The memory of a checked launch: copies of its arrays, far apart, so that an index past one never lands in another.

Next: guard.py, the same for the fast build.
"""

import numpy as np

from kernels.emulator.record import Region

ALIGNMENT = 256  # of every allocation on a GPU
GAP = 1 << 16  # bytes at least between two arrays, and as many as the larger one has


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


def type_name(dtype):
    """A dtype as messages name it: CUDA's vector types, whose dtype is a structured one, as float32x4."""
    if dtype.names:
        return f"{dtype[0]}x{len(dtype)}"
    return f"struct of {dtype.itemsize} bytes" if dtype.kind == "V" else str(dtype)


class Arena:
    """The memory of one checked launch: copies of its arrays and its dynamic shared memory, with gaps between.

    Sparse arrays (sparse.py) are too large to copy and stay where they are. `pieces`: of dynamic shared memory, the
    buffer and the parts that it may be divided into.
    """

    def __init__(self, arguments, dynamic_shared, pieces):
        groups = group_overlapping(arguments)
        in_place = [group for group in groups if all(a.sparse for a in group.members)]
        self.groups = [group for group in groups if group not in in_place]
        sizes = [group.stop - group.start for group in self.groups] + [dynamic_shared] * pieces
        gap = max([GAP, *sizes]) // ALIGNMENT * ALIGNMENT + ALIGNMENT
        self.memory = np.empty(sum(sizes) + (gap + 2 * ALIGNMENT) * (len(sizes) + 1), np.uint8)
        self.regions, at = [], gap - self.memory.ctypes.data % ALIGNMENT
        for group in in_place:
            group.bytes, group.written = flat_bytes(group.members[0].memory), None
            self._add_region(group)
        for group in self.groups:
            self._place(group, at + allocation_offset(group.members[0].memory) % ALIGNMENT)
            at += -(-group.bytes.size // ALIGNMENT) * ALIGNMENT + ALIGNMENT + gap
        self.dynamic_shared = self.memory.ctypes.data + at
        for part in range(pieces):
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
            argument.place(group.bytes.ctypes.data + where.start)
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
                type=type_name(first.memory.dtype).encode(),
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
                    if argument.constant:
                        continue  # perhaps a view that cannot be written to
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

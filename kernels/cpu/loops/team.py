"""A barrier for a loop that several threads run at once, each its share of every step.

To hand a thread its next work by way of Python takes longer than a small product does; to wait at a barrier, inside of
compiled code, takes less than a microsecond. The threads share an array of int64, `team`: how many they are, how often
any arrived at the barrier, and whether their work is abandoned. `run_together` of `kernels/cpu/threads.py` makes it.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from kernels.cpu.loops.jit import helper
from kernels.cpu.threads import ABANDONED, ARRIVED, MEMBERS

PATIENCE = 20_000  # reads, some ten microseconds: who is not here by then may be waiting for this processor

sched_yield = types.ExternalFunction("sched_yield", types.int32())
_int64 = ir.IntType(64)


@intrinsic
def atomic_add(typing, address, value):
    """Add to the int64 at an address in one step, which no other thread can come between; returns what it was."""

    def generate(context, builder, signature, arguments):
        pointer = builder.inttoptr(arguments[0], _int64.as_pointer())
        return builder.atomic_rmw("add", pointer, arguments[1], "seq_cst")

    return types.int64(types.uintp, types.int64), generate


@intrinsic
def atomic_load(typing, address):
    """The int64 at an address, read from memory each time."""

    def generate(context, builder, signature, arguments):
        pointer = builder.inttoptr(arguments[0], _int64.as_pointer())
        return builder.load_atomic(pointer, "seq_cst", 8)

    return types.int64(types.uintp), generate


@helper
def barrier(team):
    """Return once all threads of the team are here, or their work is abandoned."""
    arrived, abandoned = team[ARRIVED:].ctypes.data, team[ABANDONED:].ctypes.data
    members = team[MEMBERS]
    complete = (atomic_add(arrived, 1) // members + 1) * members  # arrivals when all are here
    reads = 0
    while atomic_load(arrived) < complete and not atomic_load(abandoned):
        reads += 1
        if reads > PATIENCE:
            sched_yield()


@helper
def share(count, member, members):
    """The first and the end of a member's share of range(count)."""
    return count * member // members, count * (member + 1) // members

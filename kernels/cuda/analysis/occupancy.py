"""Theoretical occupancy: the fraction of a multiprocessor's warp slots that a kernel can fill.

A multiprocessor hides memory latency by switching between resident warps; registers, shared memory, warp slots and
block slots each limit how many fit. The limits are those of the table "Technical Specifications per Compute
Capability" in the CUDA C++ Programming Guide; the rounding is that of NVIDIA's occupancy calculator.
"""

from __future__ import annotations

from dataclasses import dataclass

from kernels.cuda.launch import DEFAULT_SHARED, SharedMemory

WARP = 32
REGISTERS = 65_536  # per multiprocessor, on all of these architectures
REGISTER_UNIT = 256  # a warp's registers are rounded up to this many
WARP_UNIT = 4  # warps that fit by registers are rounded down to this many: one per scheduler
KIB = 1024


@dataclass(frozen=True)
class Multiprocessor:
    """Limits of one multiprocessor."""

    warps: int
    blocks: int
    shared: int  # KiB
    shared_per_block: int  # KiB, what a block may have, after opting in
    shared_unit: int  # bytes, to which a block's shared memory is rounded up
    reserved: int = 0  # bytes of shared memory that the system takes from each block

    @property
    def memory(self) -> SharedMemory:
        """The shared memory, as a device reports it."""
        return SharedMemory(max(DEFAULT_SHARED, self.shared_per_block * KIB), self.shared * KIB, self.reserved)


MULTIPROCESSORS = {
    50: Multiprocessor(64, 32, 64, 48, 256),
    60: Multiprocessor(64, 32, 64, 48, 256),
    61: Multiprocessor(64, 32, 96, 48, 256),
    70: Multiprocessor(64, 32, 96, 96, 256),
    75: Multiprocessor(32, 16, 64, 64, 256),
    80: Multiprocessor(64, 32, 164, 163, 128, 1024),
    86: Multiprocessor(48, 16, 100, 99, 128, 1024),
    89: Multiprocessor(48, 24, 100, 99, 128, 1024),
    90: Multiprocessor(64, 32, 228, 227, 128, 1024),
    100: Multiprocessor(64, 32, 228, 227, 128, 1024),
    120: Multiprocessor(48, 24, 100, 99, 128, 1024),
}


def resident_blocks(architecture: int, threads: int, registers: int, shared: int) -> int:
    """Blocks that fit into one multiprocessor at once; registers per thread, shared bytes per block."""
    mp = MULTIPROCESSORS[architecture]
    warps = -(-threads // WARP)
    warps_by_registers = REGISTERS // _round_up(max(1, registers) * WARP, REGISTER_UNIT) // WARP_UNIT * WARP_UNIT
    shared = _round_up(shared + mp.reserved, mp.shared_unit)
    by_shared = mp.shared * KIB // shared if shared else mp.blocks
    return min(mp.blocks, mp.warps // warps, warps_by_registers // warps, by_shared)


def occupancy(architecture: int, threads: int, registers: int, shared: int) -> float:
    """Resident warps as a fraction of the multiprocessor's warp slots, 0 to 1."""
    blocks = resident_blocks(architecture, threads, registers, shared)
    return blocks * -(-threads // WARP) / MULTIPROCESSORS[architecture].warps


def _round_up(value: int, unit: int) -> int:
    return -(-value // unit) * unit

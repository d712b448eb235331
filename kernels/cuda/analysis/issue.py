"""What fraction of the tensor cores' peak a loop can reach, by a model of who waits for whom.

A quarter of a multiprocessor has one scheduler, and each warp on it spends cycles at three places in turn: the tensor
cores, shared memory, and the pipes for everything else. While a warp is at one, others can be at another. `demands`
adds up the cycles from the instructions of one pass of the loop (`sass.py` counts them in the machine code), and
`utilization` solves the closed queueing network of these places for N resident warps to a scheduler, by mean value
analysis (Reiser and Lavenberg 1980). Within a warp nothing overlaps in this model, though in fact independent
instructions do; across warps the order is random, though barriers couple them. It leaves out the latency of device
memory and the ends of the grid. It is a model: no GPU has measured it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

PLACES = ("tensor", "shared", "other")
# Opcodes that the 16 lanes for float32 multiply and add execute, and those of the 4 for exp2 and its kind; the others
# are of integers, comparisons and conversions, which have 16 lanes of their own.
MULTIPLY_ADD = ("FFMA", "FMUL", "FADD", "IMAD")
SPECIAL = ("MUFU",)
MATRIX_LOAD = ("LDSM", "LDS")  # 512 bytes: all that this project's loops have


@dataclass(frozen=True)
class Rates:
    """Cycles of a scheduler's quarter for one instruction of a warp."""

    matrix: float  # m16n8k16 with sums in float32
    peak: float  # the same at the published peak of the tensor cores
    multiply_add: int  # 32 lanes' float32 multiply-adds
    integer: int = 2
    special: int = 8
    load: int = 16  # 512 bytes at 128 per cycle and multiprocessor, which four schedulers share


# 2048 multiply-adds each: an A100's quarter makes 256 per cycle (Sun et al. 2022, arXiv:2206.02874, measured m16n8k16
# at that rate), an RTX 4090's 64 where sums are float32. An H100 makes 512 by wgmma; by mma.sync Luo et al. (2024,
# arXiv:2402.13499) measured 62.9 % of that. The others are from the CUDA C++ Programming Guide, "Arithmetic
# Instructions": 64 (8.0) or 128 float32 multiply-adds, 64 integer operations, 16 exponentials per cycle and
# multiprocessor.
RATES = {80: Rates(8, 8, 2), 89: Rates(32, 32, 1), 90: Rates(4 / 0.629, 4, 1)}


def demands(instructions: Counter[str], rates: Rates) -> dict[str, float]:
    """{place: cycles} of one pass of a warp. A pipe or the scheduler itself decides how long the rest takes."""
    kinds = Counter[str]()
    for opcode, count in instructions.items():
        kinds[_kind(opcode.partition(".")[0])] += count
    rest = kinds["multiply_add"] + kinds["special"] + kinds["integer"]  # one cycle each to be issued
    pipes = (
        rates.multiply_add * kinds["multiply_add"],
        rates.integer * kinds["integer"],
        rates.special * kinds["special"],
    )
    return {
        "tensor": rates.matrix * kinds["matrix"],
        "shared": rates.load * kinds["load"],
        "other": max(rest, *pipes),
    }


def _kind(opcode: str) -> str:
    if opcode == "HMMA":
        return "matrix"
    if opcode in MATRIX_LOAD:
        return "load"
    return "special" if opcode in SPECIAL else "multiply_add" if opcode in MULTIPLY_ADD else "integer"


def cycle_time(cycles: dict[str, float], warps: int) -> float:
    """Cycles between two warps that finish a pass, with so many warps to a scheduler: mean value analysis."""
    waiting = dict.fromkeys(cycles, 0.0)  # warps at each place, seen by one that arrives
    time = sum(cycles.values())
    for n in range(1, warps + 1):
        residence = {place: demand * (1 + waiting[place]) for place, demand in cycles.items()}
        time = sum(residence.values()) / n
        waiting = {place: stay / time for place, stay in residence.items()}
    return time


def utilization(instructions: Counter[str], rates: Rates, warps: int) -> float:
    """The fraction of the tensor cores' peak that the loop's products reach."""
    at_peak = rates.peak * sum(count for opcode, count in instructions.items() if opcode.startswith("HMMA"))
    return at_peak / cycle_time(demands(instructions, rates), warps)


def useful_pairs(T: int, rows: int, strip: int) -> float:
    """Pairs of a query and a key j <= i, as a fraction of those that warps compute: `rows` x `strip` at a time."""
    computed = sum(rows * -(-(min(first + rows, T)) // strip) * strip for first in range(0, T, rows))
    return T * (T + 1) / 2 / computed

"""What a dry run says of a training step: bytes, operations and launches by kernel, and how long a GPU would take.

The bytes are those of device memory, each array of a kernel once, as if what it reads again came from a cache. The time
is a model, not a measurement, of a few numbers that are stated below:

    a kernel     the larger of bytes / (0.85 bandwidth) and operations / (efficiency * peak), and 1.5 us until the next
    a step       the sum of its kernels, but at least OVERHEAD for each launch, which is what Python needs for one

Operations are counted where a kernel does many for each byte: products, those of attention included.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from kernels.cuda.analysis.traffic import embedding_work
from kernels.emulator.dry_run import Operation

BANDWIDTH_EFFICIENCY = 0.85  # of the published bandwidth: what copying reaches
GAP = 1.5e-6  # seconds between two kernels of a stream
OVERHEAD = 15e-6  # seconds of Python for a launch (docs/cuda.md)
PRODUCTS = {"forward": 2, "queries": 3, "keys": 4}  # of attention's kernels, by how their names end


@dataclass(frozen=True)
class Gpu:
    """Published peaks: bytes and operations per second, those of 16 bits dense and summed in float32.

    efficiency: the part of the peak that products of these sizes reach, on tensor cores and without. attention: the
    part of that which our attention reaches. Those of the H200 were measured, and the H100 computes as it does.
    """

    name: str
    bandwidth: float
    sixteen_bit: float
    float32: float
    efficiency: tuple[float, float]
    attention: float = 0.5


GPUS = (
    Gpu("A100 SXM 80 GB", 2039e9, 312e12, 19.5e12, (0.6, 0.85)),
    Gpu("H100 SXM", 3352e9, 989e12, 66.9e12, (0.7, 0.75), 0.3),
    Gpu("H200", 4800e9, 989e12, 66.9e12, (0.7, 0.75), 0.3),
    Gpu("RTX 4090", 1008e9, 165e12, 82.6e12, (0.75, 0.7)),
)
UNALIGNED = 0.5  # what a 16-bit product reaches of that if one of its sizes is no multiple of 8


@dataclass
class Row:
    """All launches of one kernel."""

    name: str
    launches: int
    bytes: int
    operations: int
    seconds: dict[str, float]  # by GPU


def rows(operations: Iterable[Operation]) -> list[Row]:
    """A Row for each kernel, those that move most first."""
    found: dict[str, Row] = {}
    for operation in operations:
        read, written, work = moved_and_done(operation)
        row = found.setdefault(
            label(operation), Row(label(operation), 0, 0, 0, dict.fromkeys((g.name for g in GPUS), 0.0))
        )
        row.launches += operation.launches
        row.bytes += read + written
        row.operations += work
        for gpu in GPUS:
            peak = gpu.sixteen_bit if is_sixteen_bit(operation) else gpu.float32
            speed = peak * efficiency(operation, gpu)
            seconds = max((read + written) / (gpu.bandwidth * BANDWIDTH_EFFICIENCY), work / speed)
            row.seconds[gpu.name] += seconds + GAP * operation.launches
    return sorted(found.values(), key=lambda row: -row.bytes)


def step_seconds(table: list[Row], gpu: Gpu) -> float:
    """The modelled time of a step."""
    return max(sum(row.seconds[gpu.name] for row in table), OVERHEAD * sum(row.launches for row in table))


def label(operation: Operation) -> str:
    """`kernel` for ours; "CuPy: add" and the like for others."""
    if operation.kind == "kernel":
        return f"`{operation.name}`"
    names = {"product": "cuBLAS products", "transfer": "copies from the host"}
    return names.get(operation.kind, f"CuPy: {operation.name}")


def is_sixteen_bit(operation: Operation) -> bool:
    """Whether its products are on tensor cores."""
    return operation.itemsize == 2 if operation.kind == "product" else "attention_tensor" in operation.name


def moved_and_done(operation: Operation) -> tuple[int, int, int]:
    """Bytes read and written, and operations of products."""
    name, args, read, written = operation.name, operation.args, operation.read, operation.written
    if operation.kind == "product":
        return read, written, operation.operations
    if name.startswith("adamw_update"):  # params, ms and vs are changed in place
        return read, 3 * args["params"].nbytes, 0
    if name == "embedding_backward":
        count, (table, columns) = args["order"].shape[0], args["gweight"].shape
        work = embedding_work(count, min(count, table), table, columns, args["g"].dtype.itemsize)
        return work.read, work.written, 0
    return read, written, attention_operations(name, args) if name.startswith("attention") else 0


def efficiency(operation: Operation, gpu: Gpu) -> float:
    """The part of the peak that the operation's products reach."""
    own = gpu.efficiency[0 if is_sixteen_bit(operation) else 1]
    if operation.name.startswith("attention"):
        return own * gpu.attention
    aligned = operation.kind != "product" or operation.itemsize > 2 or not any(size % 8 for size in operation.sizes)
    return own if aligned else own * UNALIGNED


def attention_operations(name: str, args: dict) -> int:
    """Of the products in one of attention's kernels, below the diagonal."""
    products, time = PRODUCTS.get(name.rpartition("_")[2], 0), args["T"]
    if not products:
        return 0
    return products * args["D"] * time * (time + 1) * args["qkv"].shape[0] * args["H"]

"""What the kernels need of each architecture, as tables that anyone can reproduce without a GPU.

    python -m kernels.cuda.analysis.report

`nvrtc.py` compiles every kernel with CuPy's options and reads back registers and spills, `occupancy.py` derives the
resident warps, `traffic.py` the bytes and operations, which the emulator counts at a small size. The roofline is a
lower bound on time: the larger of bytes / bandwidth and operations / peak. `docs/cuda.md` holds the printed tables.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import product

import numpy as np
from tqdm import tqdm

from kernels import cuda
from kernels.cuda import cached_attention
from kernels.cuda.analysis import nvrtc, traffic
from kernels.cuda.analysis.occupancy import MULTIPROCESSORS, occupancy
from kernels.cuda.analysis.traffic import Work
from kernels.cuda.attention import Plan, plan
from kernels.cuda.cross_entropy import logits_to_gradients
from kernels.cuda.launch import FLOAT_STREAM, STORAGE, SharedMemory, flags, shared_memory, signatures, source
from kernels.cuda.layer_norm import backward_of_long_rows
from kernels.cuda.linear import STRANDS
from kernels.emulator import CompileError, Launch, checked, cupy_like
from kernels.options import NO_DROPOUT, AdamWOptions

HEAD_SIZES = (32, 64, 96, 128)
ROW_SOURCES = ("softmax.cu", "layer_norm.cu", "rms_norm.cu", "cross_entropy.cu", "dropout.cu", "rotary.cu")
ELEMENT_SOURCES = ("gelu.cu", "swiglu.cu", "adamw.cu", "norm.cu", "rounding.cu", "embedding.cu")
PACKED_SOURCES = ("linear.cu", "gelu_linear.cu")
PACKED_ROWS = ("layer_norm_forward", "add_layer_norm_forward", "cross_entropy_gradient")
SUMS_OF_ROWS = ("sum_rows", "bias_add_backward")
COLUMN_KERNELS = {"layer_norm_strips": 256, "layer_norm_columns": 128}  # threads per block; ROW_THREADS is unused


@dataclass(frozen=True)
class Build:
    """One kernel as some device would compile and launch it."""

    source: str
    kernel: str
    threads: int
    shared: int = 0  # bytes of dynamic shared memory
    defines: dict = field(default_factory=dict, hash=False)

    @property
    def options(self) -> str:
        """The macros, as they appear in the table."""
        return " ".join(f"{name}={value}" for name, value in self.defines.items())

    def resources(self, architecture: int) -> nvrtc.Resources:
        """Compile (once: the results are cached)."""
        return nvrtc.resources(source(self.source), architecture, flags(self.defines))[self.kernel]

    def occupancy(self, architecture: int) -> float:
        """The share of a multiprocessor's warps that can be resident."""
        used = self.resources(architecture)
        return occupancy(architecture, self.threads, used.registers, used.static_shared + self.shared)


@dataclass(frozen=True)
class Gpu:
    """A device's published peaks."""

    name: str
    bandwidth: float  # bytes per second
    peak: float  # float32 operations per second, without tensor cores
    architecture: int

    def seconds(self, work: Work) -> float:
        """The roofline: no kernel is faster than its bytes and its operations allow."""
        return max(work.bytes / self.bandwidth, work.operations / self.peak)


GPUS = (
    Gpu("GTX 1050", 112e9, 1.86e12, 61),
    Gpu("RTX 4090", 1008e9, 82.6e12, 89),
    Gpu("H100 SXM", 3352e9, 66.9e12, 90),
)


# ---- every kernel, every variant ------------------------------------------------------------------------------------


def builds(architecture: int) -> Iterator[Build]:
    """All kernels with the options that a device of this architecture would use."""
    for name in ROW_SOURCES:
        for threads in (32, 128, 512):
            for kernel in signatures(name):
                if kernel in COLUMN_KERNELS and threads == 32:
                    yield Build(name, kernel, COLUMN_KERNELS[kernel], defines={"ROW_THREADS": threads})
                elif kernel not in COLUMN_KERNELS:
                    yield Build(name, kernel, max(128, threads), defines={"ROW_THREADS": threads})
    for threads, (strands, width) in product((32, 128), ((8, 1), (4, 4))):
        defines = {"ROW_THREADS": threads, "STRANDS": strands, "WIDTH": width}
        yield Build("layer_norm_backward.cu", "layer_norm_backward_add", strands * threads, defines=defines)
    for name in ELEMENT_SOURCES:
        for kernel in signatures(name):
            yield Build(name, kernel, 256)
    for name in PACKED_SOURCES:
        for kernel in signatures(name):
            for width in (1, 4):
                if kernel in SUMS_OF_ROWS:
                    for across in (2, 4):
                        yield Build(name, kernel, across * STRANDS, defines={"WIDTH": width, "ACROSS": across})
                else:
                    yield Build(name, kernel, 256 // width, defines={"WIDTH": width})
    yield from cached_attention_builds()
    for head in HEAD_SIZES:
        yield from attention_builds(head, architecture)


def cached_attention_builds() -> Iterator[Build]:
    """Those of cached_attention.cu: for each head size, one query and several, packs of four columns and of one."""
    for head, queries, width in product((32, 64, 128), (1, 2), (4, 1)):
        defines = cached_attention.options(queries, head) | {"WIDTH": width}
        yield Build("cached_attention.cu", "cached_attention_parts", 32 * cached_attention.WARPS, defines=defines)
    yield Build("cached_attention.cu", "cached_attention_merge", 32 * cached_attention.WARPS, defines=defines)


def sixteen_bit_builds(architecture: int, dtype: str) -> Iterator[Build]:
    """Those of the kernels that take arrays of float16 or bfloat16, as compiled for them."""
    for build in builds(architecture):
        types = {parameter.type for parameter in signatures(build.source)[build.kernel]}
        widths = ({}, {"WIDTH": 4}) if build.kernel in PACKED_ROWS else ({},)
        streams = ({}, FLOAT_STREAM) if "stream" in types else ({},)
        if "storage" in types:
            for width, stream in product(widths, streams):
                yield replace(build, defines=build.defines | width | STORAGE[dtype] | stream)


def attention_builds(head: int, architecture: int) -> Iterator[Build]:
    """The attention kernels for one head size, tiled for the architecture."""
    for kernel in traffic.ATTENTION_KERNELS:
        tiles = attention_plan(kernel, head, MULTIPROCESSORS[architecture].memory)
        threads, shared = (256, 0) if kernel == "attention_delta" else (tiles.threads, tiles.shared)
        yield Build("attention.cu", kernel, threads, shared, tiles.defines)


def attention_plan(kernel: str, head: int, memory: SharedMemory) -> Plan:
    """The tiling that `kernel` is compiled with: forward owns one tile, backward two."""
    return plan(head, 1 if kernel == "attention_forward" else 2, memory)


# ---- counted by the emulator -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Count:
    """One launch in the emulator's counting build, and what the formula says of it."""

    size: str
    launch: Launch
    formula: Work

    @property
    def bytes(self) -> int:
        """Counted as the formula counts: all loads for attention, each byte once for the kernels that share rows."""
        launch = self.launch
        if launch.kernel in traffic.ATTENTION_KERNELS:
            return launch.bytes_read + launch.bytes_written
        return launch.unique_bytes_read + launch.unique_bytes_written

    @property
    def operations(self) -> int:
        """Arithmetic operations and special functions together."""
        return (self.launch.flops or 0) + (self.launch.special or 0)


def _draw(*shape: int):
    """Normal float32 numbers on the emulated device."""
    return cupy_like.asarray(np.random.default_rng(0).standard_normal(shape).astype(np.float32))


def count_rows(rows: int, columns: int) -> list[Count]:
    """The kernels of traffic.ROW_KERNELS that rows so long have, and embedding_backward. Raises CompileError."""
    x, g, weight, table = _draw(rows, columns), _draw(rows, columns), _draw(columns), _draw(rows, columns)
    targets = cupy_like.asarray(np.arange(rows) % columns)
    with checked(count_flops=True) as launches:
        cuda.softmax_backward(g, cuda.softmax_forward(x))
        cuda.log_softmax_backward(g, cuda.log_softmax_forward(x))
        _, (_, mean, rstd, _) = cuda.layer_norm_forward(x, weight, weight, 1e-5)
        backward_of_long_rows(g, x, weight, mean, rstd, cupy_like.empty_like(x))
        *_, saved = cuda.add_layer_norm_forward(x, g, weight, weight, weight, 1e-5)
        cuda.layer_norm_backward(g, weight, saved, x)
        cuda.rms_norm_backward(g, weight, cuda.rms_norm_forward(x, weight, 1e-5)[1])
        halves = _draw(rows, 2 * columns)
        cuda.swiglu_backward(cuda.swiglu_forward(halves), halves)
        square = _draw(columns, 1)
        y, saved = cuda.gelu_linear_forward(x, weight, square, None)
        cuda.gelu_linear_backward(y, x, weight, square, saved, False)
        cuda.bias_add(x, g, weight)
        cuda.linear_forward(_draw(rows, 1), _draw(1, columns), weight)
        cuda.gradient_norm([x], 1 << 20)
        logits_to_gradients(_draw(rows, columns), _draw(), targets, _draw(rows), columns, -1)
        cuda.gelu_forward(x)
        cuda.gelu_backward(g, x)
        cuda.dropout(x, NO_DROPOUT)
        _, lse = cuda.cross_entropy_forward(x, targets, -1)
        cuda.cross_entropy_backward(_draw(), x, targets, lse, -1)
        cuda.adamw_update([table], [g], [x], [g * g], AdamWOptions(0.1, 0.9, 0.99, 1e-8, 0.1, 1))
        cuda.embedding_backward(g, targets, table)
        cuda.rotary(x.reshape(rows, 1, 1, columns), _draw(1, 2, columns // 2), 1)
    works = {kernel: traffic.row_work(kernel, rows, columns) for kernel in traffic.ROW_KERNELS}
    works["embedding_backward"] = traffic.embedding_work(rows, min(rows, columns), rows, columns)
    by_kernel = {launch.kernel: launch for launch in reversed(launches)}
    return [Count(f"{rows} x {columns}", by_kernel[kernel], works[kernel]) for kernel in works if kernel in by_kernel]


def count_attention(B: int, T: int, H: int, D: int) -> list[Count]:
    """The attention kernels, tiled as for the emulated device. Raises CompileError."""
    qkv, g = _draw(B, T, 3, H, D), _draw(B, T, H, D)
    with checked(count_flops=True) as launches:
        y, lse = cuda.attention_forward(qkv, D**-0.5)
        cuda.attention_backward(g, qkv, y, lse, D**-0.5)
    memory = shared_memory(cupy_like, 0)

    def work(kernel: str) -> Work:
        return traffic.attention_work(kernel, B, T, H, D, attention_plan(kernel, D, memory))

    return [Count(f"B {B}, T {T}, H {H}, D {D}", launch, work(launch.kernel)) for launch in launches]


def count_cached_attention(B: int, end: int, H: int, G: int, D: int) -> list[Count]:
    """The kernels of cached_attention.cu for one new token, of texts with `end` tokens. Raises CompileError."""
    q, cache, ends = _draw(B, 1, H, D), _draw(B, G, end, D), np.full(B, end)
    with checked(count_flops=True) as launches:
        cuda.cached_attention_forward(q, cache, _draw(B, G, end, D), ends, D**-0.5)
    options = cached_attention.options(H // G, D)
    size = f"B {B}, {end} tokens, H {H}, G {G}, D {D}"
    works = (traffic.cached_attention_work(launch.kernel, B, 1, H, G, D, end, options) for launch in launches)
    return [Count(size, launch, work) for launch, work in zip(launches, works, strict=True)]


# ---- tables ---------------------------------------------------------------------------------------------------------


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def resource_table(architectures: tuple[int, ...]) -> str:
    """Registers per thread and occupancy per kernel and architecture; spills, if any, after an exclamation mark."""
    columns = [list(builds(architecture)) for architecture in architectures]
    compile_all([(build, a) for a, column in zip(architectures, columns, strict=True) for build in column])
    rows = []
    for variant in zip(*columns, strict=True):
        label = [f"`{variant[0].kernel}`", variant_name(variant[0])]
        rows.append(label + [cell(build, a) for build, a in zip(variant, architectures, strict=True)])
    return table(["kernel", "variant"] + [f"sm_{a}" for a in architectures], rows)


def compile_all(jobs: list[tuple[Build, int]]) -> None:
    """Compile what the jobs need, each source and set of options once per architecture, on all cores."""
    once = {(build.source, build.options, architecture): (build, architecture) for build, architecture in jobs}
    with ThreadPoolExecutor() as pool:
        work = pool.map(lambda job: job[0].resources(job[1]), once.values())
        for _ in tqdm(work, total=len(once), desc="compiling", unit="module", leave=False):
            pass


def variant_name(build: Build) -> str:
    """What distinguishes builds of the same kernel on one architecture."""
    if "HEAD" in build.defines:
        return f"head size {build.defines['HEAD']}"
    if "LANES" in build.defines and build.kernel == "cached_attention_parts":
        return "LANES {LANES}, ROWS {ROWS}, WIDTH {WIDTH}".format(**build.defines)
    return f"{build.defines['ROW_THREADS']} threads per row" if "ROW_THREADS" in build.defines else ""


def cell(build: Build, architecture: int) -> str:
    """For example "48, 62 %"."""
    used = build.resources(architecture)
    spills = used.spill_stores + used.spill_loads
    return f"{used.registers}, {build.occupancy(architecture):.0%}" + (f" !{spills} B" if spills else "")


def tile_table(architectures: tuple[int, ...]) -> str:
    """Tiles and dynamic shared memory of the attention kernels."""
    rows = []
    for head in HEAD_SIZES:
        for owned, direction in enumerate(("forward", "backward"), start=1):
            plans = [plan(head, owned, MULTIPROCESSORS[a].memory) for a in architectures]
            rows.append([str(head), direction] + [f"{p.block_m}x{p.block_n}, {p.shared / 1024:.0f}" for p in plans])
    return table(["head size", "direction"] + [f"sm_{a}" for a in architectures], rows)


def counted_table() -> str:
    """Bytes and operations at a small size, counted and by formula; one line instead if there is no C++ compiler."""
    try:
        counts = count_rows(64, 1024) + count_attention(1, 256, 1, 64)
        counts += count_cached_attention(1, 1024, 12, 12, 64)
    except CompileError as error:
        return f"Nothing counted: {error}"
    rows = []
    for count in counts:
        cells = compared(count.bytes, count.formula.bytes) + compared(count.operations, count.formula.operations)
        rows.append([f"`{count.launch.kernel}`", count.size, *cells])
    return table(["kernel", "size", "MB", "by formula", "off by", "MFLOP", "by formula", "off by"], rows)


def compared(counted: int, formula: int) -> list[str]:
    """Count and formula in millions, and their relative difference."""
    return [f"{counted / 1e6:.3f}", f"{formula / 1e6:.3f}", f"{counted / formula - 1:+.1%}"]


def roofline_table() -> str:
    """Bytes, operations and lower bounds on time for the layers of GPT-2 (124M) on 8 sequences of 1024 tokens."""
    rows = []
    for name, size, works in roofline_cases():
        first = works[0]
        times = [duration(gpu.seconds(work)) for gpu, work in zip(GPUS, works, strict=True)]
        rows.append([f"`{name}`", size, f"{first.bytes / 1e6:,.0f}", f"{first.operations / 1e9:,.2f}", *times])
    return table(["kernel", "size", "MB", "GFLOP"] + [gpu.name for gpu in GPUS], rows)


def roofline_cases() -> Iterator[tuple[str, str, tuple[Work, ...]]]:
    """(kernel, size, work on each of GPUS, as attention's tiles differ)."""
    B, T, H, D, C, V = 8, 1024, 12, 64, 768, 50257
    sizes = dict.fromkeys(traffic.ROW_KERNELS, (B * T, C))
    sizes |= dict.fromkeys(("softmax_forward", "softmax_backward"), (B * H * T, T))
    sizes |= dict.fromkeys((n for n in sizes if "gelu" in n or "swiglu" in n), (B * T, 4 * C))
    sizes |= {name: (B * T, V) for name in sizes if name.startswith(("log_softmax", "cross_entropy"))}
    sizes |= dict.fromkeys(("adamw_update", "norm_parts"), (V, C))
    sizes["rotary"] = (B * T, 2 * C)  # queries and keys
    for name, (rows, columns) in sizes.items():
        yield name, f"{rows} x {columns}", (traffic.row_work(name, rows, columns),) * len(GPUS)
    yield "embedding_backward", f"{B * T} of {V} x {C}", (traffic.embedding_work(B * T, B * T, V, C),) * len(GPUS)
    for name in traffic.ATTENTION_KERNELS:
        plans = [attention_plan(name, D, MULTIPROCESSORS[gpu.architecture].memory) for gpu in GPUS]
        works = tuple(traffic.attention_work(name, B, T, H, D, p) for p in plans)
        yield name, f"B {B}, T {T}, H {H}, D {D}", works


def duration(seconds: float) -> str:
    """Seconds in a readable unit."""
    return f"{seconds * 1e3:.3g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.3g} us"


def main(argv: list[str] | None = None) -> int:
    """The command: print the tables."""
    parser = argparse.ArgumentParser(prog="python -m kernels.cuda.analysis.report", description=__doc__.splitlines()[0])
    parser.add_argument("--arch", type=int, nargs="+", default=nvrtc.ARCHITECTURES, choices=nvrtc.ARCHITECTURES)
    architectures = tuple(parser.parse_args(argv).arch)
    try:
        resources = resource_table(architectures)
    except nvrtc.CompilerMissing as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("### Registers per thread, theoretical occupancy", resources, sep="\n\n")
    print("\n### Attention: BLOCK_M x BLOCK_N, KiB of shared memory", tile_table(architectures), sep="\n\n")
    print("\n### Bytes and operations: counted by the emulator, and by formula", counted_table(), sep="\n\n")
    print("\n### Roofline: lower bounds on time", roofline_table(), sep="\n\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

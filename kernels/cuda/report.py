"""What the kernels need of each architecture, as tables anyone can check: `python -m kernels.cuda.report`.

Floor 0. No GPU is asked: NVRTC and ptxas (`nvrtc.py`) say what each kernel uses, `occupancy.py` what of it fits,
`traffic.py` what it moves and computes, and the roofline says how fast that could be at best: the larger of
bytes / bandwidth and operations / peak. `docs/cuda.md` holds the printed tables.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from tqdm import tqdm

from kernels.cuda import nvrtc, traffic
from kernels.cuda.attention import Plan, plan
from kernels.cuda.launch import flags, signatures, source
from kernels.cuda.occupancy import MULTIPROCESSORS, occupancy
from kernels.cuda.traffic import Work

HEAD_SIZES = (32, 64, 96, 128)
ROW_SOURCES = ("softmax.cu", "layer_norm.cu", "cross_entropy.cu", "dropout.cu")
ELEMENT_SOURCES = ("gelu.cu", "adamw.cu", "embedding.cu")
COLUMN_KERNELS = {"layer_norm_strips": 256, "layer_norm_columns": 128}  # not laid out by rows: their threads


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
        return " ".join(f"{name}={value}" for name, value in self.defines.items())

    def resources(self, architecture: int) -> nvrtc.Resources:
        """Compile and assemble (once: the results are cached)."""
        ptx = nvrtc.compile_ptx(source(self.source), architecture, flags(self.defines))
        return nvrtc.assemble(ptx, architecture)[self.kernel]

    def occupancy(self, architecture: int) -> float:
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
    for name in ELEMENT_SOURCES:
        for kernel in signatures(name):
            yield Build(name, kernel, 256)
    for head in HEAD_SIZES:
        yield from attention_builds(head, architecture)


def attention_builds(head: int, architecture: int) -> Iterator[Build]:
    """The attention kernels for one head size, tiled for the architecture."""
    forward, backward = attention_plans(head, architecture)
    yield _attention_build("attention_forward", forward)
    yield Build("attention.cu", "attention_delta", 256, defines=backward.defines)
    yield _attention_build("attention_backward_queries", backward)
    yield _attention_build("attention_backward_keys", backward)


def attention_plans(head: int, architecture: int) -> tuple[Plan, Plan]:
    """The tilings of forward and backward."""
    memory = MULTIPROCESSORS[architecture].memory
    return plan(head, 1, memory), plan(head, 2, memory)


def _attention_build(kernel: str, tiles: Plan) -> Build:
    return Build("attention.cu", kernel, tiles.threads, tiles.shared, tiles.defines)


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
    """What distinguishes it from its siblings on the same architecture."""
    if "HEAD" in build.defines:
        return f"head size {build.defines['HEAD']}"
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
        for i, direction in enumerate(("forward", "backward")):
            plans = [attention_plans(head, a)[i] for a in architectures]
            rows.append([str(head), direction] + [f"{p.tile}x{p.stream}, {p.shared / 1024:.0f}" for p in plans])
    return table(["head size", "direction"] + [f"sm_{a}" for a in architectures], rows)


def roofline_table() -> str:
    """Bytes, operations and best possible times for the layers of GPT-2 (124M) on 8 sequences of 1024 tokens."""
    rows = []
    for name, size, works in roofline_cases():
        first = works[0]
        times = [duration(gpu.seconds(work)) for gpu, work in zip(GPUS, works, strict=True)]
        rows.append([f"`{name}`", size, f"{first.bytes / 1e6:,.0f}", f"{first.operations / 1e9:,.2f}", *times])
    return table(["kernel", "size", "MB", "GFLOP"] + [gpu.name for gpu in GPUS], rows)


def roofline_cases() -> Iterator[tuple[str, str, tuple[Work, ...]]]:
    """(kernel, size, work on each of GPUS: attention's tiles differ)."""
    B, T, H, D, C, V = 8, 1024, 12, 64, 768, 50257
    sizes = dict.fromkeys(traffic.ROW_KERNELS, (B * T, C))
    sizes |= dict.fromkeys(("softmax_forward", "softmax_backward"), (B * H * T, T))
    sizes |= dict.fromkeys(("gelu_forward", "gelu_backward"), (B * T, 4 * C))
    sizes |= {name: (B * T, V) for name in sizes if name.startswith(("log_softmax", "cross_entropy"))}
    sizes["adamw_update"] = (V, C)
    for name, (rows, columns) in sizes.items():
        yield name, f"{rows} x {columns}", (traffic.row_work(name, rows, columns),) * len(GPUS)
    size = f"B {B}, T {T}, H {H}, D {D}"
    yield "attention_delta", size, (traffic.delta_work(B, T, H, D),) * len(GPUS)
    for i, name in enumerate(("attention_forward", "attention_backward_queries", "attention_backward_keys")):
        plans = [attention_plans(D, gpu.architecture)[min(i, 1)] for gpu in GPUS]
        yield name, size, tuple(traffic.attention_work(name, B, T, H, D, p) for p in plans)


def duration(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.3g} us"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m kernels.cuda.report", description=__doc__.splitlines()[0])
    parser.add_argument("--arch", type=int, nargs="+", default=nvrtc.ARCHITECTURES, choices=nvrtc.ARCHITECTURES)
    architectures = tuple(parser.parse_args(argv).arch)
    try:
        resources = resource_table(architectures)
    except nvrtc.CompilerMissing as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("### Registers per thread, theoretical occupancy", resources, sep="\n\n")
    print("\n### Attention: tiles (owned x streamed rows), KiB of shared memory", tile_table(architectures), sep="\n\n")
    print("\n### Roofline: the least time each device can need", roofline_table(), sep="\n\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

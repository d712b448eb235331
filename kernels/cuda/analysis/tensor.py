"""What attention on tensor cores needs and can reach, as tables: `python -m kernels.cuda.analysis.tensor`.

Registers and spills from the compiler, resident warps, bytes and products as formulas, rooflines, and the fraction of
the tensor cores' peak by the model of `issue.py`, for which the disassembler has to be installed (`sass.py`).
`docs/cuda.md` holds the printed tables.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from kernels.cuda.analysis import issue, nvrtc, sass
from kernels.cuda.analysis.occupancy import resident_blocks
from kernels.cuda.analysis.report import Build, cell, compile_all, duration, table
from kernels.cuda.analysis.traffic import Work
from kernels.cuda.attention_tensor import TILES, TensorPlan, plan
from kernels.cuda.launch import STORAGE, flags, source

ARCHITECTURES = (80, 86, 89, 90, 100, 120)
HEAD_SIZES = (32, 64, 96, 128)
FORWARD, QUERIES, KEYS = TILES
PRODUCTS = {FORWARD: 2, QUERIES: 3, KEYS: 4}
NEEDED_BACKWARD = 5  # products of a backward pass that computes the scores once
# bytes per second, and operations per second of float16 and bfloat16 with sums in float32, dense, as published
PEAKS = {"A100 SXM": (2039e9, 312e12), "RTX 4090": (1008e9, 165e12), "H100 SXM": (3352e9, 989e12)}


def builds(architecture: int, dropouts=(False, True), dtypes=("float16", "bfloat16")) -> Iterator[Build]:
    """All variants of the kernels that a device of this architecture would compile."""
    for kernel in TILES:
        for head in HEAD_SIZES:
            for dropout in dropouts:
                for dtype in dtypes:
                    yield build(plan(kernel, head, dropout, architecture), dtype)


def build(tiles: TensorPlan, dtype: str) -> Build:
    """How one variant is compiled and launched."""
    return Build(f"{tiles.kernel}.cu", tiles.kernel, tiles.threads, tiles.shared, tiles.defines | STORAGE[dtype])


def inner_loop(variant: Build, architecture: int):
    """Executions by opcode of one pass of the kernel's loop. Raises CompilerMissing."""
    options = (f"-arch=sm_{architecture}", *flags(variant.defines), *nvrtc.CUPY_OPTIONS)
    _, code = nvrtc.compiled(source(variant.source), options)
    return sass.inner_loop(sass.parse(sass.disassemble(code)))


def work(tiles: TensorPlan, B: int, T: int, H: int, D: int) -> Work:
    """Bytes that threads load and store, and operations of the products, of H heads of queries and as many of keys.

    A warp's strips are computed whole up to the diagonal; rows beyond T are not moved.
    """
    read = written = 0
    for first in range(0, T, tiles.block_m):
        end = min(first + tiles.block_m, T)
        rows, walked = end - first, min(T, -(-end // tiles.block_n) * tiles.block_n)
        if tiles.kernel == FORWARD:  # q; k, v; y, lse
            read += 2 * D * (rows + 2 * walked)
            written += 2 * D * rows + 4 * rows
        elif tiles.kernel == QUERIES:  # g, y, q; k, v; lse, by each lane of a row's four; gq, rows
            read += 2 * D * (3 * rows + 2 * walked) + 16 * tiles.block_m
            written += 2 * D * rows + 8 * rows
        else:  # k, v; q, g and rows; gk, gv
            read += 2 * D * (2 * rows + 2 * (T - first)) + 8 * (T - first)
            written += 2 * D * 2 * rows
    pairs = T * (T + 1) / 2 / issue.useful_pairs(T, 16 * tiles.m_tiles, tiles.strip)
    return Work(B * H * read, B * H * written, round(B * H * pairs * 2 * tiles.head * PRODUCTS[tiles.kernel]))


# ---- tables ---------------------------------------------------------------------------------------------------------


def resource_table() -> str:
    """Registers and occupancy of the bfloat16 variants."""
    columns = [list(builds(architecture, dtypes=("bfloat16",))) for architecture in ARCHITECTURES]
    compile_all([(b, a) for a, column in zip(ARCHITECTURES, columns, strict=True) for b in column])
    rows = []
    for variant in zip(*columns, strict=True):
        defines = variant[0].defines
        label = f"head size {defines['HEAD']}" + (", dropout" if defines["DROPOUT"] else "")
        cells = [cell(b, a) for b, a in zip(variant, ARCHITECTURES, strict=True)]
        rows.append([f"`{variant[0].kernel}`", label, *cells])
    return table(["kernel", "variant", *(f"sm_{a}" for a in ARCHITECTURES)], rows)


def tile_table() -> str:
    """Tiles and shared memory, which are those of sm_80 to sm_90."""
    rows = []
    for kernel in TILES:
        plans = [plan(kernel, head, False, 80) for head in HEAD_SIZES]
        cells = [f"{p.block_m}x{p.block_n}, {p.strip}, {p.shared / 1024:.1f}" for p in plans]
        rows.append([f"`{kernel}`", *cells])
    return table(["kernel", *(f"head size {head}" for head in HEAD_SIZES)], rows)


def model_table(T: int = 1024) -> str:
    """Fractions of the tensor cores' peak, or one line if there is no disassembler."""
    try:
        sass.find_nvdisasm()
    except nvrtc.CompilerMissing as error:
        return f"No model: {error}"
    rows = []
    for architecture, rates in issue.RATES.items():
        for head in HEAD_SIZES:
            fractions = {}
            for kernel in TILES:
                tiles = plan(kernel, head, False, architecture)
                variant = build(tiles, "bfloat16")
                loop = inner_loop(variant, architecture)
                blocks = resident_blocks(
                    architecture, tiles.threads, variant.resources(architecture).registers, tiles.shared
                )
                fractions[kernel] = issue.utilization(loop, rates, blocks)
                passes = 1024 / (16 * tiles.m_tiles * tiles.strip)
                cycles = [f"{passes * cycles:.0f}" for cycles in issue.demands(loop, rates).values()]
                counts = [f"{passes * sum(loop.values()):.0f}", *cycles, str(blocks)]
                label = [f"sm_{architecture}", str(head), f"`{kernel}`"]
                rows.append([*label, *counts, *fraction_cells(fractions[kernel], tiles, T)])
            backward = NEEDED_BACKWARD / sum(PRODUCTS[kernel] / fractions[kernel] for kernel in (QUERIES, KEYS))
            label = [f"sm_{architecture}", str(head), "backward, 5 of its 7 products"]
            rows.append([*label, *[""] * 5, *fraction_cells(backward, plan(KEYS, head, False, architecture), T)])
    header = ["", "head size", "kernel", "instructions", *issue.PLACES, "warps", "of the peak", f"causal, T {T}"]
    return table(header, rows)


def fraction_cells(fraction: float, tiles: TensorPlan, T: int) -> list[str]:
    """A fraction of the peak, and what is left where the products of masked scores do not count."""
    return [f"{fraction:.0%}", f"{fraction * issue.useful_pairs(T, 16 * tiles.m_tiles, tiles.strip):.0%}"]


def roofline_table() -> str:
    """Lower bounds on time for a layer of GPT-2 (124M) on 8 sequences of 1024 tokens."""
    rows = []
    for kernel in TILES:
        done = work(plan(kernel, 64, False, 80), 8, 1024, 12, 64)
        times = [duration(max(done.bytes / bandwidth, done.operations / peak)) for bandwidth, peak in PEAKS.values()]
        rows.append([f"`{kernel}`", f"{done.bytes / 1e6:,.0f}", f"{done.operations / 1e9:,.2f}", *times])
    return table(["kernel", "MB", "GFLOP", *PEAKS], rows)


def main() -> int:
    """The command: print the tables."""
    try:
        resources = resource_table()
    except nvrtc.CompilerMissing as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("### Registers per thread, theoretical occupancy", resources, sep="\n\n")
    print("\n### BLOCK_M x BLOCK_N, STRIP, KiB of shared memory", tile_table(), sep="\n\n")
    print("\n### Fraction of the tensor cores' peak, by the model", model_table(), sep="\n\n")
    print("\n### Roofline: lower bounds on time, B 8, T 1024, H 12, D 64", roofline_table(), sep="\n\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

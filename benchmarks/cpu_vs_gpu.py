"""How fast is a GPU, and from which size on does it win?

    python benchmarks/cpu_vs_gpu.py --json gpu.json --plot gpu.png

Each operation runs on the CPU and on the GPU, on the same data and over a range of sizes, and the results are compared
before anything is timed. Times are wall-clock medians with half the distance of the quartiles, the device synchronized.
Rates come with their share of the machine's own peak, measured in the same run: the fastest matmul, and the largest
copy, which no cache can hold (what fits into one exceeds 100 %). Without a GPU there are the CPU's columns, and a line
that says what is missing. The operations are in `operations.py`, the timing in `timing.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import tinytensor as tt
from benchmarks.operations import OPERATIONS, Operation
from benchmarks.timing import measure, milliseconds


class ResultMismatch(AssertionError):
    """Two devices or variants do not compute the same; the message names them."""


@dataclass(frozen=True)
class Row:
    """One measurement. gflops, gbytes: 1e9 operations or bytes a second, None where they mean nothing."""

    operation: str
    size: int
    device: str
    variant: str
    seconds: float
    spread: float
    samples: int
    gflops: float | None
    gbytes: float | None

    @property
    def column(self) -> str:
        return f"{self.device} {self.variant}".strip()


def run(operations: tuple[Operation, ...], devices: list[tt.Device], limit: int | None = None) -> list[Row]:
    """Measure all operations at their sizes (the `limit` smallest ones) on all devices. Raises ResultMismatch."""
    work = [(operation, size) for operation in operations for size in operation.sizes[:limit]]
    rows = []
    for operation, size in tqdm(work, desc="measuring", leave=False, disable=None):
        rows += _measure(operation, size, devices)
    return rows


def _measure(operation: Operation, size: int, devices: list[tt.Device]) -> list[Row]:
    inputs, rows, reference = operation.inputs(size), [], None
    for device in devices:
        for variant, prepare in operation.variants.items():
            if operation.name == "transfer" and device.name == "cpu":
                continue  # host to host is no transfer
            function = prepare(device, *inputs)
            result = tt.to_numpy(function())
            reference = result if reference is None else reference
            _compare(operation, size, f"{device.name} {variant}", result, reference)
            timing = measure(function, device)
            rates = [count(size) / timing.seconds / 1e9 or None for count in (operation.flops, operation.traffic)]
            row = Row(operation.name, size, device.name, variant, timing.seconds, timing.spread, timing.samples, *rates)
            rows.append(row)
    return rows


def _compare(operation: Operation, size: int, where: str, result: np.ndarray, reference: np.ndarray) -> None:
    error = np.abs(result - reference).max() / max(1.0, np.abs(reference).max())
    if not error <= operation.tolerance:
        raise ResultMismatch(
            f"{operation.name} of size {size} on {where} is off by {error:.1e} of the largest value, "
            f"more than {operation.tolerance:.0e}: nothing was timed"
        )


def crossover(rows: list[Row], operation: str, cpu: str, other: str) -> int | None:
    """The smallest size from which on column `other` is faster than `cpu` at every larger size too."""
    seconds = {(row.column, row.size): row.seconds for row in rows if row.operation == operation}
    found = None
    for size in sorted({size for _, size in seconds}, reverse=True):
        if seconds.get((other, size), np.inf) >= seconds.get((cpu, size), 0):
            break
        found = size
    return found


def crossovers(rows: list[Row]) -> dict[str, int | None]:
    """{operation: crossover} between the first column of the CPU and the first of the other device."""
    found = {}
    for operation in dict.fromkeys(row.operation for row in rows):
        columns = dict.fromkeys(row.column for row in rows if row.operation == operation)
        here = [column for column in columns if column.startswith("cpu")]
        there = [column for column in columns if not column.startswith("cpu")]
        if here and there:
            found[operation] = crossover(rows, operation, here[0], there[0])
    return found


def peaks(rows: list[Row]) -> dict[str, dict[str, float]]:
    """{device: {"gflops": of the fastest matmul, "gbytes": of the largest copy}}"""
    found = {}
    for device in dict.fromkeys(row.device for row in rows):
        own = [row for row in rows if row.device == device]
        matmuls, copies = ([row for row in own if row.operation == name] for name in ("matmul", "copy"))
        if matmuls and copies:
            largest = max(copies, key=lambda row: row.size)
            found[device] = {"gflops": max(row.gflops for row in matmuls), "gbytes": largest.gbytes}
    return found


def table(operation: Operation, rows: list[Row], peak: dict) -> str:
    """The measurements of one operation as text, a line for each size and four figures for each column."""
    rows = [row for row in rows if row.operation == operation.name]
    columns = list(dict.fromkeys(row.column for row in rows))
    cells = {(row.size, row.column): _cells(row, peak) for row in rows}
    lines = [f"{operation.name}: {operation.title}"]
    lines.append(" " * 10 + "".join(f"  {column:^41}" for column in columns).rstrip())
    lines.append(f"{'n':>10}" + f"  {'ms':>8} {'spread':>6} {'GFLOP/s':>12} {'GB/s':>12}" * len(columns))
    for size in dict.fromkeys(row.size for row in rows):
        lines.append(f"{size:>10}" + "".join(cells[size, column] for column in columns))
    return "\n".join(lines)


def _cells(row: Row, peak: dict) -> str:
    own = peak.get(row.device, {})
    rates = (_rate(getattr(row, rate), own.get(rate)) for rate in ("gflops", "gbytes"))
    return f"  {milliseconds(row.seconds):>8} {'±' + format(row.spread, '.0%'):>6}" + "".join(
        f" {r:>12}" for r in rates
    )


def _rate(value: float | None, peak: float | None) -> str:
    """A rate and its share of the peak, "12 (34%)"."""
    if value is None:
        return "-"
    return f"{value:.3g} ({value / peak:.0%})" if peak else f"{value:.3g}"


def plot(rows: list[Row], operations: tuple[Operation, ...], path: Path) -> None:
    """One panel for each operation: milliseconds over size, both logarithmic, a line for each column."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import FuncFormatter, LogLocator

    measured = [operation for operation in operations if any(row.operation == operation.name for row in rows)]
    across = min(4, len(measured))
    down = -(-len(measured) // across)
    figure, axes = pyplot.subplots(
        down, across, figsize=(4.2 * across, 3.5 * down), squeeze=False, layout="constrained"
    )
    for axis in axes.flat[len(measured) :]:
        axis.remove()
    for operation, axis in zip(measured, axes.flat, strict=False):
        own = [row for row in rows if row.operation == operation.name]
        for column in dict.fromkeys(row.column for row in own):
            points = [row for row in own if row.column == column]
            style = {"color": "C0" if points[0].device == "cpu" else "C1"}
            style |= {"linestyle": "--" if points[0].variant in ("composed", "to the host") else "-"}
            axis.loglog([p.size for p in points], [1e3 * p.seconds for p in points], "o", ms=4, label=column, **style)
        axis.set_title(operation.name, fontweight="bold")
        axis.set_xlabel(operation.title, fontsize=8, wrap=True)
        axis.xaxis.set_major_locator(LogLocator(base=4 if operation.sizes[-1] / operation.sizes[0] > 2**8 else 2))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda n, _: short(n)))
        decades = np.log10(max(row.seconds for row in own) / min(row.seconds for row in own))
        axis.yaxis.set_major_locator(LogLocator(subs=(1.0,) if decades > 2 else (1.0, 2.0, 5.0), numticks=20))
        axis.yaxis.set_major_formatter(FuncFormatter(lambda ms, _: f"{ms:g}"))
        axis.minorticks_off()
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    for axis in axes[:, 0]:
        axis.set_ylabel("milliseconds")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def short(n: float) -> str:
    """16384 -> "16Ki"."""
    for unit in ("", "Ki", "Mi"):
        if n < 1024:
            return f"{n:g}{unit}"
        n /= 1024
    return f"{n:g}Gi"


def machine(devices: list[tt.Device]) -> dict:
    """What the numbers were measured on."""
    info = {"python": platform.python_version(), "numpy": np.__version__, "platform": platform.platform()}
    info["cores"] = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    for device in devices[1:]:
        properties = device.xp.cuda.runtime.getDeviceProperties(device.xp.cuda.Device().id)
        info[device.name] = properties["name"].decode()
    return info


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line; exits with a sentence if it cannot be carried out."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--device", help="what to compare the CPU with (default: cuda, if there is one)")
    parser.add_argument("--limit", type=int, help="measure only this many sizes of each operation, the smallest")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all measurements to this file")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw them into this PNG file (needs matplotlib)")
    args = parser.parse_args(arguments)
    if args.limit is not None and args.limit < 1:
        parser.error(f"--limit {args.limit}: must be at least 1")
    for name in ("json", "plot"):
        path = getattr(args, name)
        if path and not path.parent.is_dir():
            parser.error(f"--{name} {path}: there is no directory {path.parent}")
    if args.plot and not find_spec("matplotlib"):
        parser.error("--plot: needs matplotlib; install it with pip install -e '.[plot]'")
    return args


def find_devices(name: str | None) -> tuple[list[tt.Device], str | None]:
    """The CPU and the device asked for, or the CPU and why there is no GPU. Raises DeviceError for one by name."""
    cpu = tt.device("cpu")
    if name:
        return [cpu, tt.device(name)], None
    try:
        return [cpu, tt.device("cuda")], None
    except tt.DeviceError as error:
        return [cpu], str(error)


def report(rows: list[Row], peak: dict, cross: dict, missing: str | None) -> str:
    """All tables, each with its crossover, and the peaks."""
    parts = []
    for operation in OPERATIONS:
        if any(row.operation == operation.name for row in rows):
            parts.append(table(operation, rows, peak))
            if operation.name in cross:
                size = cross[operation.name]
                parts[-1] += (
                    f"\nfaster than the CPU from n = {size} on" if size else "\nnot faster than the CPU at any n"
                )
    parts += [
        f"peak of {name}: {rates['gflops']:.3g} GFLOP/s in matmul, {rates['gbytes']:.3g} GB/s in the largest copy"
        for name, rates in peak.items()
    ]
    return "\n\n".join([*parts, f"only the CPU was measured: {missing}"] if missing else parts)


def main(arguments: list[str] | None = None) -> int:
    args = parse(arguments)
    try:
        devices, missing = find_devices(args.device)
        rows = run(OPERATIONS, devices, args.limit)
    except (tt.DeviceError, ResultMismatch) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    peak, cross = peaks(rows), crossovers(rows)
    print(report(rows, peak, cross, missing))
    if args.json:
        content = {"machine": machine(devices), "missing": missing, "peaks": peak, "crossovers": cross}
        args.json.write_text(json.dumps({**content, "rows": [asdict(row) for row in rows]}, indent=1) + "\n")
    if args.plot:
        plot(rows, OPERATIONS, args.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Where does the time of a training step go?

    python benchmarks/profile_step.py --settings A,B,C,D --plot docs/profile.png

Every primitive is timed while `train_step.py`'s step runs, and what a primitive calls (a matrix product in a linear
layer) counts as the callee's. Only the first process's main thread is looked at: it takes part in all that is done, so
its shares add up to the whole step. What is left over is the engine itself, NumPy's calls outside primitives, and
waiting for other threads and processes.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from collections import defaultdict
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.train_step import SETTINGS, gemm_floor, our_step
from kernels import cpu
from kernels.cpu import cross_entropy, linear
from tinytensor.parallel import available_cores

PARTS = {  # what a step consists of: where its functions are looked up, and their names
    "matrix products": [(linear, "matmul"), (cross_entropy, "matmul")],
    "attention": [(cpu, "attention_forward"), (cpu, "attention_backward")],
    "layer norm": [(cpu, "layer_norm_forward"), (cpu, "add_layer_norm_forward"), (cpu, "layer_norm_backward")],
    "GELU": [(cpu, "gelu_linear_forward"), (cpu, "gelu_linear_backward")],  # without their products
    "loss": [(cpu, "linear_cross_entropy")],
    "AdamW": [(cpu, "adamw_update")],
    "Muon": [(cpu, "muon_update")],
    "embedding": [(cpu, "embedding_backward")],
}
REST = "engine, waiting"
STEPS_SECONDS = 4.0  # how long to look


class Clock:
    """Adds up the seconds that the main thread spends in each part, without those of parts called from it."""

    def __init__(self):
        self.seconds: dict[str, float] = defaultdict(float)
        self._inner = [0.0]  # for each running part, the seconds of those it called

    def timed(self, part: str, function):
        """`function`, timed as `part`; in other threads as it is."""

        def wrapper(*args, **options):
            if threading.current_thread() is not threading.main_thread():
                return function(*args, **options)
            self._inner.append(0.0)
            start = time.perf_counter()
            result = function(*args, **options)
            seconds = time.perf_counter() - start
            self.seconds[part] += seconds - self._inner.pop()
            self._inner[-1] += seconds
            return result

        return wrapper


@contextmanager
def clocked():
    """A Clock that runs while the block does."""
    clock = Clock()
    places = [(part, *place) for part, places in PARTS.items() for place in places]
    originals = [(module, name, getattr(module, name)) for _, module, name in places]
    for (part, module, name), (*_, function) in zip(places, originals, strict=True):
        setattr(module, name, clock.timed(part, function))
    try:
        yield clock
    finally:
        for original in originals:
            setattr(*original)


def profile(name: str, threads: int, optimizer: str) -> dict:
    """Seconds of one step by part, the step's own seconds, and the least that its matrix products need."""
    step = our_step(*SETTINGS[name], threads, optimizer)
    step()  # warms up
    with clocked() as clock:
        start, steps = time.perf_counter(), 0
        while time.perf_counter() - start < STEPS_SECONDS or not steps:
            step()
            steps += 1
        seconds = (time.perf_counter() - start) / steps
    parts = {part: clock.seconds[part] / steps for part in PARTS}
    parts[REST] = seconds - sum(parts.values())
    return {"setting": name, "step": seconds, "gemm_floor": gemm_floor(*SETTINGS[name], threads), "parts": parts}


def report(row: dict) -> str:
    """One line of text: milliseconds and share of each part."""
    parts = ", ".join(f"{part} {s * 1e3:.1f} ({s / row['step']:.0%})" for part, s in row["parts"].items())
    return f"{row['setting']}: {row['step'] * 1e3:.1f} ms, products alone {row['gemm_floor'] * 1e3:.1f} ms: {parts}"


def plot(rows: list[dict], path: Path) -> None:
    """A bar for each setting, divided by part, with the floor marked."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(10, 1.2 + 0.7 * len(rows)), layout="constrained")
    labels = [f"{row['setting']}: {row['step'] * 1e3:,.0f} ms" for row in rows]
    left = [0.0] * len(rows)
    for part in rows[0]["parts"]:
        shares = [100 * row["parts"][part] / row["step"] for row in rows]
        bars = axes.barh(labels, shares, left=left, label=part, height=0.6)
        axes.bar_label(bars, [f"{s:.0f}" if s >= 3 else "" for s in shares], label_type="center", color="white")
        left = [a + b for a, b in zip(left, shares, strict=True)]
    for y, row in enumerate(rows):
        floor = 100 * row["gemm_floor"] / row["step"]
        label = "products alone, on warm data" if y == 0 else None
        axes.plot([floor, floor], [y - 0.4, y + 0.4], color="black", linewidth=2, label=label)
    axes.set(xlabel="% of one training step", xlim=(0, 100))
    axes.invert_yaxis()
    figure.legend(loc="outside upper center", ncols=5, frameon=False)
    figure.savefig(path, dpi=120)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--settings", default="A,B,C,D", help="which of A, B, C, D, comma-separated")
    parser.add_argument("--threads", type=int, default=available_cores(), help="default: the cores available")
    parser.add_argument("--optimizer", choices=("adamw", "muon"), default="adamw", help="default adamw")
    parser.add_argument("--plot", type=Path, help="draw the shares into this picture")
    parser.add_argument("--json", type=Path, help="write the seconds to this file")
    args = parser.parse_args(argv)
    rows = []
    for name in args.settings.split(","):
        rows.append(profile(name, args.threads, args.optimizer))
        print(report(rows[-1]), flush=True)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))
    if args.plot:
        plot(rows, args.plot)


if __name__ == "__main__":
    main()

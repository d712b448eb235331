"""How good is the model that a CPU makes in a given time, next to nanoGPT's own code?

    python benchmarks/speedrun.py --data tinyshakespeare.txt --presets default,shakespeare --seeds 1,2,3
    python benchmarks/speedrun.py --data tinyshakespeare.txt --presets 'default,default --block-size 64 --steps 500'
    python benchmarks/speedrun.py --nanogpt DIR --seeds 1,2,3 --json speedrun.json --plot speedrun.png

Every contestant is a command in a process of its own, on the same text with the same split (the last tenth validates).
Its clock starts with its process, compiled code being cached from a run before, and includes its evaluations. With
`--nanogpt`, a clone of github.com/karpathy/nanoGPT whose `data/shakespeare_char/prepare.py` has been run, the text is
that of the clone, and nanoGPT trains too, with the settings that its README has for a CPU. Contestants take turns, so
that a noisy machine slows all of them. The rules are in docs/speedrun.md.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent
TARGETS = {
    1.92: "nanoGPT, CPU settings",
    1.58: "in the time of nanoGPT on a CPU",
    1.4697: "nanoGPT, 10.6 M parameters on an A100",
}
NANOGPT_FLAGS = (  # those that its README gives for a CPU
    "config/train_shakespeare_char.py --device=cpu --compile=False --eval_iters=20 --log_interval=1 --block_size=64 "
    "--batch_size=12 --n_layer=4 --n_head=4 --n_embd=128 --max_iters=2000 --lr_decay_iters=2000 --dropout=0.0"
)
NANOGPT_LOSS = re.compile(r"step (\d+): train loss [\d.]+, val loss ([\d.]+)")
Curve = list[tuple[float, int, float]]  # (seconds since the process started, step, validation loss)


def run_ours(arguments: list[str], data: Path, seed: int, directory: Path) -> Curve:
    """Train with `train.py` and note when each validation loss appears in metrics.jsonl."""
    command = [sys.executable, str(ROOT / "train.py"), *arguments, "--data", str(data), "--seed", str(seed)]
    command += ["--device", "cpu", "--eval-batches", "200", "--out", str(directory)]
    errors, curve = directory.with_suffix(".err"), []
    start = time.perf_counter()
    with open(errors, "w") as file, subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=file) as run:
        for row in follow(directory / "metrics.jsonl", run):
            if "val_loss" in row:
                curve.append((time.perf_counter() - start, row["step"], row["val_loss"]))
    if run.returncode:
        raise SystemExit(f"{' '.join(command)} ended with exit code {run.returncode}: {errors.read_text()[-500:]}")
    return curve


def follow(path: Path, process: subprocess.Popen) -> Iterator[dict]:
    """The rows of a JSONL file, each as soon as it is written, until the process ends."""
    seen = 0
    ended = False
    while not ended:
        ended = process.poll() is not None
        lines = path.read_text().split("\n")[:-1] if path.exists() else []
        yield from map(json.loads, lines[seen:])
        seen = len(lines)
        time.sleep(0.05)


def run_nanogpt(clone: Path, seed: int, directory: Path) -> Curve:
    """Train with nanoGPT's own `train.py`, and note when it prints each validation loss."""
    code = (clone / "train.py").read_text().replace("torch.manual_seed(1337", f"torch.manual_seed({1336 + seed}")
    script = directory.with_suffix(".py")
    script.write_text(code)
    command = [sys.executable, "-u", str(script), *NANOGPT_FLAGS.split(), f"--out_dir={directory}"]
    environment = os.environ | {"PYTHONPATH": str(clone)}
    start, curve = time.perf_counter(), []
    with subprocess.Popen(command, cwd=clone, env=environment, stdout=subprocess.PIPE, text=True) as run:
        for line in run.stdout or ():
            if match := NANOGPT_LOSS.match(line):
                curve.append((time.perf_counter() - start, int(match[1]), float(match[2])))
    if run.returncode:
        raise SystemExit(f"{' '.join(command)} ended with exit code {run.returncode}")
    return curve


def time_to(curve: Curve, target: float) -> float:
    """Seconds until the validation loss first reached `target`; infinity if it did not."""
    return min((seconds for seconds, _, loss in curve if loss <= target), default=float("inf"))


def table(results: dict[str, list[Curve]]) -> str:
    """The end of each contestant's runs, means over the seeds, and how soon it reached the targets."""
    unit = statistics.mean(curve[-1][0] for curve in results.get("nanoGPT", next(iter(results.values()))))
    head = ["contestant", "steps", "val loss at the end (each seed)", "seconds", "relative time"]
    rows = [head + [f"to {target}" for target in TARGETS], ["---"] * (len(head) + len(TARGETS))]
    for name, curves in results.items():
        losses, seconds = ([curve[-1][i] for curve in curves] for i in (2, 0))
        mean, each = statistics.mean(losses), ", ".join(f"{loss:.3f}" for loss in losses)
        ratios = [statistics.mean(time_to(curve, target) for curve in curves) / unit for target in TARGETS]
        cells = [name, str(curves[0][-1][1]), f"{mean:.3f} ({each})", f"{statistics.mean(seconds):.0f}"]
        cells += [f"{statistics.mean(seconds) / unit:.2f}"]
        rows.append(cells + ["never" if ratio == float("inf") else f"{ratio:.2f}" for ratio in ratios])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def plot(results: dict[str, list[Curve]], path: str) -> None:
    """Validation loss against time, a line for every run."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator, ScalarFormatter

    figure, axes = plt.subplots(figsize=(8, 5))
    for color, (name, curves) in enumerate(results.items()):
        for n, curve in enumerate(curves):
            seconds, _, losses = zip(*curve, strict=True)
            axes.plot(seconds, losses, color=f"C{color}", label=name if n == 0 else None, marker=".", linewidth=1)
    for target, name in TARGETS.items():
        axes.axhline(target, color="grey", linewidth=0.5, linestyle=":")
        axes.annotate(f"{target} {name}", (1, target), xycoords=("axes fraction", "data"), ha="right", va="bottom",
                      fontsize=7, color="grey")  # fmt: skip
    axes.set(xscale="log", xlabel="seconds since the start of the process", ylabel="validation loss", ylim=(1.35, 2.6))
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, help="a text, if there is no --nanogpt")
    parser.add_argument("--nanogpt", type=Path, help="a clone of nanoGPT with its shakespeare_char data prepared")
    parser.add_argument("--presets", default="default", help="separated by commas; flags of train.py may follow each")
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--json", type=Path, help="where to write all curves")
    parser.add_argument("--plot", help="where to draw them")
    options = parser.parse_args()
    data = options.data or (options.nanogpt and options.nanogpt / "data/shakespeare_char/input.txt")
    if not data or not data.is_file():
        parser.error(f"--data {data}: must be a text file, or --nanogpt a clone that has one")
    names = [*options.presets.split(","), *(["nanoGPT"] if options.nanogpt else [])]
    results: dict[str, list[Curve]] = {name: [] for name in names}
    rounds = [(int(seed), name) for seed in options.seeds.split(",") for name in names]
    with tempfile.TemporaryDirectory() as directory:
        for seed, name in tqdm(rounds, unit="run"):
            out = Path(directory, f"{names.index(name)}-{seed}")
            if name == "nanoGPT":
                curve = run_nanogpt(options.nanogpt.resolve(), seed, out)
            else:
                curve = run_ours(["--preset", *name.split()], data, seed, out)
            results[name].append(curve)
            tqdm.write(f"{name}, seed {seed}: {curve[-1][2]:.4f} after {curve[-1][0]:.1f} s")
            if options.json:
                options.json.write_text(json.dumps(results))
    print(table(results))
    if options.plot:
        plot(results, options.plot)


if __name__ == "__main__":
    main()

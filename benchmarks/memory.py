"""How close are the peak memory and the time of a step that are predicted (`train.py --plan`) to those measured?

    python benchmarks/memory.py --settings A,B,C,D

Each setting is planned and then run for some seconds, in processes of their own. Measured, up to 50 times a second, is
the memory of the run and all its forks: anonymous and shared pages by their proportional share (PSS), so that each
counts once, and the files that the first process has mapped, which are the libraries. Linux only.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import tinytensor as tt
from benchmarks.train_step import SETTINGS as STEP_SETTINGS
from gpt.model import GPT, GPTConfig
from gpt.planning.memory import generation_memory
from gpt.tokenizers.characters import CharTokenizer
from gpt.weights.directory import create_model_directory, save_weights

ROOT = Path(__file__).resolve().parent.parent
INTERVAL, SHARE = 0.02, 30  # seconds between two samples, or so many times what one takes, as it stops the process
FEWEST_STEPS, MOST_STEPS = 4, 200
LETTERS = "abcdefghijklmnopqrstuvwxyz .,\n"


def shape(layers: int, heads: int, width: int, context: int, vocabulary: int, batch: int) -> dict[str, int]:
    """Flags of train.py."""
    flags = {"n-layer": layers, "n-head": heads, "n-embd": width, "block-size": context, "vocab-size": vocabulary}
    return {**flags, "batch-size": batch}


def of(model: GPTConfig, batch: int) -> dict[str, int]:
    """The flags of a setting of `train_step.py`."""
    return shape(model.n_layer, model.n_head, model.n_embd, model.block_size, model.vocab_size, batch)


TRAININGS = {
    **{name: of(*setting) for name, setting in STEP_SETTINGS.items()},
    "long context": shape(2, 4, 128, 2048, 65, 4),
    "large vocabulary": shape(2, 4, 128, 64, 100_000, 12),
    "one process": {**shape(1, 2, 64, 32, 65, 8), "processes": 1},
}
# Trainings that start from a model of SmolLM2-135M's shape.
LLAMA = {"positions": "rotary", "norm_layer": "rms", "activation": "swiglu", "bias": False, "rotary_theta": 1e5}
SMOL = GPTConfig(49152, 2048, 30, 9, 576, n_inner=1536, n_kv_head=3, **LLAMA)
ONE_PROCESS = {"block-size": 512, "batch-size": 2, "processes": 1}
FINETUNINGS = {
    "LoRA": {"lora-rank": 8, "block-size": 512, "batch-size": 4},
    "LoRA in one process": {"lora-rank": 8, **ONE_PROCESS},
    "LoRA on long windows": {"lora-rank": 8, "block-size": 2048, "batch-size": 1, "processes": 1},
    "all weights in one process": ONE_PROCESS,
}
TRAININGS |= FINETUNINGS
GENERATIONS = {"generation": (GPTConfig(50304, 1024, 12, 12, 768), 4, 950, 20)}  # model, texts, prompt, tokens


def memory(pid: int) -> dict[str, int]:
    """Bytes of a process by kind, as /proc has them; nothing if it has ended."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text() + Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return {}
    return {name: int(count) * 1024 for name, count in re.findall(r"^(\w+):\s+(\d+) kB", text, re.MULTILINE)}


def processes(pid: int) -> list[int]:
    """A process and all below it."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return [pid]
    return [pid, *(below for child in children for below in processes(int(child)))]


def measure_peak(command: list[str]) -> float:
    """MiB that a command has had at most."""
    peak = 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        while process.poll() is None:
            began = time.perf_counter()
            found = [memory(pid) for pid in processes(process.pid)]
            kept = sum(each.get("Pss_Anon", 0) + each.get("Pss_Shmem", 0) for each in found)
            peak = max(peak, kept + found[0].get("RssFile", 0))
            time.sleep(max(INTERVAL, SHARE * (time.perf_counter() - began)))
        output = process.stdout.read()
    if process.returncode:
        sys.exit(f"{' '.join(command)}\n{output}")
    return peak / 2**20


def seconds_in(text: str) -> float:
    """The time of a step in what --plan prints."""
    number, unit = re.search(r"a step of .*?: ([\d.e+]+) (ms|s|min)", text).groups()
    return float(number) * {"ms": 1e-3, "s": 1, "min": 60}[unit]


def training(name: str, seconds: float, folder: Path) -> str:
    """Plan a training and run it; a row of the table."""
    text = folder / "text.txt"
    text.write_text(LETTERS * 2000)
    flags = {**TRAININGS[name], "warmup-steps": 0, "eval-batches": 1, "data": text}
    if name in FINETUNINGS:
        flags["init-from"] = make_model(SMOL, folder / "base")
    command = [sys.executable, str(ROOT / "train.py"), "--device", "cpu", "--preset", "nanogpt-cpu"]
    command += [word for flag, value in flags.items() for word in (f"--{flag}", str(value))]
    plan = subprocess.run([*command, "--plan"], capture_output=True, text=True, check=True).stdout
    predicted = float(re.search(r"^peak +([\d,]+)$", plan, re.MULTILINE)[1].replace(",", ""))
    step = seconds_in(plan)
    steps = min(MOST_STEPS, max(FEWEST_STEPS, int(seconds / step)))
    run = folder / name.replace(" ", "-")
    lengths = ["--steps", str(steps), "--log-interval", str(steps // FEWEST_STEPS)]
    measured = measure_peak([*command, *lengths, "--out", str(run)])
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()[1:]]  # without that of step 0
    tokens = TRAININGS[name]["batch-size"] * TRAININGS[name]["block-size"]
    taken = statistics.median(tokens / row["tokens_per_second"] for row in rows[1:])  # the first one compiles
    return row_of(name, predicted, measured) + f" {step:.3g} s | {taken:.3g} s | {step / taken:.2f} |"


def make_model(config: GPTConfig, directory: Path) -> Path:
    """Save a model that knows nothing; returns the directory."""
    with tt.seeded(1):
        model = GPT(config)
    create_model_directory(directory, "gpt", config, CharTokenizer(LETTERS))
    save_weights(directory, config, model.state_dict())
    return directory


def generation(name: str, folder: Path) -> str:
    """Generate with a model that knows nothing; a row of the table."""
    config, texts, prompt, tokens = GENERATIONS[name]
    (prediction,) = generation_memory("gpt", config, "cpu", texts, prompt, tokens)
    command = [sys.executable, "-m", "gpt.generate", str(make_model(config, folder / "model")), "--device", "cpu"]
    command += ["--samples", str(texts), "--tokens", str(tokens), "--prompt", "a" * prompt]
    measured = measure_peak(command)
    return row_of(name, prediction.total / 2**20, measured) + " | | |"


def row_of(name: str, predicted: float, measured: float) -> str:
    return f"| {name} | {predicted:.0f} MiB | {measured:.0f} MiB | {predicted / measured:.2f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    known = [*TRAININGS, *GENERATIONS]
    parser.add_argument("--settings", default=",".join(known), help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=10, help="of each training, four steps at least (default 10)")
    args = parser.parse_args()
    print("| setting | predicted | measured | ratio | step, predicted | step, measured | ratio |")
    print("|---|---|---|---|---|---|---|")
    for name in args.settings.split(","):
        with TemporaryDirectory() as folder:
            row = generation(name, Path(folder)) if name in GENERATIONS else training(name, args.seconds, Path(folder))
        print(row, flush=True)


if __name__ == "__main__":
    main()

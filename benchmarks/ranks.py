"""Is a training step by two ranks under `mpiexec` as fast as one by two processes of one run?

    python benchmarks/ranks.py --settings A,B,C --rounds 5

Each round starts both, one after the other, and times steps of the same settings as `train_step.py`; the medians of all
rounds are compared. Counted as well: the bytes that a rank sends in a step, against 8 P (N - 1) / N, P parameters of 4
bytes that are sent once as gradients and once as weights, and the values of optimizer state that it holds.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

import tinytensor as tt
from benchmarks.train_step import SETTINGS
from gpt.cli import configure_process
from gpt.distributed.launch import started_ranks
from gpt.training.batches import Batches
from gpt.training.optimizer import build_optimizer
from gpt.training.recipe import TrainConfig
from gpt.training.trainer import build_model, make_parallel, train_step

STEPS = {"A": 60, "B": 6, "C": 10, "D": 4}


def time_steps(setting: str, workers: int, optimizer_name: str) -> None:
    """Print the median time of a step of `workers` processes or ranks, as JSON."""
    shape, size = SETTINGS[setting]
    config = TrainConfig(batch_size=size, shares=workers, optimizer=optimizer_name)
    device = tt.device("cpu")
    with started_ranks() as ranks:
        configure_process(device, workers // ranks.size, workers)
        model = build_model("gpt", shape, 1, device)
        parallel = make_parallel(model, device, config, ranks)
        optimizer = build_optimizer(model, config, ranks)
        tokens = np.random.default_rng(0).integers(0, shape.vocab_size, 100_000).astype(np.uint16)
        batches, times = Batches(tokens, shape.block_size, config.seed), []
        for step in range(STEPS[setting] + 3):
            if step == 3:  # after those that fill caches
                before = ranks.bytes_sent
            ranks.barrier()
            began = time.perf_counter()
            loss, _ = train_step(parallel, optimizer, batches, step, config, ranks)
            float(loss)
            times.append(time.perf_counter() - began)
        sent = (ranks.bytes_sent - before) / STEPS[setting]
        everywhere = ranks.exchange(json.dumps([sent, state_values(optimizer)]))
        found = {
            "seconds": statistics.median(times[3:]),
            "bytes": statistics.mean(json.loads(text)[0] for text in everywhere),
            "expected bytes": 8 * model.num_parameters() * (ranks.size - 1) / ranks.size,
            "state": [json.loads(text)[1] for text in everywhere],
        }
        print(json.dumps(found), flush=True)


def state_values(optimizer) -> int:
    """How many values of state an optimizer holds here."""
    inner = getattr(optimizer, "_optimizers", None) or getattr(optimizer, "optimizers", None) or {"": optimizer}
    return sum(array.size for one in inner.values() for arrays in one.state.values() for array in arrays)


def measure(setting: str, workers: int, optimizer: str, launcher: list[str]) -> dict:
    """What `time_steps` prints in new processes."""
    command = [*launcher, sys.executable, __file__, "--time", setting, "--workers", str(workers)]
    result = subprocess.run(
        [*command, "--optimizer", optimizer], check=True, stdout=subprocess.PIPE, text=True, timeout=600
    )
    return json.loads(result.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", default="A,B,C")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--optimizer", default="adamw", choices=("adamw", "muon"))
    parser.add_argument("--time", help=argparse.SUPPRESS)  # what `measure` starts
    args = parser.parse_args()
    if args.time:
        time_steps(args.time, args.workers, args.optimizer)
        return
    mpiexec = shutil.which("mpiexec", path=str(Path(sys.executable).parent)) or "mpiexec"
    ways = {"processes": [], "ranks": [mpiexec, "-n", str(args.workers)]}
    for setting in args.settings.split(","):
        found = {name: [] for name in ways}
        for _ in range(args.rounds):
            for name, launcher in ways.items():
                found[name].append(measure(setting, args.workers, args.optimizer, launcher))
        medians = {name: statistics.median(one["seconds"] for one in found[name]) for name in ways}
        last, alone = found["ranks"][-1], found["processes"][-1]["state"][0]
        ratio = medians["processes"] / medians["ranks"]
        milliseconds = ", ".join(f"{args.workers} {name} {medians[name] * 1000:.1f} ms" for name in ways)
        bytes_sent = f"{last['bytes']:,.0f} bytes a step, {last['bytes'] / last['expected bytes']:.4f} of the formula"
        shares = ", ".join(f"{state / alone:.3f}" for state in last["state"])
        print(f"{setting}: {milliseconds}, ratio {ratio:.3f}; a rank sends {bytes_sent}; parts of the state: {shares}")


if __name__ == "__main__":
    main()

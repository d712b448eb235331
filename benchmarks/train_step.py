"""How fast is one training step, next to PyTorch eager's, and how far is it from what the processor can do?

    python benchmarks/train_step.py --settings A,B,C,D --rounds 5 --json step.json

Both sides train the same architecture on the same batch with AdamW and a gradient norm clipped to 1: ours on NumPy
(with numba, where it is installed), PyTorch with its fused attention. Each has a process of its own, and rounds take
turns, so that a noisy machine slows both; quoted are medians, and the median of the rounds' ratios with its range. The
GEMM share is the part of our step that the matrix products of the linear layers and the head would take alone, timed on
the same shapes in the same rounds. Without torch only our own numbers appear.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import tinytensor as tt
from benchmarks.timing import timed
from gpt.model import GPT, GPTConfig
from gpt.training.optimizer import build_optimizer
from gpt.training.recipe import TrainConfig
from kernels.cpu.linear import matmul
from kernels.cpu.memory import keep_freed_memory
from kernels.cpu.threads import parallel_map, set_num_threads
from tinytensor.parallel import BatchParallel, available_cores


def config(layers, heads, width, time, vocab) -> GPTConfig:
    shape = {"n_layer": layers, "n_head": heads, "n_embd": width, "block_size": time, "vocab_size": vocab}
    return GPTConfig(**shape, dropout=0.0, bias=False)


SETTINGS = {  # name: (model, batch size)
    "A": (config(4, 4, 128, 64, 65), 12),
    "B": (config(8, 8, 384, 128, 81), 32),
    "C": (config(6, 6, 384, 256, 65), 8),
    "D": (config(12, 12, 768, 1024, 50304), 1),
}
HAS_TORCH = importlib.util.find_spec("torch") is not None
LR, BETAS, DECAY, CLIP = 1e-3, (0.9, 0.99), 0.1, 1.0


def batch(model: GPTConfig, size: int):
    """ids, targets (B, T), int64."""
    tokens = np.random.default_rng(0).integers(0, model.vocab_size, (size, model.block_size + 1))
    return tokens[:, :-1], tokens[:, 1:]


def our_step(model: GPTConfig, size: int, threads: int, optimizer_name: str = "adamw"):
    """A function that trains our model for one step and returns the loss."""
    keep_freed_memory()
    set_num_threads(threads)
    tt.manual_seed(0)
    gpt = GPT(model)
    recipe = TrainConfig(optimizer=optimizer_name, lr=LR, beta1=BETAS[0], beta2=BETAS[1], weight_decay=DECAY)
    optimizer = build_optimizer(gpt, recipe)
    parallel = BatchParallel(gpt, min(threads, size))
    ids, targets = batch(model, size)

    def step():
        optimizer.zero_grad()
        loss = parallel.backward(ids, targets)
        optimizer.step(tt.clip_scale(tt.grad_norm(gpt.parameters()), CLIP))
        return float(loss)

    return step


def torch_step(model: GPTConfig, size: int, threads: int):
    """The same for PyTorch, which is imported only here, so that our own peak memory does not include it."""
    import torch

    from benchmarks.torch_gpt import TorchGPT
    from benchmarks.torch_gpt import decay_groups as torch_decay_groups

    torch.manual_seed(0)
    torch.set_num_threads(threads)
    gpt = TorchGPT(model)
    optimizer = torch.optim.AdamW(torch_decay_groups(gpt, DECAY), LR, BETAS, fused=True)
    ids, targets = (torch.from_numpy(a.copy()) for a in batch(model, size))

    def step():
        optimizer.zero_grad()
        loss = gpt(ids, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(gpt.parameters(), CLIP)
        optimizer.step()
        return loss.item()

    return step


def gemm_floor(model: GPTConfig, size: int, threads: int) -> float:
    """Seconds that the products of one step take alone: forward, dx and dw of each linear layer and of the head.

    The rows are divided among the threads, and each thread's products are timed one by one while the others do theirs,
    by the product that the step itself takes (the faster of BLAS's own and its small ones in tiles).
    """
    rows, c = size * model.block_size // threads, model.n_embd
    layers = [(c, 3 * c), (c, c), (c, 4 * c), (4 * c, c)]

    def products(_) -> float:
        total = 0.0
        for (inputs, outputs), count in [*((shape, model.n_layer) for shape in layers), ((c, model.vocab_size), 1)]:
            x, w, y = (np.ones(shape, np.float32) for shape in ((rows, inputs), (inputs, outputs), (rows, outputs)))
            for a, b, out in ((x, w, y), (y, w.T, x), (x.T, y, np.empty_like(w))):
                matmul(a, b, out)  # into the cache, as the layer before leaves them
                total += count * seconds(lambda: matmul(a, b, out))  # noqa: B023
        return total

    return statistics.mean(parallel_map(products, range(threads)))


def seconds(run) -> float:
    """How long one call takes."""
    with timed() as call:
        run()
    return call.seconds


class Trainer:
    """One side's training, in a process of its own: neither side's threads, memory or allocator touch the other's."""

    def __init__(self, name: str, side: str, threads: int):
        command = [sys.executable, __file__, "--settings", name, "--threads", str(threads), "--train-as", side]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._steps = 1
        self._steps = max(1, int(0.5 / max(self.seconds(), self.seconds())))  # the first step also warms up

    def seconds(self) -> float:
        """How long a step takes, over half a second of steps."""
        self._process.stdin.write(f"{self._steps}\n")
        self._process.stdin.flush()
        return self._answer() / self._steps

    def stop(self) -> float:
        """End the process; returns the MiB of memory it has had at most."""
        self._process.stdin.close()
        peak = self._answer()
        self._process.wait()
        return peak

    def _answer(self) -> float:
        answer = self._process.stdout.readline()
        if not answer:
            sys.exit("error: a training process stopped; its own message is above")
        return float(answer)


def train_as(side: str, name: str, threads: int) -> None:
    """What runs in a Trainer's process: for each number read, the seconds of as many steps; at the end, the peak."""
    step = (our_step if side == "ours" else torch_step)(*SETTINGS[name], threads)
    for line in sys.stdin:
        print(seconds(lambda: [step() for _ in range(int(line))]), flush=True)  # noqa: B023
    print(peak_memory())


def measure(name: str, rounds: int, threads: int) -> dict:
    """Interleave both sides; seconds as medians, ratio (PyTorch / ours) as median, lowest and highest; peak memory."""
    set_num_threads(threads)
    trainers = {side: Trainer(name, side, threads) for side in (("ours", "torch") if HAS_TORCH else ("ours",))}
    times = {side: [] for side in (*trainers, "gemm")}
    for _ in range(rounds):
        for side, trainer in trainers.items():
            times[side].append(trainer.seconds())
        times["gemm"].append(gemm_floor(*SETTINGS[name], threads))
    row = {"setting": name, **{side: statistics.median(values) for side, values in times.items()}}
    row["gemm_share"] = statistics.median(g / o for g, o in zip(times["gemm"], times["ours"], strict=True))
    if HAS_TORCH:
        ratios = sorted(t / o for t, o in zip(times["torch"], times["ours"], strict=True))
        row |= {"ratio": statistics.median(ratios), "lowest": ratios[0], "highest": ratios[-1]}
    return row | {"memory": {side: trainer.stop() for side, trainer in trainers.items()}}


def peak_memory() -> float:
    """MiB of memory this process and those it has forked have had at most; getrusage would count its parent's as well.

    What a fork maps of files and of shared memory is the same as here; other pages that it still shares count twice.
    """

    def mib(process, *kinds) -> float:
        status = Path(f"/proc/{process}/status").read_text()
        return sum(int(status.split(f"{kind}:")[1].split()[0]) for kind in kinds) / 1024

    forks = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return mib("self", "VmHWM") + sum(mib(fork, "VmHWM") - mib(fork, "RssFile", "RssShmem") for fork in forks)


def report(row: dict) -> str:
    text = f"{row['setting']}: ours {row['ours'] * 1e3:8.1f} ms, GEMM share {row['gemm_share']:4.0%}"
    if HAS_TORCH:
        text += (
            f", torch {row['torch'] * 1e3:8.1f} ms, ratio {row['ratio']:.2f} ({row['lowest']:.2f}-{row['highest']:.2f})"
        )
    return text + ", peak " + ", ".join(f"{side} {mib:.0f} MiB" for side, mib in row["memory"].items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--settings", default="A,B,C,D", help="which of A, B, C, D, comma-separated")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds (default 5)")
    parser.add_argument("--threads", type=int, default=available_cores(), help="default: the cores available")
    parser.add_argument("--json", type=Path, help="write the numbers to this file")
    parser.add_argument("--train-as", choices=("ours", "torch"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.train_as:
        train_as(args.train_as, args.settings, args.threads)
        return
    rows = []
    for name in args.settings.split(","):
        rows.append(measure(name, args.rounds, args.threads))
        print(report(rows[-1]), flush=True)
    if HAS_TORCH:
        print(f"geometric mean of the ratios: {statistics.geometric_mean(row['ratio'] for row in rows):.2f}")
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()

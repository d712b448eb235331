"""What does a training step of GPT-2 (124M) ask of a GPU: which kernels, how many launches, how many bytes?

    python benchmarks/gpu_step.py --dtype bfloat16

Counted without a GPU, from shapes: the step of `train.py` runs on the emulated device in a dry run
(`kernels/emulator/dry_run.py`). Tokens per second are modelled from that, not measured
(`kernels/cuda/analysis/steps.py`).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

import tinytensor as tt
from gpt.model import GPT, GPTConfig
from gpt.options import build
from gpt.training.batches import Batches
from gpt.training.optimizer import build_optimizer
from gpt.training.recipe import PRESETS, TrainConfig
from gpt.training.trainer import make_parallel, train_step, with_precision
from kernels.cuda.analysis import steps
from kernels.cuda.analysis.report import table
from kernels.emulator.cuda_like import compute_capability
from kernels.emulator.dry_run import Operation, dry_run


def training_step(dtype: str, batch_size: int, device: tt.Device, matmul: str = "float32"):
    """A function of a step's number that makes one step of `train.py` with so many sequences, and returns its loss.

    float16 without its loss scale, for which a step of `train.py` also reads the gradient norm.
    """
    settings = PRESETS["gpt2"] | {"dtype": dtype, "matmul": matmul, "batch_size": batch_size, "grad_accum_steps": 1}
    shape, config = build(GPTConfig, settings), build(TrainConfig, settings)
    model = GPT(shape).to(device)
    parallel = make_parallel(with_precision(model, config), device, config)
    optimizer = build_optimizer(model, config)
    ids = np.random.default_rng(0).integers(0, shape.vocab_size, 64 * shape.block_size, np.uint16)
    batches = Batches(ids, shape.block_size, config.seed)
    return lambda step: train_step(parallel, optimizer, batches, step, config)[0]


def record(dtype: str, batch_size: int) -> list[Operation]:
    """What one step of so many sequences enqueues, after a first one."""
    with dry_run() as operations, compute_capability("80"):
        step = training_step(dtype, batch_size, tt.device("emulated"))
        step(0)
        operations.clear()  # the first step also makes the 16-bit copies of the weights
        step(1)
    return operations


def step_table(rows: list[steps.Row]) -> str:
    """By kernel: launches, bytes, operations of products and modelled times; and the sums."""
    lines = [cells(row.name, row.launches, row.bytes, row.operations, row.seconds.values()) for row in rows]
    seconds = [sum(row.seconds[gpu.name] for row in rows) for gpu in steps.GPUS]
    sums = (sum(getattr(row, what) for row in rows) for what in ("launches", "bytes", "operations"))
    lines.append(cells("**all**", *sums, seconds))
    return table(["kernel", "launches", "MB", "GFLOP", *(f"{gpu.name}, ms" for gpu in steps.GPUS)], lines)


def cells(name: str, launches: int, moved: int, operations: int, seconds) -> list[str]:
    """One line of the table."""
    done = f"{operations / 1e9:,.0f}" if operations else ""
    return [name, f"{launches:,}", f"{moved / 1e6:,.1f}", done, *(f"{1e3 * s:.2f}" for s in seconds)]


def main(argv: list[str] | None = None) -> int:
    """The command: print the table and the modelled tokens per second."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dtype", default="bfloat16", choices=("float32", "float16", "bfloat16"))
    parser.add_argument("--batch-size", type=int, default=16, help="sequences of 1024 tokens")
    options = parser.parse_args(argv)
    rows = steps.rows(record(options.dtype, options.batch_size))
    print(step_table(rows))
    for gpu in steps.GPUS:
        speed = options.batch_size * 1024 / steps.step_seconds(rows, gpu)
        print(f"{gpu.name}: {speed:,.0f} tokens/s (modelled)")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""How fast is a training step of GPT-2 (124M) on this GPU, next to PyTorch's, and which kernels take its time?

    python benchmarks/gpu_train.py --json gpu.json
    python benchmarks/gpu_train.py --sides bfloat16 --kernels

A side is a dtype of `train.py`, "tf32", or PyTorch in bfloat16 (eager or compiled, with its fused attention and AdamW;
its vocabulary is padded to 50,304, as ours is inside). Each has a process of its own, so that memory and settings of
one do not touch another's; quoted are medians of rounds of steps, the device synchronized around each. `gpu_step.py`
says what a step consists of and models its time. --kernels lists the GPU's time by kernel, which PyTorch's profiler
reads from the driver, ours included.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

import tinytensor as tt
from benchmarks.gpu_step import training_step
from benchmarks.timing import timed
from gpt.model import GPTConfig
from gpt.options import build
from gpt.training.recipe import PRESETS

OURS = ("float32", "tf32", "float16", "bfloat16")
THEIRS = ("torch", "torch-compiled")
PADDED_VOCABULARY = 50_304
WARM_UP = 3  # steps; the first compiles
FLOPS = 6 * 12 * 12 * 768**2 + 6 * 50_304 * 768 + 6 * 12 * 768 * 1024  # of products for a token, half of the scores


def our_step(side: str, batch_size: int):
    """A function of a step's number that trains our model."""
    dtype, matmul = ("float32", "tf32") if side == "tf32" else (side, "float32")
    return training_step(dtype, batch_size, tt.device("cuda"), matmul)


def torch_step(side: str, batch_size: int):
    """The same for PyTorch, imported only here, so that our side has no part of it in its memory."""
    import torch

    from benchmarks.torch_gpt import TorchGPT, decay_groups

    torch.manual_seed(0)
    shape = replace(build(GPTConfig, PRESETS["gpt2"]), vocab_size=PADDED_VOCABULARY)
    model = TorchGPT(shape).cuda()
    optimizer = torch.optim.AdamW(decay_groups(model, 0.1), 6e-4, (0.9, 0.95), fused=True)
    data = torch.from_numpy(np.random.default_rng(0).integers(0, 50257, (2, batch_size, shape.block_size)))
    forward = torch.compile(model) if side == "torch-compiled" else model

    def step(_: int):
        ids, targets = data.cuda(non_blocking=True)
        with torch.autocast("cuda", torch.bfloat16):
            loss = forward(ids, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    return step


def peak_gib(side: str) -> float:
    """GiB that the side's allocator has taken from the GPU."""
    if side in THEIRS:
        import torch

        return torch.cuda.max_memory_reserved() / 2**30
    return tt.device("cuda").xp.get_default_memory_pool().total_bytes() / 2**30


def train_as(side: str, options: argparse.Namespace) -> dict:
    """What runs in a side's process: the seconds of a step in each round, the memory, and the kernels if asked for."""
    step = (torch_step if side in THEIRS else our_step)(side, options.batch_size)
    losses = [float(step(i)) for i in range(WARM_UP)]
    seconds, done = [], WARM_UP
    for _ in range(options.rounds):
        with timed(device="cuda") as clock:
            for _ in range(options.steps):
                loss = step(done)
                done += 1
        seconds.append(clock.seconds / options.steps)
    result = {"side": side, "seconds": seconds, "losses": [*losses, float(loss)], "gib": peak_gib(side)}
    if options.kernels:
        result["kernels"] = kernel_times(lambda: step(done))
    return result


def kernel_times(step) -> dict[str, tuple[int, float]]:
    """{kernel: (launches, seconds)} of one step."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        step()
        tt.cuda.synchronize()
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        profiler.export_chrome_trace(file.name)
        events = json.loads(Path(file.name).read_text())["traceEvents"]
    times = defaultdict(lambda: (0, 0.0))
    for event in events:
        if event.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset"):
            launches, seconds = times[short(event["name"])]
            times[short(event["name"])] = launches + 1, seconds + event["dur"] / 1e6
    return dict(sorted(times.items(), key=lambda item: -item[1][1]))


def short(name: str) -> str:
    """A kernel's name without its arguments and the arguments of its templates."""
    return re.sub(r"<.*|\(.*", "", name.removeprefix("void "))


def measure(side: str, options: argparse.Namespace) -> dict:
    """Run `train_as` in a new process."""
    own = ["--train-as", side, "--batch-size", options.batch_size, "--rounds", options.rounds, "--steps", options.steps]
    command = [sys.executable, __file__, *map(str, own), *(["--kernels"] if options.kernels else [])]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"error: {side} stopped with status {done.returncode}; its own message is above")
    return json.loads(done.stdout.splitlines()[-1])


def report(row: dict, batch_size: int) -> str:
    """One line, and one for each kernel."""
    seconds = statistics.median(row["seconds"])
    tokens = batch_size * 1024 / seconds
    text = f"{row['side']:15} {1e3 * seconds:7.1f} ms/step {tokens:9,.0f} tokens/s {tokens * FLOPS / 1e12:6.1f} TFLOP/s"
    lines = [f"{text} {row['gib']:6.2f} GiB, losses {' '.join(f'{loss:.4f}' for loss in row['losses'])}"]
    for name, (launches, time) in row.get("kernels", {}).items():
        lines.append(f"    {name[:70]:70} {launches:5} {1e3 * time:8.3f} ms")
    if "kernels" in row:
        launches, times = zip(*row["kernels"].values(), strict=True)
        lines.append(f"    {'all':70} {sum(launches):5} {1e3 * sum(times):8.3f} ms")
    return "\n".join(lines)


def sides(text: str) -> list[str]:
    """Names with commas between them. Raises ArgumentTypeError for one that there is not."""
    names = text.split(",")
    for name in names:
        if name not in (*OURS, *THEIRS):
            raise argparse.ArgumentTypeError(f"{name!r}: must be of {', '.join((*OURS, *THEIRS))}")
    return names


def main(argv: list[str] | None = None) -> int:
    """The command: a line for each side."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sides", type=sides, default=(*OURS, *THEIRS), help=f"default: {','.join((*OURS, *THEIRS))}")
    parser.add_argument("--batch-size", type=int, default=16, help="sequences of 1024 tokens (default 16)")
    parser.add_argument("--rounds", type=int, default=5, help="whose median is quoted (default 5)")
    parser.add_argument("--steps", type=int, default=5, help="in a round (default 5)")
    parser.add_argument("--kernels", action="store_true", help="list the time by kernel (needs torch)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all measurements to this file")
    parser.add_argument("--train-as", choices=(*OURS, *THEIRS), help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.train_as:
        print(json.dumps(train_as(options.train_as, options)))
        return 0
    try:
        tt.device("cuda")
    except tt.DeviceError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    rows = []
    for side in options.sides:
        rows.append(measure(side, options))
        print(report(rows[-1], options.batch_size), flush=True)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())

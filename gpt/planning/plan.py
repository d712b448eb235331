"""What `train.py --plan` prints: the items of the predicted peak memory, what there is, and measured times."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import Any

import tinytensor as tt
from gpt.corpus.tokens import open_tokens
from gpt.planning.check import find_limits
from gpt.planning.memory import training_memory
from gpt.training.batches import Batches, EvalWindows
from gpt.training.run import Run
from gpt.training.trainer import evaluate, train_step
from tinytensor.parallel import BatchParallel
from tinytensor.parallel.processes import PART_TOKENS

SAMPLES, SECONDS = 100, 4.0  # timings whose median is taken; fewer if they take longer than that


def memory_table(run: Run, resumed: bool) -> str:
    """What will take how much memory, and how much there is."""
    device = tt.device(run.train.device)
    limits = find_limits(device)
    predictions = training_memory(run.train.model, run.model, run.train, device.name, resumed)
    lines = [f"{'MiB':>56}  processes"]
    for prediction, limit in zip(predictions, (limits.host, limits.device), strict=False):
        lines += [f"{item.name:46}{_mib(item.bytes):>10}{item.processes:11}" for item in prediction.items]
        lines.append(f"{'peak':46}{_mib(prediction.total):>10}")
        if limit:
            lines.append(f"{'available to ' + limit.name:46}{_mib(limit.bytes):>10}")
    if limits.process:
        lines.append(f"{'available to ' + limits.process.name:46}{_mib(limits.process.bytes):>10}")
    return "\n".join(lines)


def time_estimate(run: Run, done: int, model: Any, parallel: BatchParallel, optimizer: Any) -> str:
    """The time of a step and of those after the first `done`, measured on as few windows as keep every process busy.

    Changes the model.
    """
    config, block_size = run.train, run.model.block_size
    tokens, device = open_tokens(run.directory), tt.device(config.device)
    at_once = max(1, PART_TOKENS // block_size) if device.name == "cpu" else config.batch_size
    windows = min(config.windows, config.shares * at_once)
    part = dataclasses.replace(config, batch_size=windows, grad_accum_steps=1)
    batches = Batches(tokens.train, block_size, config.seed, tokens.train_answers)
    evaluation = EvalWindows(tokens.val, block_size, windows, 1, tokens.val_answers)

    def update() -> None:
        train_step(parallel, optimizer, batches, 0, part)

    def gradients() -> None:
        with tt.seeded(config.seed, "dropout", 0):
            parallel.backward(*batches.rows(0, slice(0, windows)))

    parts = config.windows / windows
    step = _seconds(update, device)
    if parts > 1:
        step += (parts - 1) * _seconds(gradients, device)
    evaluated = config.batch_size / windows * config.eval_batches
    evaluation_seconds = evaluated * _seconds(lambda: evaluate(model, evaluation), device)
    steps = max(0, config.steps - done)
    evaluations = -(-config.steps // config.eval_interval) - done // config.eval_interval if steps else 0
    evaluations += done == 0  # before the first step
    total = steps * step + evaluations * evaluation_seconds
    per_step = config.windows * block_size
    return (
        f"a step of {per_step:,} tokens: {format_seconds(step)}; an evaluation: {format_seconds(evaluation_seconds)}\n"
        f"steps: {steps:,}, evaluations: {evaluations:,}, together about {format_seconds(total)}"
    )


def _seconds(work: Callable[[], object], device: tt.Device) -> float:
    """The median time of a call, after one that compiles and fills caches."""
    times: list[float] = []
    work()
    while len(times) < SAMPLES and sum(times) < SECONDS:
        device.synchronize()
        began = time.perf_counter()
        work()
        device.synchronize()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def format_seconds(seconds: float) -> str:
    """Seconds as a person reads them."""
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms"
    if seconds < 120:
        return f"{seconds:.3g} s"
    minutes = seconds / 60
    if minutes < 120:
        return f"{minutes:.0f} min"
    hours = minutes / 60
    return f"{hours:.0f} h" if hours < 72 else f"{hours / 24:,.0f} days"


def _mib(count: int) -> str:
    return f"{count >> 20:,}"

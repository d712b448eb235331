"""The parts of the training loop in `train.py`: build, step, evaluate.

Every random draw is made under a key of (seed, purpose, step), so a step repeats to the bit whenever it is run. Losses
stay on the device until they are read.
"""

import math
import time
from collections.abc import Callable
from typing import Any

import tinytensor as tt
from gpt.errors import UserError
from gpt.model import MODELS, GPTConfig
from gpt.training.batches import Batches, EvalWindows
from gpt.training.metrics import SLOWER
from gpt.training.recipe import TrainConfig
from kernels.shapes import MAX_GPU_HEAD_SIZE
from tinytensor.parallel import BatchParallel, count_targets

Backward = Callable[[Any, Any, float], Any]


def build_model(kind: str, config: GPTConfig, seed: int, device: tt.Device) -> Any:
    """A new model of the kind on the device, its weights a function of the seed. UserError for too large heads."""
    head_size = config.head_size
    if kind == "gpt" and device.name != "cpu" and head_size > MAX_GPU_HEAD_SIZE:
        given, remedy = (
            ("--head-dim", "lower it") if config.head_dim else (f"--n-embd {config.n_embd}", "raise --n-head")
        )
        raise UserError(
            f"{given}: makes heads of {head_size} values, and on a GPU they have at most {MAX_GPU_HEAD_SIZE}: "
            f"{remedy}, or use --device cpu"
        )
    with tt.seeded(seed, "weights"):
        model = MODELS[kind](config)
    model.to(device)
    return model


def make_backward(model: Any, device: tt.Device, batch_size: int) -> Backward:
    """A function (ids, targets, scale) that accumulates the gradients of scale * loss and returns the loss.

    ids, targets (B, T); the loss is a raw () array on the device. On the CPU, batches of `batch_size` rows are split
    over the processes that `configure_process` was told to use.
    """
    if device.name == "cpu":
        return BatchParallel(model, batch_size).backward

    def backward(ids: Any, targets: Any, scale: float) -> Any:
        loss = model(ids, targets)
        (loss * scale).backward()
        return loss.data

    return backward


def train_step(backward: Backward, optimizer: Any, batches: Batches, step: int, config: TrainConfig) -> tuple[Any, Any]:
    """One update of the weights; returns the loss and the gradient norm, () device arrays.

    backward: what `make_backward` returns. The loss is the mean over the targets that count, in whichever micro-batch
    they are, and dropout is keyed by the row of the whole batch: so accumulation changes nothing but rounding.
    No gradients are left, so that an evaluation has their memory.
    """
    # on the host: ids are checked there, then moved without synchronizing the device
    micro_batches = [batches.batch(step, micro) for micro in range(config.grad_accum_steps)]
    counts = [count_targets(targets) for _, targets in micro_batches]
    total: Any = 0.0
    for micro, (ids, targets) in enumerate(micro_batches):
        if not counts[micro]:
            continue  # its mean over no targets would be NaN
        weight = counts[micro] / sum(counts)
        with tt.seeded(config.seed, "dropout", step), tt.batch_rows(micro * config.batch_size):
            total = total + weight * backward(ids, targets, weight)
    norm = tt.grad_norm(optimizer.parameters())
    optimizer.step(grad_scale=tt.clip_scale(norm, config.grad_clip) if config.grad_clip else 1.0)
    optimizer.zero_grad()
    return total, norm


def evaluate(model: Any, eval_windows: EvalWindows) -> float:
    """Mean loss over the evaluation windows, without dropout and without a graph."""
    model.eval()
    total: Any = 0.0
    with tt.no_grad():
        for ids, targets in eval_windows:
            total = total + model(ids, targets).data.astype("float64")
    model.train()
    return float(total) / len(eval_windows)


def require_finite(name: str, value: Any, step: int, lr: float) -> float:
    """A loss or norm read from the device; UserError if it is NaN or infinite, since then the weights are useless."""
    value = float(value)
    if not math.isfinite(value):
        raise UserError(
            f"the {name} is {value} at step {step} with learning rate {lr:.3g}: {SLOWER}; "
            "checkpoints already saved are intact"
        )
    return value


def due(step: int, interval: int, last: int) -> bool:
    """Whether something that happens every `interval` steps, and at the last one, happens now."""
    return step % interval == 0 or step == last


class Throughput:
    """Tokens per second of the time spent inside `with throughput:`."""

    def __init__(self, tokens_per_step: int):
        self.tokens_per_step = tokens_per_step
        self.tokens, self.seconds = 0, 0.0

    def __enter__(self) -> None:
        self.start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds += time.perf_counter() - self.start
        self.tokens += self.tokens_per_step

    def read(self) -> int:
        """The throughput since the last reading."""
        throughput = round(self.tokens / self.seconds)
        self.tokens, self.seconds = 0, 0.0
        return throughput

"""The parts of the training loop in `train.py`: build, step, evaluate.

Every random draw is made under a key of (seed, purpose, step), so a step repeats to the bit whenever it is run. Losses
stay on the device until they are read.
"""

import math
import os
import time
from typing import Any

import numpy as np
from tqdm import tqdm

import tinytensor as tt
from gpt.errors import UserError
from gpt.model import MODELS, GPTConfig
from gpt.training.batches import Batches, EvalWindows
from gpt.training.checkpoint import Progress
from gpt.training.metrics import SLOWER
from gpt.training.recipe import TrainConfig
from kernels.cpu.threads import split_evenly
from kernels.namespace import named_dtype
from kernels.shapes import MAX_GPU_HEAD_SIZE
from tinytensor.nn import MixedPrecision, Module
from tinytensor.parallel import ONE_RANK, BatchParallel, Communicator, WholeBatch, count_targets, shares_of_rank

BAR_DELAY = 2  # seconds before an evaluation shows a progress bar, so that short ones show none
LARGEST_SCALE, GROWTH_STEPS = 2.0**24, 2000  # of gradients in float16; steps without an overflow until it is doubled


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


def with_precision(model: Any, config: TrainConfig) -> Module:
    """What computes losses in the dtype of the training: the model itself, or its copy in 16 bits."""
    if config.matmul == "tf32":
        os.environ["CUPY_TF32"] = "1"  # which CuPy reads before its first product
    return model if config.dtype == "float32" else MixedPrecision(model, named_dtype(config.dtype))


def make_parallel(model: Any, device: tt.Device, config: TrainConfig, ranks: Communicator = ONE_RANK) -> BatchParallel:
    """What divides this rank's shares of a step: on the CPU among the processes that `configure_process` was told.

    On a GPU a forward pass has `config.batch_size` rows at most; on the CPU, as few as keep it busy. UserError for
    shares that cannot be divided among the ranks.
    """
    try:
        shares = shares_of_rank(config.shares or 1, ranks.rank, ranks.size)
    except ValueError as error:
        raise UserError(f"--shares: {error}") from None
    return BatchParallel(model, shares, None if device.name == "cpu" else config.batch_size)


class LossScaler:
    """The loss scale of a training in float16: part of its progress, and a power of two, which changes no digit.

    It is halved when gradients overflow, and doubled after GROWTH_STEPS steps without. model: a MixedPrecision.
    """

    def __init__(self, model: Any, progress: Progress):
        self.model, self.progress = model, progress
        model.loss_scale = progress.loss_scale

    @property
    def scale(self) -> float:
        """What all gradients are multiplied by."""
        return self.progress.loss_scale

    def accepts(self, loss: Any, norm: Any, step: int, lr: float) -> bool:
        """Whether the gradients of a step, counted from 1, are finite; if not, the scale is lowered.

        Then they are to be computed again. Synchronizes the device, to read the norm. UserError if a lower scale would
        not help.
        """
        if math.isfinite(float(norm)):
            self.progress.scaled_steps += 1
            return True
        require_finite("training loss", loss, step, lr)
        if self.scale <= 1:
            require_finite("gradient norm", norm, step, lr)
        self._set(self.scale / 2)
        return False

    def advance(self) -> None:
        """After an update: raise the scale if it is time."""
        if self.progress.scaled_steps >= GROWTH_STEPS:
            self._set(min(2 * self.scale, LARGEST_SCALE))

    def _set(self, scale: float) -> None:
        self.model.loss_scale = self.progress.loss_scale = scale
        self.progress.scaled_steps = 0


def train_step(
    parallel: BatchParallel,
    optimizer: Any,
    batches: Batches,
    step: int,
    config: TrainConfig,
    ranks: Communicator = ONE_RANK,
    scaler: LossScaler | None = None,
) -> tuple[Any, Any]:
    """One update of the weights; returns the loss and the gradient norm, () device arrays.

    The loss is the mean over the targets that count in the whole batch, and dropout is keyed by the row of that: so
    shares and accumulation change nothing but rounding. No gradients are left, so that an evaluation has their memory.
    With several ranks the optimizer is a ShardedOptimizer. scaler: float16's; gradients that overflow are computed once
    more at a lower scale, so that neither the step nor the optimizer's state is lost.
    """
    whole = config.windows
    # on the host: ids are checked there, then moved without synchronizing the device
    ids, targets = batches.rows(step, parallel.shares.rows(whole))
    counts = np.concatenate(ranks.all_gather(np.array([count_targets(targets)]), [1] * ranks.size))
    fused = config.dtype != "float32"  # whose gradient norms keep the bits that they have always had
    while True:
        with tt.seeded(config.seed, "dropout", step):
            loss = parallel.backward(ids, targets, WholeBatch(whole, int(counts.sum())))
        if ranks.size > 1:
            loss, norm = optimizer.reduce(loss, (counts > 0).tolist(), fused)
        else:
            norm = tt.grad_norm(optimizer.parameters(), fused)
        if scaler is None or scaler.accepts(loss, norm, step + 1, optimizer.lr):
            break
        optimizer.zero_grad()
    scale = 1.0 if scaler is None else scaler.scale
    norm = norm if scaler is None else norm / scale
    grad_scale = tt.clip_scale(norm, config.grad_clip) if config.grad_clip else 1.0
    optimizer.step(grad_scale=grad_scale if scaler is None else grad_scale / scale)
    if scaler is not None:
        scaler.advance()
    optimizer.zero_grad()
    return loss, norm


def evaluate(model: Any, eval_windows: EvalWindows, ranks: Communicator = ONE_RANK) -> float:
    """Mean loss over the evaluation windows, without dropout and without a graph; each rank takes a part of them.

    Batches count by their share of targets that do, which is all of them unless the data are dialogs.
    """
    parts = split_evenly(len(eval_windows), ranks.size)
    counts = [part.stop - part.start for part in parts]
    model.eval()
    with tt.no_grad():
        batches = eval_windows.batches(parts[ranks.rank])
        bar = {"desc": "evaluate", "unit": "batch", "leave": False, "delay": BAR_DELAY, "disable": None}
        own = [
            (model(ids, targets).data, count_targets(targets) / targets.size)
            for ids, targets in tqdm(batches, total=counts[ranks.rank], **bar)
        ]
    model.train()
    pairs = np.array([(float(loss) * share, share) for loss, share in own]).reshape(-1)
    gathered = np.concatenate(ranks.all_gather(pairs, [2 * count for count in counts]))
    losses, shares = gathered[0::2], gathered[1::2]
    return sum(losses.tolist()) / sum(shares.tolist())


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

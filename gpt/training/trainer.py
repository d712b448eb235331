"""The pieces of the training loop in `train.py`: build, step, evaluate, stop.

Floor 5, above `run`. Every random draw is made under a key of (seed, purpose, step), so a step repeats to the
bit whenever it is run. Losses stay on the device until someone reads them. Read `train.py` next.
"""

import math
import signal
import threading
import time

import tinytensor as tt
from gpt.errors import UserError
from gpt.weights.load import KINDS
from kernels.cpu.blocks import use_threads
from kernels.cpu.memory import keep_freed_memory
from tinytensor.parallel import BatchParallel


def build_model(kind, config, seed, device):
    """A new model of the kind on the device, its weights a function of the seed."""
    with tt.seeded(seed, "weights"):
        model = KINDS[kind](config)
    model.to(device)
    return model


def build_optimizer(model, config):
    """AdamW that decays matrices and embeddings, and leaves biases and layer norms alone."""
    groups = tt.optim.decay_groups(model.parameters(), config.weight_decay)
    return tt.optim.AdamW(groups, lr=config.lr, betas=(config.beta1, config.beta2))


def open_device(config):
    """The device of a run, made ready: on the CPU, the cores to use, and memory that is kept from step to step."""
    device = tt.device(config.device)
    if device.name == "cpu":
        keep_freed_memory()
        use_threads(config.threads)
    return device


def gradient_function(model, device, batch_size):
    """A function (ids, targets, scale) that adds the gradients of scale * loss and returns the loss, () on the device.

    On the CPU, batches of `batch_size` rows are shared by as many processes as `use_threads` was told.
    """
    if device.name == "cpu":
        return BatchParallel(model, batch_size).backward

    def backward(ids, targets, scale):
        loss = model(ids, targets)
        (loss * scale).backward()
        return loss.data

    return backward


def train_step(backward, optimizer, batches, step, config, device):
    """One update of the weights; returns the batch's mean loss and its gradient's norm, () device arrays.

    backward: what `gradient_function` returns.
    """
    optimizer.zero_grad()
    share = 1.0 / config.accumulation
    total = 0.0
    for micro in range(config.accumulation):
        ids, targets = (device.put(array) for array in batches.batch(step, micro))
        with tt.seeded(config.seed, "dropout", step, micro):
            total = total + share * backward(ids, targets, share)
    norm = tt.grad_norm(optimizer.parameters())
    optimizer.step(grad_scale=tt.clip_scale(norm, config.clip) if config.clip else 1.0)
    return total, norm


def evaluate(model, eval_windows, device):
    """Mean loss over the evaluation windows, without dropout and without a graph."""
    model.eval()
    total = 0.0
    with tt.no_grad():
        for ids, targets in eval_windows:
            total = total + model(device.put(ids), device.put(targets)).data.astype("float64")
    model.train()
    return float(total) / len(eval_windows)


def finite(name, value, step, lr):
    """A loss or norm read from the device; UserError if it is no longer a number, since the weights are not either."""
    value = float(value)
    if not math.isfinite(value):
        raise UserError(
            f"the {name} is {value} at step {step} with learning rate {lr:.3g}: lower --lr, lengthen --warmup "
            "or set --clip; checkpoints already saved are intact"
        )
    return value


def due(step, interval, last):
    """Whether something that happens every `interval` steps, and at the last one, happens now."""
    return step % interval == 0 or step == last


class Speed:
    """Tokens per second of the time spent inside `with speed:`."""

    def __init__(self, tokens_per_step):
        self.tokens_per_step = tokens_per_step
        self.tokens, self.seconds = 0, 0.0

    def __enter__(self):
        self.began = time.perf_counter()

    def __exit__(self, *_):
        self.seconds += time.perf_counter() - self.began
        self.tokens += self.tokens_per_step

    def read(self):
        """The speed since the last reading."""
        speed = round(self.tokens / self.seconds)
        self.tokens, self.seconds = 0, 0.0
        return speed


class Interruption:
    """True after the first Ctrl-C or SIGTERM, so that the loop can save and leave; a second one stops at once."""

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __enter__(self):
        self.received = False
        self.previous = {}
        if threading.current_thread() is threading.main_thread():  # Python allows handlers nowhere else
            self.previous = {number: signal.signal(number, self._receive) for number in self.SIGNALS}
        return self

    def __exit__(self, *_):
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def _receive(self, *_):
        if self.received:
            raise KeyboardInterrupt
        self.received = True

    def __bool__(self):
        return self.received

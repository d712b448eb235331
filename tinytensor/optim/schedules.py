"""Learning rates as functions of the step: a linear warm-up to lr, then a decay to min_lr."""

from __future__ import annotations

import math
from collections.abc import Callable


def cosine_schedule(step: int, steps: int, warmup: int, lr: float, min_lr: float) -> float:
    """Linear warm-up to lr over `warmup` steps, then cosine decay to min_lr at `steps`."""
    return _schedule(step, steps, warmup, lr, min_lr, lambda progress: 0.5 * (1 + math.cos(math.pi * progress)))


def linear_schedule(step: int, steps: int, warmup: int, lr: float, min_lr: float) -> float:
    """Linear warm-up to lr over `warmup` steps, then linear decay to min_lr at `steps`."""
    return _schedule(step, steps, warmup, lr, min_lr, lambda progress: 1 - progress)


SCHEDULES = {"cosine": cosine_schedule, "linear": linear_schedule}


def _schedule(
    step: int, steps: int, warmup: int, lr: float, min_lr: float, remaining: Callable[[float], float]
) -> float:
    """remaining: the part of lr - min_lr that is left at a progress from 0, after the warm-up, to 1."""
    if step < warmup:
        return lr * (step + 1) / (warmup + 1)
    if step >= steps:
        return min_lr
    return min_lr + remaining((step - warmup) / (steps - warmup)) * (lr - min_lr)

"""Learning rates as functions of the step."""

from __future__ import annotations

import math


def cosine_schedule(step: int, steps: int, warmup: int, lr: float, min_lr: float) -> float:
    """Linear warm-up to lr over `warmup` steps, then cosine decay to min_lr at `steps`."""
    if step < warmup:
        return lr * (step + 1) / (warmup + 1)
    if step >= steps:
        return min_lr
    progress = (step - warmup) / (steps - warmup)
    return min_lr + 0.5 * (1 + math.cos(math.pi * progress)) * (lr - min_lr)

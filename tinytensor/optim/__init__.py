"""Optimizers, gradient clipping and learning-rate schedules.

`base.py` is what all optimizers share; `sgd.py` and `adamw.py` are one formula each.
"""

from tinytensor.optim.adamw import AdamW
from tinytensor.optim.base import Optimizer, decay_groups
from tinytensor.optim.clipping import clip_grad_norm_, clip_scale, grad_norm
from tinytensor.optim.schedules import cosine_schedule
from tinytensor.optim.sgd import SGD

__all__ = [
    "SGD",
    "AdamW",
    "Optimizer",
    "clip_grad_norm_",
    "clip_scale",
    "cosine_schedule",
    "decay_groups",
    "grad_norm",
]

"""Optimizers, gradient clipping and learning-rate schedules.

`base.py` is what all optimizers share; `sgd.py`, `adamw.py` and `muon.py` are one formula each; `chained.py` makes
several of them one.
"""

from tinytensor.optim.adamw import AdamW
from tinytensor.optim.base import Optimizer, decay_groups
from tinytensor.optim.chained import Chained
from tinytensor.optim.clipping import clip_grad_norm_, clip_scale, grad_norm
from tinytensor.optim.muon import Muon
from tinytensor.optim.schedules import SCHEDULES, cosine_schedule, linear_schedule
from tinytensor.optim.sgd import SGD

__all__ = [
    "SCHEDULES",
    "SGD",
    "AdamW",
    "Chained",
    "Muon",
    "Optimizer",
    "clip_grad_norm_",
    "clip_scale",
    "cosine_schedule",
    "decay_groups",
    "grad_norm",
    "linear_schedule",
]

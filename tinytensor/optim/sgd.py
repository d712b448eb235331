"""Stochastic gradient descent."""

from __future__ import annotations

from collections.abc import Iterable

from tinytensor.optim.base import Optimizer


class SGD(Optimizer):
    """Gradient descent with momentum: v = momentum v + g + weight_decay p,  p = p - lr v."""

    state_names = ("v",)

    def __init__(self, params: Iterable, lr: float, momentum: float = 0.0, weight_decay: float = 0.0):
        super().__init__(params, lr, momentum=momentum, weight_decay=weight_decay)

    def _update(self, p, group, step, grad_scale, v):
        v *= group["momentum"]
        v += p.grad * grad_scale + group["weight_decay"] * p.data
        p.data -= group["lr"] * v

"""Adam with decoupled weight decay."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from kernels.options import AdamWOptions
from tinytensor.backend import kernels_for
from tinytensor.optim.base import Optimizer


class AdamW(Optimizer):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2017, arXiv:1711.05101, algorithm 2).

    m = beta1 m + (1 - beta1) g,  v = beta2 v + (1 - beta2) g^2, and with their bias-corrected m' = m / (1 - beta1^t),
    v' = v / (1 - beta2^t):  p = p - lr (m' / (sqrt(v') + eps) + weight_decay p),  where t is the number of updates of
    p so far.
    """

    state_names = ("m", "v")

    def __init__(
        self,
        params: Iterable,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ):
        super().__init__(params, lr, betas=betas, eps=eps, weight_decay=weight_decay)

    def step(self, grad_scale: Any = 1.0) -> None:
        """Update every parameter that has a gradient, in place, those with the same options together."""
        together: dict[tuple[float, float, float, float, float, int], list[tuple]] = {}
        for p, group, step, (m, v) in self._due():
            beta1, beta2 = group["betas"]
            numbers = group["lr"], beta1, beta2, group["eps"], group["weight_decay"], step
            together.setdefault(numbers, []).append((p.data, p.grad, m, v))
            p.mark_changed()
        for numbers, arrays in together.items():
            k = kernels_for(arrays[0][0])
            k.adamw_update(*zip(*arrays, strict=True), AdamWOptions(*numbers, grad_scale))

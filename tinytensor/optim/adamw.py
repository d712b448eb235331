"""Adam with decoupled weight decay."""

from __future__ import annotations

from collections.abc import Iterable

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
    _numbers: tuple = ()
    _options: AdamWOptions | None = None

    def __init__(
        self,
        params: Iterable,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ):
        super().__init__(params, lr, betas=betas, eps=eps, weight_decay=weight_decay)

    def _update(self, p, group, step, grad_scale, m, v):
        numbers = group["lr"], *group["betas"], group["eps"], group["weight_decay"], step
        if self._options is None or self._numbers != numbers or self._options.grad_scale is not grad_scale:
            self._numbers, self._options = numbers, AdamWOptions(*numbers, grad_scale)  # mostly shared by a group
        kernels_for(p.data).adamw_update(p.data, p.grad, m, v, self._options)

"""Muon: momentum whose singular values are made equal, for the hidden matrices of a network."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from kernels.options import MuonOptions
from tinytensor.backend import kernels_for
from tinytensor.optim.base import Optimizer


class Muon(Optimizer):
    """Momentum, orthogonalized by Newton-Schulz iterations (Jordan et al. 2024, kellerjordan.github.io/posts/muon).

    m = momentum m + g,  p = p - lr (s O(momentum m + g) + weight_decay p), where O(x) is about the polar factor U V^T
    of x = U S V^T. Among all updates of a bounded spectral norm this one descends steepest (Bernstein & Newhouse 2024,
    arXiv:2409.20325): every direction of a matrix changes at the same rate, also those that the gradient hardly shows.
    s = sqrt(max(1, out / in)), for weights (in, out), gives the entries of O a root mean square of 1 / sqrt(in), so
    that one learning rate fits all shapes.

    For matrices that map activations to activations; embeddings, the output layer and vectors belong to AdamW (see
    `Chained`). blocks: (rows, columns), an option of groups: each of their matrices is a grid of equal parts that are
    orthogonalized separately, such as (1, 3 heads) where the queries, keys and values of all heads share one matrix.
    s is then divided by the square root of their number, which keeps the norm of the whole matrix bounded as before.

    Raises ValueError for a parameter that is no matrix or is not a multiple of its blocks.
    """

    state_names = ("momentum",)
    elementwise = False

    def __init__(
        self,
        params: Iterable,
        lr: float = 0.02,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        blocks: tuple[int, int] = (1, 1),
    ):
        super().__init__(params, lr, momentum=momentum, weight_decay=weight_decay, blocks=blocks)
        for group in self.param_groups:
            rows, columns = group["blocks"]
            for p in group["params"]:
                where = f"Muon: a parameter has shape {p.shape}"
                if p.ndim != 2:
                    raise ValueError(f"{where}: must be a matrix; leave it to AdamW")
                if p.shape[0] % rows or p.shape[1] % columns:
                    raise ValueError(f"{where}: must be a multiple of blocks {rows, columns}")

    def step(self, grad_scale: Any = 1.0) -> None:
        """Update every parameter that has a gradient, in place and all at once: equal shapes share their products."""
        due = list(self._due())
        if not due:
            return
        options = [
            MuonOptions(group["lr"], group["momentum"], group["weight_decay"], group["blocks"], grad_scale)
            for _, group, _, _ in due
        ]
        arrays = [(p.data, p.grad, momentum) for p, _, _, (momentum,) in due]
        kernels_for(arrays[0][0]).muon_update(*zip(*arrays, strict=True), options)
        for p, *_ in due:
            p.mark_changed()

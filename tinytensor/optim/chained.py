"""Several optimizers that are used as one."""

from __future__ import annotations

from typing import Any

from tinytensor.nn import Parameter
from tinytensor.optim.base import Optimizer


class Chained:
    """Optimizers with parameters of their own behind the interface of one: Chained(adamw=..., muon=...).

    Its learning rate is the first one's; setting it scales those of the others in proportion, so that one schedule
    drives all. The names are prefixes in the state: "adamw.m.0".

    Raises ValueError for a parameter that two of them have, and for a first learning rate of 0.
    """

    def __init__(self, **optimizers: Optimizer):
        self.optimizers = optimizers
        first, *_ = optimizers.values()
        if not first.lr:
            raise ValueError("Chained: the first learning rate is 0: must be above 0, as the others are relative to it")
        self._ratios = [optimizer.lr / first.lr for optimizer in optimizers.values()]
        parameters = self.parameters()
        if len({id(p) for p in parameters}) < len(parameters):
            raise ValueError("Chained: a parameter belongs to two optimizers; each must have one")

    @property
    def lr(self) -> float:
        """The learning rate of the first optimizer; setting it scales the others' in proportion."""
        return next(iter(self.optimizers.values())).lr

    @lr.setter
    def lr(self, lr: float) -> None:
        for optimizer, ratio in zip(self.optimizers.values(), self._ratios, strict=True):
            optimizer.lr = lr * ratio

    def parameters(self) -> list[Parameter]:
        """All parameters, optimizer after optimizer."""
        return [p for optimizer in self.optimizers.values() for p in optimizer.parameters()]

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Set every grad to None, or fill those there are with zeros."""
        for optimizer in self.optimizers.values():
            optimizer.zero_grad(set_to_none)

    def step(self, grad_scale: Any = 1.0) -> None:
        """Let every optimizer update its parameters, their gradients scaled."""
        for optimizer in self.optimizers.values():
            optimizer.step(grad_scale)

    def state_dict(self) -> dict:
        """The state of each, under its name: {"adamw.step": ..., "muon.step": ..., "muon.momentum.0": ...}."""
        return {
            f"{name}.{key}": value
            for name, optimizer in self.optimizers.items()
            for key, value in optimizer.state_dict().items()
        }

    def load_state_dict(self, state: dict) -> None:
        """Continue from a `state_dict`. Raises ValueError if it does not fit."""
        unknown = sorted(key for key in state if key.partition(".")[0] not in self.optimizers)
        if unknown:
            raise ValueError(f"optimizer state does not fit: unexpected {', '.join(unknown)}")
        for name, optimizer in self.optimizers.items():
            own = {key.partition(".")[2]: value for key, value in state.items() if key.startswith(f"{name}.")}
            optimizer.load_state_dict(own)

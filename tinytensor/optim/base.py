"""What all optimizers share: groups of parameters with options of their own, and state that can be saved."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from tinytensor.backend import array_module, device_of
from tinytensor.nn import Module, Parameter
from tinytensor.tensor import Tensor


class Optimizer:
    """The base of all optimizers; a subclass names its state and defines `_update`.

    params: Parameters, or a list of groups, dicts with "params" and options that override the defaults,
    e.g. [{"params": matrices}, {"params": vectors, "weight_decay": 0.0, "lr": 1e-4}].
    lr: the learning rate of every group without one of its own; it may be changed between steps, here or in a group.

    Raises ValueError for an option that the optimizer does not have, a parameter given twice, and a learning rate that
    is negative or not a number; TypeError for params that are not Parameters, or none.
    """

    state_names: tuple[str, ...] = ()  # one array per parameter for each name
    elementwise = True  # whether parts of a parameter may be updated apart from one another

    def __init__(self, params: Iterable, lr: float, **defaults: Any):
        name = type(self).__name__
        if isinstance(params, (Module, Tensor)):
            hint = "pass its parameters()" if isinstance(params, Module) else "pass a list of Parameters"
            raise TypeError(f"{name}: params is a {type(params).__name__}: {hint}")
        params = list(params)
        groups = params if params and all(isinstance(group, dict) for group in params) else [{"params": params}]
        if not all("params" in group for group in groups):
            raise ValueError(f'{name}: a group without "params"')
        _require_rate(lr)
        self.param_groups = [self._make_group({"lr": lr, **group}, defaults) for group in groups]
        self._follows_lr = ["lr" not in group for group in groups]
        self._lr = lr
        parameters = self.parameters()
        if not parameters or not all(isinstance(p, Tensor) and p.function is None for p in parameters):
            kinds = ", ".join(sorted({type(p).__name__ for p in parameters})) or "nothing"
            raise TypeError(f"{name}: params holds {kinds}: must be Parameters, or other leaves")
        if len({id(p) for p in parameters}) < len(parameters):
            raise ValueError("a parameter is given twice; each must be in one group, once")
        self.steps = [0] * len(parameters)  # updates of each parameter so far
        self.state = {name: [array_module(p.data).zeros_like(p.data) for p in parameters] for name in self.state_names}

    def _make_group(self, group: dict, defaults: dict) -> dict:
        known = {"params", "lr", *defaults}
        for name in group:
            if name not in known:
                close = difflib.get_close_matches(name, known, n=1)
                hint = f" (did you mean {close[0]}?)" if close else f"; it has {', '.join(sorted(known))}"
                raise ValueError(f"{type(self).__name__}: no group option {name!r}{hint}")
        _require_rate(group["lr"])
        params = group["params"]
        return {**defaults, **group, "params": [params] if isinstance(params, Tensor) else list(params)}

    @property
    def lr(self) -> float:
        """The learning rate of every group that was not made with one of its own; setting it sets theirs."""
        return self._lr

    @lr.setter
    def lr(self, lr: float) -> None:
        self._lr = lr
        for group, follows in zip(self.param_groups, self._follows_lr, strict=True):
            if follows:
                group["lr"] = lr

    def parameters(self) -> list[Parameter]:
        """All parameters, group after group."""
        return [p for group in self.param_groups for p in group["params"]]

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Set every grad to None, so that the next backward starts from nothing; or fill those there are with zeros."""
        for p in self.parameters():
            p.grad = None if set_to_none or p.grad is None else array_module(p.grad).zeros_like(p.grad)

    def step(self, grad_scale: Any = 1.0) -> None:
        """Update every parameter that has a gradient, in place.

        grad_scale: a number, or 0-d array on the device, that multiplies all gradients first (see `clip_scale`).
        """
        for p, group, step, state in self._due():
            self._update(p, group, step, grad_scale, *state)
            p.mark_changed()

    def _due(self) -> Iterator[tuple[Parameter, dict, int, list]]:
        """Each parameter that has a gradient, its group, the number of its updates, this one included, its state."""
        i = 0
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    state = [arrays[i] for arrays in self.state.values()]
                    if state and type(state[0]) is not type(p.data):
                        raise ValueError("a parameter was moved after its optimizer was made: make it after model.to")
                    self.steps[i] += 1
                    yield p, group, self.steps[i], state
                i += 1

    def _update(self, p: Parameter, group: dict, step: int, grad_scale: Any, *state: Any) -> None:
        """Change p.data and its state in place; `step` counts the updates of this parameter from 1."""
        raise NotImplementedError

    def state_dict(self) -> dict:
        """{"step": (number of parameters,), "m.0": array like parameter 0, ...}, sharing memory with the optimizer."""
        arrays = {f"{name}.{i}": a for name, arrays in self.state.items() for i, a in enumerate(arrays)}
        return {"step": np.asarray(self.steps, dtype=np.int64), **arrays}

    def load_state_dict(self, state: dict) -> None:
        """Continue from a `state_dict`, from any device. Raises ValueError if it does not fit the parameters.

        "step" may be one number for all parameters, as older checkpoints have it.
        """
        own = self.state_dict()
        shapes = {name: np.shape(array) for name, array in state.items()}
        if shapes.get("step") == ():
            shapes["step"] = own["step"].shape
        wrong = sorted(own.keys() ^ state.keys()) or [n for n in own if tuple(own[n].shape) != tuple(shapes[n])]
        if wrong:
            raise ValueError(f"optimizer state does not fit: missing, unexpected or misshaped {', '.join(wrong)}")
        self.steps = np.broadcast_to(np.asarray(state["step"], dtype=np.int64), len(self.steps)).tolist()
        for name, arrays in self.state.items():
            for i, array in enumerate(arrays):
                array[...] = device_of(array).put(state[f"{name}.{i}"])


def decay_groups(parameters: list[Parameter], weight_decay: float) -> list[dict]:
    """The usual two groups: matrices and embeddings decay, vectors (biases, layer norms) do not."""
    return [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]


def _require_rate(lr: float) -> None:
    if not (isinstance(lr, (int, float, np.number)) and lr >= 0 and math.isfinite(lr)):
        raise ValueError(f"learning rate {lr}: must be at least 0 and finite")

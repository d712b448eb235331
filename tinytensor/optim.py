"""Optimisers, gradient clipping and the learning-rate schedule.

Floor 4, beside `nn.py`. Read `gradcheck.py` next, or go up to `gpt/model.py`.
"""

from __future__ import annotations

import math

import numpy as np

from kernels.options import AdamWOptions
from tinytensor.backend import array_module, device_of, kernels_for
from tinytensor.nn import Parameter


class Optimizer:
    """What all optimisers share: groups of parameters with options of their own, and state that can be saved.

    params: a list of Parameters, or a list of groups, dicts with "params" and options that override the defaults,
    e.g. [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}].
    """

    slots: tuple[str, ...] = ()  # the arrays kept for each parameter

    def __init__(self, params, lr: float, **defaults):
        params = list(params)
        groups = params if params and isinstance(params[0], dict) else [{"params": params}]
        self.groups = [{**defaults, **group, "params": list(group["params"])} for group in groups]
        self.lr = lr
        self.steps = 0
        self.state = {slot: [array_module(p.data).zeros_like(p.data) for p in self.parameters()] for slot in self.slots}

    def parameters(self) -> list[Parameter]:
        """All parameters, group after group."""
        return [p for group in self.groups for p in group["params"]]

    def zero_grad(self) -> None:
        """Forget all gradients; the next backward starts from nothing."""
        for p in self.parameters():
            p.grad = None

    def step(self, grad_scale=1.0) -> None:
        """Update every parameter that has a gradient, in place.

        grad_scale: a number, or 0-d array on the device, that multiplies all gradients first (see `clip_scale`).
        """
        self.steps += 1
        slots = iter(zip(*self.state.values(), strict=True)) if self.state else iter(lambda: (), None)
        for group in self.groups:
            for p in group["params"]:
                arrays = next(slots)
                if p.grad is not None:
                    self._update(p, group, grad_scale, *arrays)
                    p.mark_changed()

    def _update(self, p, group, grad_scale, *arrays) -> None:
        raise NotImplementedError

    def state_dict(self) -> dict:
        """{"step": (), "m.0": array like parameter 0, ...}, sharing memory with the optimiser."""
        arrays = {f"{slot}.{i}": a for slot, arrays in self.state.items() for i, a in enumerate(arrays)}
        return {"step": np.asarray(self.steps), **arrays}

    def load_state_dict(self, state: dict) -> None:
        """Continue from a `state_dict`, from any device. Raises ValueError if it does not fit the parameters."""
        own = self.state_dict()
        wrong = sorted(own.keys() ^ state.keys()) or [
            name for name in own if tuple(own[name].shape) != tuple(state[name].shape)
        ]
        if wrong:
            raise ValueError(f"optimiser state does not fit: missing, unexpected or misshaped {', '.join(wrong)}")
        self.steps = int(state["step"])
        for slot, arrays in self.state.items():
            for i, array in enumerate(arrays):
                array[...] = device_of(array).put(state[f"{slot}.{i}"])


class SGD(Optimizer):
    """Gradient descent with momentum: v = momentum v + g + weight_decay p,  p = p - lr v."""

    slots = ("v",)

    def __init__(self, params, lr: float, momentum: float = 0.0, weight_decay: float = 0.0):
        super().__init__(params, lr, momentum=momentum, weight_decay=weight_decay)

    def _update(self, p, group, grad_scale, v):
        v *= group["momentum"]
        v += p.grad * grad_scale + group["weight_decay"] * p.data
        p.data -= self.lr * v


class AdamW(Optimizer):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2017, arXiv:1711.05101, algorithm 2).

    m = beta1 m + (1 - beta1) g,  v = beta2 v + (1 - beta2) g^2, and with their bias-corrected m' = m / (1 - beta1^t),
    v' = v / (1 - beta2^t):  p = p - lr (m' / (sqrt(v') + eps) + weight_decay p).
    """

    slots = ("m", "v")

    def __init__(self, params, lr: float = 1e-3, betas=(0.9, 0.999), eps: float = 1e-8, weight_decay: float = 0.01):
        super().__init__(params, lr, betas=betas, eps=eps, weight_decay=weight_decay)

    def _update(self, p, group, grad_scale, m, v):
        options = AdamWOptions(self.lr, *group["betas"], group["eps"], group["weight_decay"], self.steps, grad_scale)
        kernels_for(p.data).adamw_update(p.data, p.grad, m, v, options)


def decay_groups(parameters: list[Parameter], weight_decay: float) -> list[dict]:
    """The usual two groups: matrices and embeddings decay, vectors (biases, layer norms) do not."""
    return [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]


def grad_norm(parameters: list[Parameter]):
    """The Euclidean norm of all gradients together, as a 0-d array on their device (nothing waits for it)."""
    grads = [p.grad.ravel() for p in parameters if p.grad is not None]
    if not grads:
        raise ValueError("grad_norm: none of the parameters has a gradient; call backward first")
    xp = array_module(grads[0])
    return xp.sqrt(sum(xp.dot(g, g) for g in grads))


def clip_scale(norm, max_norm: float):
    """The factor min(1, max_norm / norm) that limits gradients to `max_norm`; pass it to `step`."""
    return array_module(norm).minimum(1.0, max_norm / (norm + 1e-6))


def cosine_schedule(step: int, steps: int, warmup: int, lr: float, min_lr: float) -> float:
    """The learning rate at `step`: up to lr in `warmup` steps, then half a cosine to min_lr at `steps`."""
    if step < warmup:
        return lr * (step + 1) / (warmup + 1)
    if step >= steps:
        return min_lr
    progress = (step - warmup) / (steps - warmup)
    return min_lr + 0.5 * (1 + math.cos(math.pi * progress)) * (lr - min_lr)

"""Limiting the norm of the gradients, without synchronizing the device."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from tinytensor.backend import array_module, kernels_for
from tinytensor.nn import Parameter
from tinytensor.tensor import Tensor

NORM_CHUNK = 1 << 20  # values, 4 MiB in float32


def grad_norm(parameters: Iterable[Parameter], fused: bool = False) -> Any:
    """The Euclidean norm of all gradients together, as a 0-d array on their device (does not synchronize it).

    fused: by `kernels_for(...).gradient_norm`, on a GPU in two launches; its additions there have another order.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        raise ValueError("grad_norm: none of the parameters has a gradient; call backward first")
    if fused:
        return kernels_for(gradients[0]).gradient_norm(gradients, NORM_CHUNK)[1]
    squares = squared_norms(gradients)
    return array_module(squares[0]).sqrt(sum(squares))


def squared_norms(gradients: Sequence[Any], fused: bool = False) -> list:
    """The sums of squares of each chunk of NORM_CHUNK values of each gradient, as 0-d arrays on their device.

    A norm is the root of their sum in order, so a part of the chunks can be summed elsewhere without other rounding.
    """
    if fused:
        squares, _ = kernels_for(gradients[0]).gradient_norm(gradients, NORM_CHUNK)
        return [squares[i] for i in range(len(squares))]
    return [square for gradient in gradients for square in _squared_norms(gradient)]


def _squared_norms(gradient: Any) -> list:
    g = gradient.ravel()
    g = g.astype("float32") if g.dtype == "float16" else g  # whose squares overflow
    chunks = [g[start : start + NORM_CHUNK] for start in range(0, g.size, NORM_CHUNK)]
    return [array_module(g).dot(chunk, chunk) for chunk in chunks]


def clip_scale(norm: Any, max_norm: float) -> Any:
    """The factor min(1, max_norm / norm) that limits gradients to `max_norm`; pass it to `Optimizer.step`."""
    return array_module(norm).minimum(1.0, max_norm / (norm + 1e-6))


def clip_grad_norm_(parameters: Iterable[Parameter] | Tensor, max_norm: float) -> Any:
    """Scale all gradients in place so that their norm together is at most `max_norm`; returns the norm before.

    As PyTorch's. `Optimizer.step(clip_scale(...))` does the same without another pass over the gradients.
    """
    owners: list = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    norm = grad_norm(owners)
    scale = clip_scale(norm, max_norm)
    for p in owners:
        if p.grad is not None:
            p.grad *= scale.astype(p.grad.dtype)
    return norm

"""LoRA: fine-tuning by small additions to frozen layers (Hu et al. 2021, arXiv:2106.09685).

A linear layer y = x W + b stays as it is, and a product of two thin matrices is added to it:

    y = x W + b + (alpha / r) (x A) B        W (in, out) is frozen, A (in, r) and B (r, out) are trained

B begins at zero, so training begins at the model as it was. For 768 x 768 weights and r = 8, A and B have a 48th of the
values of W, and only they have gradients and optimizer state. Merged into W, they cost nothing when text is written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

import tinytensor as tt
from tinytensor import nn

ADAPTER_NAMES = ("lora_a", "lora_b")


class LoRALinear(nn.Linear):
    """A linear layer with an adapter of rank r beside its frozen weight: x (..., in) -> (..., out)."""

    def __init__(self, layer: nn.Linear, rank: int, scale: float):
        inputs, outputs = layer.weight.shape
        self.weight, self.bias, self.scale = layer.weight, layer.bias, scale
        device = tt.device(layer.weight.device)
        self.lora_a = nn.Parameter(device.put((tt.randn(inputs, rank) * inputs**-0.5).data))
        self.lora_b = nn.Parameter(device.put(tt.zeros(rank, outputs).data))

    def forward(self, x: tt.Tensor, product: Callable[..., tt.Tensor] = tt.linear) -> tt.Tensor:
        """As `nn.Linear`; with a `product` that begins with an activation, the adapter has the same activation."""
        added = tt.linear(product(x, self.lora_a) * self.scale, self.lora_b)  # (..., in) -> (..., r) -> (..., out)
        return product(x, self.weight, self.bias) + added


def add_adapters(model: Any, rank: int, alpha: float, layers: Sequence[str]) -> None:
    """Freeze a GPT, and give these layers of each block (see `layer_shapes`) adapters, drawn from the current seed."""
    for parameter in model.parameters():
        parameter.requires_grad = False
    for block in model.transformer.h:
        for name in layers:
            room, _, layer = name.partition(".")
            setattr(getattr(block, room), layer, LoRALinear(getattr(getattr(block, room), layer), rank, alpha / rank))


def is_adapter(name: str) -> bool:
    """Whether a parameter of that name belongs to an adapter."""
    return name.endswith(ADAPTER_NAMES)


def base_state(model: Any) -> dict[str, Any]:
    """The `state_dict` of a model without its adapters, if it has some."""
    return {name: array for name, array in model.state_dict().items() if not is_adapter(name)}


def saved_state(model: Any) -> dict[str, Any]:
    """What a run saves of a model: its adapters if it has some, otherwise all of its `state_dict`."""
    state = model.state_dict()
    return {name: array for name, array in state.items() if is_adapter(name)} or state


def load_saved_state(model: Any, state: Mapping[str, Any]) -> None:
    """Copy what `saved_state` gave into a model that was made in the same way. Raises ValueError if it does not fit."""
    adapters = {name: parameter for name, parameter in model.named_parameters() if is_adapter(name)}
    if not adapters:
        model.load_state_dict(dict(state))
        return
    wrong = sorted(adapters.keys() ^ state.keys()) or [n for n, p in adapters.items() if p.shape != state[n].shape]
    if wrong:
        raise ValueError(f"adapters do not fit: missing, unexpected or misshaped {', '.join(wrong)}")
    for name, parameter in adapters.items():
        parameter.data[...] = tt.device(parameter.device).put(state[name])
        parameter.mark_changed()


def adapter_pairs(state: Mapping[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """The name of each adapted weight, and its adapter's A (in, r) and B (r, out), from a state dict of adapters."""
    for name in state:
        if name.endswith("lora_a"):
            layer = name.removesuffix("lora_a")
            yield f"{layer}weight", state[name], state[f"{layer}lora_b"]


def merge(model: Any, state: Mapping[str, np.ndarray], scale: float) -> None:
    """Add adapters to the weights of a model on the CPU that has none: W += scale A B. KeyError for another model's."""
    weights = model.state_dict()
    for name, a, b in adapter_pairs(state):
        weights[name] += (a * np.float32(scale)) @ b

"""Fill parameters with initial values in place, under the names of `torch.nn.init`."""

from __future__ import annotations

from tinytensor.creation import randn
from tinytensor.tensor import Tensor


def normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0) -> Tensor:
    """Fill with normal values; returns the tensor."""
    values = randn(tensor.shape, dtype=tensor.dtype, device=tensor.device)
    return _fill(tensor, mean + std * values.data)


def zeros_(tensor: Tensor) -> Tensor:
    """Fill with zeros; returns the tensor."""
    return _fill(tensor, 0)


def ones_(tensor: Tensor) -> Tensor:
    """Fill with ones; returns the tensor."""
    return _fill(tensor, 1)


def _fill(tensor, values):
    tensor.data[...] = values
    tensor.mark_changed()
    return tensor

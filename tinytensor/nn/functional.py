"""The operations that PyTorch keeps in `torch.nn.functional`, with its arguments and its defaults.

`from tinytensor.nn import functional as F` serves code written for PyTorch: most names are those of `tinytensor`
itself, and those defined here take their arguments in PyTorch's order. `F.linear` and `F.pad` are left out, since
`tt.linear` multiplies by a weight of the other layout and `tt.pad` has NumPy's widths.
"""

from __future__ import annotations

from typing import Any

from tinytensor.creation import one_hot
from tinytensor.ops import activations, fused, losses
from tinytensor.ops.activations import relu, sigmoid, silu, softplus
from tinytensor.ops.arguments import as_ints, as_tensor
from tinytensor.ops.attention import scaled_dot_product_attention
from tinytensor.ops.elementwise import tanh
from tinytensor.ops.fused import embedding, log_softmax, softmax
from tinytensor.ops.losses import mse_loss
from tinytensor.ops.shape import permute
from tinytensor.tensor import Tensor, TensorLike

__all__ = [
    "cross_entropy",
    "dropout",
    "embedding",
    "gelu",
    "layer_norm",
    "log_softmax",
    "mse_loss",
    "one_hot",
    "relu",
    "scaled_dot_product_attention",
    "sigmoid",
    "silu",
    "softmax",
    "softplus",
    "tanh",
]


def cross_entropy(logits: TensorLike, targets: TensorLike, weight: TensorLike = None, **options: Any) -> Tensor:
    """`tt.cross_entropy` with the classes on axis 1: logits (N, V) or (N, V, ...), targets (N) or (N, ...) -> ().

    options: ignore_index, reduction and label_smoothing. A vector (V,) is one row, whose target is a number.
    """
    logits = as_tensor(logits)
    if logits.ndim > 2:
        logits = permute(logits, 0, *range(2, logits.ndim), 1)  # (N, V, ...) -> (N, ..., V)
    return losses.cross_entropy(logits, targets, weight=weight, **options)


def dropout(x: TensorLike, p: float = 0.5, training: bool = True) -> Tensor:
    """`tt.dropout`, or x itself unless `training`."""
    return fused.dropout(x, p) if training else as_tensor(x)


def gelu(x: TensorLike, approximate: str = "none") -> Tensor:
    """`tt.gelu`, but exact unless `approximate` is "tanh", as GPT-2 has it."""
    return activations.gelu(x, approximate)


def layer_norm(
    x: TensorLike, normalized_shape: Any, weight: TensorLike = None, bias: TensorLike = None, eps: float = 1e-5
) -> Tensor:
    """`tt.layer_norm`, given the lengths of the axes to normalize, which must be (C,) for x (..., C).

    Raises ValueError for other lengths.
    """
    x, lengths = as_tensor(x), as_ints("normalized_shape", (normalized_shape,))
    if lengths != x.shape[-1:]:
        raise ValueError(f"layer_norm: normalized_shape {lengths}: must be {x.shape[-1:]}, the last axis of x")
    return fused.layer_norm(x, weight, bias, eps)

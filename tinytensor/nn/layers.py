"""The layers of a GPT: each owns its parameters and calls one operation."""

from __future__ import annotations

from collections.abc import Callable

from tinytensor.creation import ones, randn, zeros
from tinytensor.nn.module import Module, Parameter
from tinytensor.ops import activations, fused
from tinytensor.tensor import Tensor, TensorLike


class Linear(Module):
    """y = x w + b: x (..., inputs) -> (..., outputs), with weight (inputs, outputs), the layout of GPT-2's Conv1D.

    The weight starts normal with standard deviation `std`, by default 1 / sqrt(inputs), which gives y the
    variance of x; the bias starts at zero.
    """

    def __init__(self, inputs: int, outputs: int, bias: bool = True, std: float | None = None):
        self.weight = Parameter(randn(inputs, outputs) * (max(inputs, 1) ** -0.5 if std is None else std))
        self.bias = Parameter(zeros(outputs)) if bias else None

    def forward(self, x: Tensor, product: Callable[..., Tensor] = fused.linear) -> Tensor:
        """product: `tt.linear`, or one that begins with an activation, such as `tt.gelu_linear`."""
        return product(x, self.weight, self.bias)


class Embedding(Module):
    """A row of weight (rows, width) for each integer id: ids (...) -> (..., width)."""

    keeps_float32 = True  # the residual stream begins here

    def __init__(self, rows: int, width: int, std: float = 1.0):
        self.weight = Parameter(randn(rows, width) * std)

    def forward(self, ids: TensorLike) -> Tensor:
        return fused.embedding(ids, self.weight)


class LayerNorm(Module):
    """Normalises the last axis, of length `width`, then scales and shifts it by learned vectors."""

    def __init__(self, width: int, bias: bool = True, eps: float = 1e-5):
        self.weight = Parameter(ones(width))
        self.bias = Parameter(zeros(width)) if bias else None
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return fused.layer_norm(x, self.weight, self.bias, self.eps)


class RMSNorm(Module):
    """Divides the last axis, of length `width`, by its root mean square, then scales it by a learned vector."""

    def __init__(self, width: int, eps: float = 1e-6):
        self.weight = Parameter(ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return fused.rms_norm(x, self.weight, self.eps)


class Dropout(Module):
    """In training, zeroes each element with probability p (0 <= p < 1) and scales the others by 1 / (1 - p)."""

    def __init__(self, p: float = 0.5):
        if not 0 <= p < 1:
            raise ValueError(f"Dropout: probability {p}: must be at least 0 and less than 1")
        self.p = p

    def extra_repr(self) -> str:
        return f"p={self.p}"

    def forward(self, x: Tensor) -> Tensor:
        return fused.dropout(x, self.p) if self.training else x


class GELU(Module):
    """x Phi(x), elementwise, as in PyTorch; with approximate="tanh" as in GPT-2, which is fused."""

    def __init__(self, approximate: str = "none"):
        self.approximate = approximate

    def forward(self, x: Tensor) -> Tensor:
        return activations.gelu(x, self.approximate)


class ReLU(Module):
    """max(x, 0), elementwise."""

    def forward(self, x: Tensor) -> Tensor:
        return activations.relu(x)

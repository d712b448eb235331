"""Mixed precision: a model that computes with 16-bit copies of its parameters (Micikevicius et al. 2018).

Parameters stay float32, and with them the optimizer, its state and what is saved. A forward pass reads copies of them
in float16 or bfloat16, so that its products and activations have 16 bits, on tensor cores and in half the memory. The
copies are made here and nowhere else: no layer and no operation knows of them. Their gradients go to the parameters
directly, in float32 where the kernels sum them so.

What adds up through all layers, the residual stream and its gradient, stays float32, as in PyTorch's autocast. That
follows from which parameters have copies: embeddings have none (`keeps_float32`), so the stream begins in float32; a
norm returns the dtype of its weight, which takes the stream into 16 bits; and the sum of both is float32.

The gradients of activations have 16 bits. float16 has none below 6e-8, so the loss is multiplied by `loss_scale` on the
way back, and the gradients of the parameters with it, by which the optimizer then divides (`arXiv:1710.03740`).
bfloat16 has the range of float32 and needs none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from kernels.dtypes import is_sixteen_bit
from kernels.namespace import named_dtype
from tinytensor.backend import kernels_for
from tinytensor.nn.module import Module, Parameter
from tinytensor.tensor import Function, Tensor


class Rounded(Tensor):
    """A copy of a parameter in another dtype. Gradients with respect to it are the parameter's, in its dtype."""

    __slots__ = ("_seen", "parameter")

    def __init__(self, parameter: Parameter, dtype: Any):
        super().__init__(parameter.data.astype(dtype), parameter.requires_grad)
        self.parameter = parameter
        self._seen = parameter.version, parameter.version.changes

    def is_stale(self) -> bool:
        """Whether the parameter has changed since it was rounded."""
        version = self.parameter.version
        return self._seen != (version, version.changes)

    def mark_rounded(self) -> None:
        """Note that the parameter has been rounded again."""
        self.mark_changed()
        self._seen = self.parameter.version, self.parameter.version.changes

    def _edge(self) -> Any:
        return self.parameter._edge()


def refresh(copies: Iterable[Rounded]) -> None:
    """Round those parameters again that have changed since they were rounded, all of them together."""
    stale = [copy for copy in copies if copy.is_stale()]
    if stale:
        arrays = [(copy.parameter.data, copy.data) for copy in stale]
        kernels_for(arrays[0][0]).round_tensors(*zip(*arrays, strict=True))
    for copy in stale:
        copy.mark_rounded()


class ScaleGradient(Function):
    """y = x;  gx = scale g"""

    def __init__(self, scale: float):
        self.scale = scale

    def forward(self, x):
        return x

    def vjp(self, g):
        return (g * g.dtype.type(self.scale),)


class MixedPrecision(Module):
    """`model(ids, targets)`, a mean loss in float32, from copies of the parameters in another dtype.

    dtype: float16 or bfloat16, by its name too, else ValueError. loss_scale: multiplies every gradient.
    """

    def __init__(self, model: Module, dtype: Any):
        dtype = _sixteen_bit(dtype)
        self.model = model
        self.loss_scale = 1.0
        self._copies = _Copies(model, dtype)

    def forward(self, *args: Any) -> Tensor:
        """What the model returns for these arguments."""
        with self._copies.in_place():
            y = self.model(*args)
        return y if self.loss_scale == 1 else ScaleGradient(self.loss_scale)(y)


def _sixteen_bit(dtype: Any) -> np.dtype:
    """The dtype of 16 bits that `dtype` is or names."""
    try:
        found = named_dtype(dtype) if isinstance(dtype, str) else np.dtype(dtype)
    except TypeError:
        found = None
    if found is None or not is_sixteen_bit(found):
        raise ValueError(f"MixedPrecision: the dtype {dtype!r} must be float16 or bfloat16")
    return found


class _Copies:
    """The copies of a model's parameters, made when they are first needed, where its parameters are then.

    A parameter of several modules, such as tied embeddings, may be read in float32 by one and as a copy by another.
    """

    def __init__(self, model: Module, dtype: Any):
        self._model, self._dtype = model, dtype
        self._copies: dict[int, Rounded] = {}  # by the id of the parameter

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside, the model's layers find the copies where their parameters were."""
        places = [
            (vars(module), name, value)
            for module in self._model.modules()
            if not module.keeps_float32
            for name, value in vars(module).items()
            if isinstance(value, Parameter)
        ]
        for _, _, parameter in places:
            if id(parameter) not in self._copies:
                self._copies[id(parameter)] = Rounded(parameter, self._dtype)
        refresh(self._copies.values())
        try:
            for attributes, name, parameter in places:
                attributes[name] = self._copies[id(parameter)]
            yield
        finally:
            for attributes, name, parameter in places:
                attributes[name] = parameter

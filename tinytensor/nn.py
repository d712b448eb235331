"""Modules: parameters with names, and the layers of a GPT.

A Module finds its parameters among its attributes, in the order they were assigned, so order and names never depend on
anything but the source. Read `optim/` next.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from tinytensor.backend import array_module, device_of
from tinytensor.creation import ones, randn, zeros
from tinytensor.ops import activations, fused
from tinytensor.tensor import Tensor, TensorLike, as_array


class Parameter(Tensor):
    """A Tensor that a Module owns and an optimizer updates, contiguous in memory."""

    __slots__ = ()

    def __init__(self, data: TensorLike, requires_grad: bool = True):
        array = as_array(data)
        contiguous = array_module(array).asarray(array, order="C")
        super().__init__(contiguous, requires_grad)
        if contiguous is array and isinstance(data, Tensor):
            self.version = data.version  # the memory is shared


class Module:
    """The base of all layers and models: assign Parameters and Modules as attributes, and define `forward`."""

    training = True

    def __setattr__(self, name: str, value: Any) -> None:
        """Assign an attribute; TypeError where a Parameter would be replaced by what is none, which nothing trains."""
        if isinstance(vars(self).get(name), Parameter) and not isinstance(value, Parameter) and value is not None:
            kind = type(value).__name__
            raise TypeError(f"{name} is a Parameter, and a {kind} is not: assign an nn.Parameter, or {name}.data")
        super().__setattr__(name, value)

    def forward(self, *args: Any) -> Any:
        """What calling the module does; a subclass defines it."""
        raise NotImplementedError(f"{type(self).__name__} does not define forward")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.forward(*args, **kwargs)

    def _members(self) -> Iterator[tuple[str, Module | Parameter]]:
        """(name, value) for each attribute that is a Module or a Parameter.

        Raises TypeError for one that is only in a plain list, tuple, set or dict, where nothing else would find it.
        """
        for name, value in vars(self).items():
            if isinstance(value, (Module, Parameter)):
                yield name, value
            elif isinstance(value, (list, tuple, set, dict)):
                attributes = {*map(id, vars(self).values())}
                if any(id(item) not in attributes for item in _hidden_in(value)):
                    kind = type(value).__name__
                    raise TypeError(
                        f"{type(self).__name__}.{name} is a plain {kind} of modules or parameters, which would not be "
                        "trained or saved: use nn.ModuleList"
                    )

    def children(self) -> Iterator[tuple[str, Module]]:
        """(name, module) for each Module directly below this one."""
        return ((name, value) for name, value in self._members() if isinstance(value, Module))

    def modules(self) -> Iterator[Module]:
        """This module and all below it, parents first."""
        yield self
        for _, child in self.children():
            yield from child.modules()

    def _all_parameters(self, prefix: str = "") -> Iterator[tuple[str, Parameter]]:
        for name, value in self._members():
            if isinstance(value, Parameter):
                yield prefix + name, value
            else:
                yield from value._all_parameters(f"{prefix}{name}.")

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """(dotted name, parameter); one that is shared appears once, under its first name."""
        seen = set()
        for name, parameter in self._all_parameters():
            if id(parameter) not in seen:
                seen.add(id(parameter))
                yield name, parameter

    def parameters(self) -> list[Parameter]:
        """All parameters, each once."""
        return [parameter for _, parameter in self.named_parameters()]

    def num_parameters(self) -> int:
        """How many numbers the parameters hold together."""
        return sum(parameter.data.size for parameter in self.parameters())

    def __repr__(self) -> str:
        """The tree of modules, with what each layer adds in `extra_repr`."""
        lines = [f"({name}): {child!r}".replace("\n", "\n  ") for name, child in self.children()]
        inside = "".join(f"\n  {line}" for line in lines)
        return f"{type(self).__name__}({self.extra_repr()}{inside}" + ("\n)" if lines else ")")

    def extra_repr(self) -> str:
        """The settings of this module, for `repr`; here the shapes of its own parameters."""
        own = [(name, value) for name, value in self._members() if isinstance(value, Parameter)]
        return ", ".join(f"{name} {value.shape}" for name, value in own)

    def zero_grad(self) -> None:
        """Set every grad to None."""
        for parameter in self.parameters():
            parameter.grad = None

    def train(self, mode: bool = True) -> Module:
        """Switch dropout on (or off, as `eval` does) here and in all modules below."""
        for module in self.modules():
            module.training = mode
        return self

    def eval(self) -> Module:
        """Switch dropout off."""
        return self.train(False)

    def to(self, where: Any) -> Module:
        """Move all parameters to a device, or cast them to a dtype; before an optimizer is made. Returns self.

        Raises ValueError for what names neither, DeviceError for a device that is not there.
        """
        for parameter in self.parameters():
            moved = Tensor(parameter.data).to(where).data
            grad = None if parameter.grad is None else Tensor(parameter.grad).to(where).data
            parameter.data, parameter.grad = moved, grad
        return self

    def state_dict(self) -> dict:
        """{name: raw array}, sharing memory with the parameters."""
        return {name: parameter.data for name, parameter in self.named_parameters()}

    def load_state_dict(self, state: dict) -> None:
        """Copy arrays (raw, from any device, Tensors or lists) into the parameters, in the parameters' dtype.

        Raises ValueError that lists every missing, unexpected and misshaped name, before anything is changed.
        """
        state = {name: as_array(value) for name, value in state.items()}
        own = dict(self.named_parameters())
        aliases = {name for name, _ in self._all_parameters()}
        problems = [f"missing {name}" for name in own if name not in state]
        problems += [f"unexpected {name}" for name in state if name not in aliases]
        problems += [
            f"{name} has shape {tuple(state[name].shape)}, needs {parameter.shape}"
            for name, parameter in own.items()
            if name in state and tuple(state[name].shape) != parameter.shape
        ]
        if problems:
            raise ValueError(f"state does not fit {type(self).__name__}: " + "; ".join(problems))
        for name, parameter in own.items():
            parameter.data = device_of(parameter.data).put(state[name]).astype(parameter.dtype, order="C")


def _hidden_in(value: object) -> Iterator[Module | Parameter]:
    """The Modules and Parameters in a plain container, however deep."""
    if isinstance(value, (list, tuple, set, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            if isinstance(item, (Module, Parameter)):
                yield item
            else:
                yield from _hidden_in(item)


class Linear(Module):
    """y = x w + b: x (..., inputs) -> (..., outputs), with weight (inputs, outputs), the layout of GPT-2's Conv1D.

    The weight starts normal with standard deviation `std`, by default 1 / sqrt(inputs), which gives y the
    variance of x; the bias starts at zero.
    """

    def __init__(self, inputs: int, outputs: int, bias: bool = True, std: float | None = None):
        self.weight = Parameter(randn(inputs, outputs) * (max(inputs, 1) ** -0.5 if std is None else std))
        self.bias = Parameter(zeros(outputs)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return fused.linear(x, self.weight, self.bias)


class Embedding(Module):
    """A row of weight (rows, width) for each integer id: ids (...) -> (..., width)."""

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

    def __init__(self, p: float):
        if not 0 <= p < 1:
            raise ValueError(f"Dropout: probability {p}: must be at least 0 and less than 1")
        self.p = p

    def extra_repr(self) -> str:
        return f"p={self.p}"

    def forward(self, x: Tensor) -> Tensor:
        return fused.dropout(x, self.p) if self.training else x


class GELU(Module):
    """GPT-2's activation, elementwise."""

    def forward(self, x: Tensor) -> Tensor:
        return activations.gelu(x)


class ReLU(Module):
    """max(x, 0), elementwise."""

    def forward(self, x: Tensor) -> Tensor:
        return activations.relu(x)


class ModuleList(Module):
    """A list of Modules whose parameters are found; named "0", "1", ...; calling them is up to you."""

    def __init__(self, modules: Iterable[Module] = ()):
        for module in modules:
            self.append(module)

    def append(self, module: Module) -> None:
        """Add a Module at the end. Raises TypeError for anything else."""
        if not isinstance(module, Module):
            raise TypeError(f"{type(self).__name__}: {module!r:.40} is a {type(module).__name__}, must be a Module")
        setattr(self, str(len(self)), module)

    def __len__(self) -> int:
        return sum(1 for _ in self.children())

    def __iter__(self) -> Iterator[Module]:
        return (module for _, module in self.children())

    def __getitem__(self, index: int) -> Module:
        """Number `index`, from either end."""
        return list(self)[index]


class Sequential(ModuleList):
    """Modules applied one after the other; it can be indexed and iterated."""

    def __init__(self, *modules: Module):
        super().__init__(modules)

    def forward(self, x: Any) -> Any:
        for module in self:
            x = module(x)
        return x

"""Module, the base of layers and models: it finds its parameters, moves, saves and prints them.

A Module finds its parameters among its attributes, in the order they were assigned, so order and names never depend on
anything but the source. Read `layers.py` next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from kernels.dtypes import is_floating
from tinytensor.backend import array_module, device_of
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


class Buffer(Tensor):
    """A constant that a Module owns, such as a mask: moved and saved with the parameters, but not trained.

    persistent: whether `state_dict` has it.
    """

    __slots__ = ("persistent",)

    def __init__(self, data: TensorLike, persistent: bool = True):
        super().__init__(data)
        self.persistent = persistent


Kind = TypeVar("Kind", bound=Tensor)


class Module:
    """The base of all layers and models: assign Parameters and Modules as attributes, and define `forward`."""

    training = True
    keeps_float32 = False  # whether its own parameters are not rounded in mixed precision (precision.py)

    def __setattr__(self, name: str, value: Any) -> None:
        """Assign an attribute; a Tensor where a Buffer was becomes one.

        TypeError where a Parameter would be replaced by what is none, which nothing trains, or a Buffer by what has a
        gradient.
        """
        old = vars(self).get(name)
        if isinstance(old, Parameter) and not isinstance(value, Parameter) and value is not None:
            kind = type(value).__name__
            raise TypeError(f"{name} is a Parameter, and a {kind} is not: assign an nn.Parameter, or {name}.data")
        if isinstance(old, Buffer) and isinstance(value, Tensor):
            if value.requires_grad:
                raise TypeError(f"{name} is a Buffer, which has no gradient: assign the value's detach()")
            value = value if isinstance(value, Buffer) else Buffer(value, old.persistent)
        super().__setattr__(name, value)

    def register_buffer(self, name: str, tensor: Tensor, persistent: bool = True) -> None:
        """Assign a `Buffer` that shares the memory of `tensor`."""
        setattr(self, name, Buffer(tensor, persistent))

    def forward(self, *args: Any) -> Any:
        """What calling the module does; a subclass defines it."""
        raise NotImplementedError(f"{type(self).__name__} does not define forward")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.forward(*args, **kwargs)

    def _members(self) -> Iterator[tuple[str, Module | Parameter | Buffer]]:
        """(name, value) for each attribute that is a Module, a Parameter or a Buffer.

        Raises TypeError for one that is only in a plain list, tuple, set or dict, where nothing else would find it.
        """
        for name, value in vars(self).items():
            if isinstance(value, (Module, Parameter, Buffer)):
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

    def apply(self, function: Callable[[Module], Any]) -> Module:
        """Call `function` with each module below this one, then with this one. Returns self."""
        for _, child in self.children():
            child.apply(function)
        function(self)
        return self

    def _all(self, kind: type[Kind], prefix: str = "") -> Iterator[tuple[str, Kind]]:
        """(dotted name, tensor) for each Parameter or Buffer here and below; one that is shared as often as named."""
        for name, value in self._members():
            if isinstance(value, Module):
                yield from value._all(kind, f"{prefix}{name}.")
            elif isinstance(value, kind):
                yield prefix + name, value

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """(dotted name, parameter); one that is shared appears once, under its first name."""
        return _each_once(self._all(Parameter))

    def named_buffers(self) -> Iterator[tuple[str, Buffer]]:
        """(dotted name, buffer); one that is shared appears once, under its first name."""
        return _each_once(self._all(Buffer))

    def parameters(self) -> list[Parameter]:
        """All parameters, each once."""
        return [parameter for _, parameter in self.named_parameters()]

    def num_parameters(self) -> int:
        """How many numbers the parameters hold together."""
        return sum(parameter.data.size for parameter in self.parameters())

    def __repr__(self) -> str:
        """The tree of modules, with what each layer adds in `extra_repr`, and how many parameters each has."""
        lines = [f"({name}): {child!r}".replace("\n", "\n  ") for name, child in self.children()]
        count = f"  # {self.num_parameters():,} parameters" if self.parameters() else ""
        first = f"{type(self).__name__}({self.extra_repr()}"
        return "\n".join([first + count, *(f"  {line}" for line in lines), ")"]) if lines else f"{first}){count}"

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
        """Move parameters and buffers to a device, or cast those of floats; before an optimizer is made. Returns self.

        Raises ValueError for what names neither, DeviceError for a device that is not there.
        """
        for parameter in self.parameters():
            moved = Tensor(parameter.data).to(where).data
            grad = None if parameter.grad is None else Tensor(parameter.grad).to(where).data
            parameter.data, parameter.grad = moved, grad
        for _, buffer in self.named_buffers():
            moved = Tensor(buffer.data).to(where).data
            if is_floating(buffer.dtype) or moved.dtype == buffer.dtype:
                buffer.data = moved
        return self

    def state_dict(self) -> dict:
        """{name: raw array}, sharing memory with the parameters and the persistent buffers."""
        return {name: tensor.data for name, tensor in self._state().items()}

    def _state(self) -> dict[str, Tensor]:
        buffers = {name: buffer for name, buffer in self.named_buffers() if buffer.persistent}
        return {**dict(self.named_parameters()), **buffers}

    def load_state_dict(self, state: dict) -> None:
        """Copy what `state_dict` gave (raw arrays from any device, Tensors or lists), each in the dtype it has here.

        Raises ValueError that lists every missing, unexpected and misshaped name, before anything is changed.
        """
        state = {name: as_array(value) for name, value in state.items()}
        own = self._state()
        aliases = {name for name, _ in self._all(Tensor)}
        problems = [f"missing {name}" for name in own if name not in state]
        problems += [f"unexpected {name}" for name in state if name not in aliases]
        problems += [
            f"{name} has shape {tuple(state[name].shape)}, needs {tensor.shape}"
            for name, tensor in own.items()
            if name in state and tuple(state[name].shape) != tensor.shape
        ]
        if problems:
            raise ValueError(f"state does not fit {type(self).__name__}: " + "; ".join(problems))
        for name, tensor in own.items():
            tensor.data = device_of(tensor.data).put(state[name]).astype(tensor.dtype, order="C")


def _each_once(named: Iterator[tuple[str, Kind]]) -> Iterator[tuple[str, Kind]]:
    seen = set()
    for name, tensor in named:
        if id(tensor) not in seen:
            seen.add(id(tensor))
            yield name, tensor


def _hidden_in(value: object) -> Iterator[Module | Parameter]:
    """The Modules and Parameters in a plain container, however deep."""
    if isinstance(value, (list, tuple, set, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            if isinstance(item, (Module, Parameter)):
                yield item
            else:
                yield from _hidden_in(item)

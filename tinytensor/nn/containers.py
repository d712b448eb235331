"""Modules that hold other modules: in a list, by name, one after the other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from tinytensor.nn.module import Module


class ModuleList(Module):
    """A list of Modules whose parameters are found; named "0", "1", ...; calling them is up to you."""

    def __init__(self, modules: Iterable[Module] = ()):
        for module in modules:
            self.append(module)

    def append(self, module: Module) -> None:
        """Add a Module at the end. Raises TypeError for anything else."""
        _require_module(self, module)
        setattr(self, str(len(self)), module)

    def __len__(self) -> int:
        return sum(1 for _ in self.children())

    def __iter__(self) -> Iterator[Module]:
        return (module for _, module in self.children())

    def __getitem__(self, index: int) -> Module:
        """Number `index`, from either end."""
        return list(self)[index]


class ModuleDict(Module):
    """Modules by name, whose parameters are found; each is an attribute too: `layers["norm"]` is `layers.norm`."""

    def __init__(self, modules: Mapping[str, Module] | None = None):
        for name, module in (modules or {}).items():
            self[name] = module

    def __setitem__(self, name: str, module: Module) -> None:
        """Add a Module. Raises KeyError for a name that a ModuleDict has already, TypeError for anything else."""
        _require_module(self, module)
        if hasattr(self, name) and name not in self:
            raise KeyError(f"{type(self).__name__}: {name!r} is a method of it: choose another name")
        setattr(self, name, module)

    def __getitem__(self, name: str) -> Module:
        return dict(self.items())[name]

    def __contains__(self, name: str) -> bool:
        return name in dict(self.items())

    def __len__(self) -> int:
        return sum(1 for _ in self.items())

    def __iter__(self) -> Iterator[str]:
        return self.keys()

    def keys(self) -> Iterator[str]:
        """The names, in the order they were added."""
        return (name for name, _ in self.items())

    def values(self) -> Iterator[Module]:
        """The modules, in that order."""
        return (module for _, module in self.items())

    def items(self) -> Iterator[tuple[str, Module]]:
        """(name, module), in that order."""
        return self.children()


class Sequential(ModuleList):
    """Modules applied one after the other; it can be indexed and iterated."""

    def __init__(self, *modules: Module):
        super().__init__(modules)

    def forward(self, x: Any) -> Any:
        for module in self:
            x = module(x)
        return x


def _require_module(container: Module, module: object) -> None:
    if not isinstance(module, Module):
        raise TypeError(f"{type(container).__name__}: {module!r:.40} is a {type(module).__name__}, must be a Module")

"""Tells which library an array comes from."""

from __future__ import annotations

import functools
import importlib
from types import ModuleType

import numpy as np

EMULATED = "kernels.emulator.cupy_like"


@functools.cache
def _module_of(kind: type) -> ModuleType:
    root = kind.__module__.partition(".")[0]
    if root == "cupy":
        return importlib.import_module("cupy")
    if root == "kernels":
        return importlib.import_module(EMULATED)
    return np


def array_module(x) -> ModuleType:
    """The namespace `x` belongs to: cupy, the emulated device's look-alike of it, or numpy (Python scalars too)."""
    return _module_of(type(x))

"""Modules: parameters with names, the layers of a GPT, and PyTorch's `functional` and `init`.

Read `module.py` first, then `layers.py`; `containers.py` holds modules in lists and by name. Read `optim/` next.
"""

from tinytensor.nn import functional, init
from tinytensor.nn.containers import ModuleDict, ModuleList, Sequential
from tinytensor.nn.layers import GELU, Dropout, Embedding, LayerNorm, Linear, ReLU, RMSNorm
from tinytensor.nn.module import Buffer, Module, Parameter
from tinytensor.nn.precision import MixedPrecision

__all__ = [
    "GELU",
    "Buffer",
    "Dropout",
    "Embedding",
    "LayerNorm",
    "Linear",
    "MixedPrecision",
    "Module",
    "ModuleDict",
    "ModuleList",
    "Parameter",
    "RMSNorm",
    "ReLU",
    "Sequential",
    "functional",
    "init",
]

"""Chooses, for a pass over a block, between NumPy and the same pass compiled to one loop.

A pass of ten NumPy calls reads and writes its block ten times, and acquires the GIL ten times; a loop does each once.
The loops (`loops/`) need numba, which the extra `fast` brings, and float32. The NumPy pass next to its
primitive documents what is computed, runs where numba is missing and for float64 (gradient checks), and is what its
loop is tested against.
"""

from __future__ import annotations

import functools
import importlib.util
import os

import numpy as np

DTYPES = {np.dtype(np.float32), np.dtype(np.uint32)}  # the latter are dropout's random bits


def compiled(numpy_pass):
    """`numpy_pass`, or the loop of the same name if the first argument has one of `DTYPES` and loops can be used."""

    @functools.wraps(numpy_pass)
    def run(x, *rest):
        own = getattr(_loops(), numpy_pass.__name__, None) if x.dtype in DTYPES else None
        return (own or numpy_pass)(x, *rest)

    return run


def loop_alone(name):
    """What the loops have that stands for no NumPy pass, by its name; None if they cannot be used."""
    return getattr(_loops(), name, None)


def expects_loops() -> bool:
    """Whether loops will be used, as far as can be told without importing numba."""
    return importlib.util.find_spec("numba") is not None and os.environ.get("NUMBA_DISABLE_JIT") != "1"


@functools.cache
def _loops():
    """The package of loops, imported when first needed since numba takes half a second; None if it cannot be used."""
    try:
        from kernels.cpu import loops
    except (ImportError, OSError, RuntimeError):
        # no numba, or one that was told not to compile or cannot load LLVM
        return None
    return loops

"""NumPy's own matrix product, for loops that call it without going through Python.

Floor 0. NumPy's wheels bring an OpenBLAS that any code in the process can call. Calling it from a compiled loop saves
the way back to Python between products, and BLAS can do what NumPy never asks of it, such as add to its result.
"""

from __future__ import annotations

import ctypes

from threadpoolctl import ThreadpoolController

SYMBOL = "scipy_cblas_sgemm64_"  # the name in NumPy's wheels, with sizes of 64 bits
# the processors for which OpenBLAS multiplies small matrices where they lie, without copying them into another order
WITH_SMALL_KERNELS = ("SkylakeX", "Cooperlake", "SapphireRapids")


def find_sgemm() -> tuple[int, bool]:
    """The address of cblas_sgemm, or 0 if NumPy uses another BLAS; and whether it has kernels for small products."""
    for library in ThreadpoolController().select(internal_api="openblas").lib_controllers:
        function = getattr(library.dynlib, SYMBOL, None)
        if function:
            return ctypes.cast(function, ctypes.c_void_p).value, library.architecture in WITH_SMALL_KERNELS
    return 0, False

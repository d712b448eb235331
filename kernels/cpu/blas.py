"""NumPy's own matrix product, for loops that call it without going through Python.

NumPy's wheels bring an OpenBLAS that any code in the process can call. Calling it from a compiled loop saves
the way back to Python between products, and BLAS can do what NumPy never asks of it, such as add to its result.
"""

from __future__ import annotations

import ctypes
import functools

from threadpoolctl import ThreadpoolController

# the names in NumPy's wheels, with sizes of 64 bits: a product, and a matrix times its own transpose
SGEMM, SSYRK = "scipy_cblas_sgemm64_", "scipy_cblas_ssyrk64_"
# the processors for which OpenBLAS multiplies small matrices in place, without packing copies of them first
WITH_SMALL_KERNELS = ("SkylakeX", "Cooperlake", "SapphireRapids")


def sgemm_address() -> int:
    """Where cblas_sgemm is in this process, or 0 if NumPy uses another BLAS."""
    return _address(SGEMM)


def ssyrk_address() -> int:
    """Where cblas_ssyrk is, as above."""
    return _address(SSYRK)


def _address(name: str) -> int:
    library = _library()
    return ctypes.cast(getattr(library.dynlib, name), ctypes.c_void_p).value or 0 if library else 0


def has_small_kernels() -> bool:
    """Whether it is faster at products of up to about 10^6 multiplications than at larger ones."""
    return bool(_library()) and _library().architecture in WITH_SMALL_KERNELS


@functools.cache
def _library():
    """The OpenBLAS that has it, as threadpoolctl knows it, or None."""
    libraries = ThreadpoolController().select(internal_api="openblas").lib_controllers
    return next((library for library in libraries if hasattr(library.dynlib, SGEMM)), None)

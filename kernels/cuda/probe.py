"""Finds out whether a GPU can run everything that this project needs, before anything depends on it.

A machine may have a GPU and a driver and still lack what CuPy loads at run time: NVRTC (the compiler), the CUDA
headers, cuBLAS. CuPy notices when each is first used, so `usable_gpu` uses each once on a tiny example, and turns
whatever fails into one sentence that names what is missing and the remedy.
"""

from __future__ import annotations

import functools
import re
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType

import numpy as np

from kernels.namespace import DeviceError

SOURCE = 'extern "C" __global__ void twice(const float *x, float *y) { y[threadIdx.x] = 2.0f * x[threadIdx.x]; }'
INSTALL = "install CuPy together with the CUDA libraries: {install}"
# What a pattern in CuPy's message means ({0} is the pattern's group), and the remedy; the first that matches counts.
CAUSES = (
    (
        r"InsufficientDriver|UNSUPPORTED_PTX|UnsupportedPtx|DriverMismatch|DRIVER_MISMATCH|libcuda\.so",
        "the NVIDIA driver is missing or too old for this CuPy",
        "install or update the driver, or use --device cpu",
    ),
    (r"NoDevice|NO_DEVICE", "the driver finds no NVIDIA GPU", "use --device cpu"),
    (r"CUDA headers|cannot open source file|could not open source file", "the CUDA headers are missing", INSTALL),
    (
        r"\b((?:lib)?(?:nvrtc|cu(?:blas|dart|fft|rand|solver|sparse))\w*)\.(?:so|dll)",
        "the CUDA library {0} is missing",
        INSTALL,
    ),
    (
        r"gpu-architecture|NO_BINARY_FOR_GPU|NoKernelImage|no kernel image|ARCH_MISMATCH",
        "this CuPy does not support the GPU's architecture",
        "use cupy-cuda12x for a GPU older than compute capability 7.5, the newest CuPy for a new one",
    ),
    (r"(?i)out of memory|MemoryAllocation", "the GPU has no free memory", "end the process that holds it"),
)


def gpu_count() -> int:
    """How many GPUs CuPy sees, at least one. Raises DeviceError if CuPy, the driver or a GPU is missing."""
    cupy = _import_cupy()
    with _explained(cupy, "device 'cuda'", "no usable NVIDIA GPU or driver"):
        count = cupy.cuda.runtime.getDeviceCount()
    if not count:
        raise DeviceError("device 'cuda': the driver finds no NVIDIA GPU; use --device cpu")
    return count


@functools.cache
def usable_gpu(index: int) -> ModuleType:
    """cupy, if GPU `index` can allocate, compile, launch and multiply matrices; else raises DeviceError.

    Tried once per device and process; the thread's current device stays what it is.
    """
    count, cupy, name = gpu_count(), _import_cupy(), f"device 'cuda:{index}'"
    if index >= count:
        raise DeviceError(f"{name}: this machine has {count} GPU(s), numbered from 0")
    with _explained(cupy, name, "the GPU cannot be used"), cupy.cuda.Device(index):
        x = cupy.asarray(np.arange(4, dtype=np.float32))
        y = cupy.empty_like(x)
        with _explained(cupy, name, "CUDA kernels cannot be compiled or launched"):
            cupy.RawModule(code=SOURCE).get_function("twice")((1,), (4,), (x, y))
            total = x + y  # a kernel of CuPy's own, which needs the CUDA headers
        with _explained(cupy, name, "cuBLAS cannot multiply matrices"):
            # in float64: at its first product of float32 CuPy decides for good whether it uses TF32 (--matmul tf32)
            square = cupy.matmul(*2 * (total.reshape(2, 2).astype(np.float64),))
        result = cupy.asnumpy(square)
    if result.tolist() != [[18, 27], [54, 99]]:  # [[0, 3], [6, 9]] squared
        raise DeviceError(f"{name}: the GPU computes wrong results ({result.tolist()}); check the driver and the card")
    return cupy


def _import_cupy() -> ModuleType:
    try:
        import cupy
    except ModuleNotFoundError as error:
        raise DeviceError(f"device 'cuda': CuPy is missing ({error}); pip install -e '.[gpu]'") from None
    except ImportError as error:
        raise DeviceError(_sentence("device 'cuda'", "CuPy cannot be imported", error)) from error
    except OSError as error:  # it makes the folder for its kernels when it is imported
        reason = f"{error.filename}: {error.strerror}"
        remedy = "set CUPY_CACHE_DIR to a folder that can be written, or use --device cpu"
        raise DeviceError(f"device 'cuda': CuPy cannot be imported ({reason}); {remedy}") from error
    return cupy


@contextmanager
def _explained(cupy: ModuleType, device: str, failure: str):
    """Turn what CuPy raises inside into a DeviceError; `failure` says what did not work."""
    # CUDARuntimeError, CUDADriverError, CUBLASError and cuda.pathfinder's errors are RuntimeErrors, a missing cuBLAS is
    # an ImportError, functions of a library that was not loaded raise AssertionError, a full GPU MemoryError
    failures = (RuntimeError, ImportError, OSError, AssertionError, MemoryError, cupy.cuda.compiler.CompileException)
    try:
        yield
    except DeviceError:
        raise
    except failures as error:
        raise DeviceError(_sentence(device, failure, error)) from error


def _sentence(device: str, failure: str, error: Exception) -> str:
    """For example "device 'cuda:0': a CUDA library is missing (REASON); install ..."."""
    message = str(error)
    for pattern, cause, remedy in CAUSES:
        if match := re.search(pattern, message):
            cause, remedy = cause.format(*match.groups()), remedy.format(install=_install())
            return f"{device}: {cause} ({_reason(message)}); {remedy}"
    return f"{device}: {failure} ({type(error).__name__}: {_reason(message)}); use --device cpu, or check the GPU"


def _reason(message: str) -> str:
    """The line of CuPy's message that says what went wrong."""
    lines = [line.strip() for line in message.splitlines() if line.strip(" \t=")] or ["no message"]
    return next((line for line in lines if re.search(r"[Ee]rror: \S", line)), lines[-1])[:200]


def _install() -> str:
    """The command that completes the CuPy which is installed: two CuPy wheels side by side do not work."""
    try:
        version("cupy-cuda13x")
    except PackageNotFoundError:
        return "pip install -e '.[gpu]'"
    return "pip install 'cupy-cuda13x[ctk]'"

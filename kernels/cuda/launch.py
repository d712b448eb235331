"""From a .cu file to a running kernel: source, compilation, argument checks, launch.

A source is compiled once per device and set of -D options, when first needed, by the `RawModule` of the namespace that
the arrays come from: CuPy's, or the emulator's, which runs the same text on the CPU. The kernel's own signature in the
.cu file says what each argument must be, so arrays are checked against it and Python's numbers (which CuPy would pass
as 64-bit) are cast to its types; no second list of types has to be kept in sync. Arrays of `storage` (storage.cuh) may
be float32, float16 or bfloat16, all of one call the same, for which the source is then compiled.

Kernels run on the current device and stream. Read `softmax.py` next: the smallest use.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kernels import namespace

SOURCES = Path(__file__).parent
SCALARS: dict[str, Any] = {"float": np.float32, "int": np.int32, "unsigned": np.uint32, "long long": np.int64}
SCALARS["address"] = np.uint64  # in a table of tensors (tensors.py)
STORAGE: dict[str, dict[str, int]] = {"float32": {}, "float16": {"STORAGE": 1}, "bfloat16": {"STORAGE": 2}}
MAX_GRID = (2**31 - 1, 65_535)  # the limits of gridDim.x and gridDim.y on every architecture
DEFAULT_SHARED = 48 * 1024  # a block may have this much shared memory without opting in

_INCLUDE = re.compile(r'^#include "(\w+\.cuh)"$', re.MULTILINE)
_KERNEL = re.compile(r'extern "C" __global__ void.*?(\w+)\(([^()]*)\)\s*\{', re.DOTALL)


class KernelArgumentError(ValueError):
    """An argument that the kernel cannot take; the message names it, its value and what is expected."""


@dataclass(frozen=True)
class SharedMemory:
    """A device's shared memory in bytes."""

    per_block: int  # the most that one block may have, after opting in
    per_multiprocessor: int
    reserved: int = 0  # taken from each block by the system


@dataclass(frozen=True)
class Parameter:
    """One parameter of a kernel: `const float *x` has type "float", name "x" and pointer True.

    A pointer to pointers has type "address".
    """

    type: str
    name: str
    pointer: bool


def device_namespace(x):
    """The namespace of an array on a GPU: cupy, or the emulated device's substitute for it.

    `namespace.array_module` with two checks; every launcher allocates its results through it. Raises
    KernelArgumentError for a NumPy array, DeviceError for an array of a GPU that is not current.
    """
    xp = namespace.array_module(x)
    if xp is np:
        raise KernelArgumentError(
            f"{type(x).__name__}: the CUDA kernels take arrays on a GPU (move it with tt.device(...).put)"
        )
    namespace.require_current(x)
    return xp


# ---- source ---------------------------------------------------------------------------------------------------------


@functools.cache
def source(name: str) -> str:
    """The text of `name` with each #include of a .cuh replaced by that file; lines keep their file and number."""
    text = SOURCES.joinpath(name).read_text()

    def include(match: re.Match) -> str:
        line = text.count("\n", 0, match.start()) + 1
        return f'{source(match[1])}\n#line {line + 1} "{name}"'

    return f'#line 1 "{name}"\n' + _INCLUDE.sub(include, text)


@functools.cache
def signatures(name: str) -> dict[str, tuple[Parameter, ...]]:
    """{kernel: parameters} of the kernels that the file `name` defines, in its order."""
    text = SOURCES.joinpath(name).read_text()
    return {kernel: tuple(map(_parameter, params.split(","))) for kernel, params in _KERNEL.findall(text)}


def _parameter(text: str) -> Parameter:
    words = text.replace("*", " * ").split()
    kind = " ".join(word for word in words[:-1] if word not in ("const", "*", "__restrict__"))
    return Parameter("address" if words.count("*") > 1 else kind, words[-1], "*" in words)


def flags(defines: dict[str, int]) -> tuple[str, ...]:
    """Compiler options for {macro: value}."""
    return tuple(f"-D{name}={value}" for name, value in sorted(defines.items()))


@functools.cache
def _kernel(xp, device: int, name: str, kernel: str, options: tuple[str, ...]):
    return _module(xp, device, name, options).get_function(kernel)


@functools.cache
def _module(xp, device: int, name: str, options: tuple[str, ...]):
    return xp.RawModule(code=source(name), options=options)


@functools.cache
def shared_memory(xp, device: int) -> SharedMemory:
    """The limits that the device reports."""
    attributes = xp.cuda.Device(device).attributes
    return SharedMemory(
        per_block=max(DEFAULT_SHARED, attributes.get("MaxSharedMemoryPerBlockOptin", 0)),
        per_multiprocessor=attributes["MaxSharedMemoryPerMultiprocessor"],
        reserved=attributes.get("ReservedSharedMemoryPerBlock", 0),
    )


# ---- launch ---------------------------------------------------------------------------------------------------------


def launch(name: str, kernel: str, grid: tuple, block: tuple, args: tuple, shared: int = 0, **defines: int) -> None:
    """Run `kernel` of the file `name`. The first argument must be an array of the current device.

    grid, block: 1 to 3 numbers each; shared: bytes of dynamic shared memory; defines: the source's options.
    Raises KernelArgumentError for an array of the wrong type, layout or device, a number that does not fit its
    parameter, and a grid beyond the hardware's limits.
    """
    xp, device = device_namespace(args[0]), args[0].device.id
    parameters = signatures(name)[kernel]
    storage = _storage_dtype(kernel, parameters, args)
    args = _checked(kernel, parameters, args, xp, storage)
    for size, limit in zip(grid, MAX_GRID, strict=False):
        if size > limit:
            raise KernelArgumentError(f"{kernel}: needs {size} blocks along one axis, and a GPU takes {limit}")
    function = _kernel(xp, device, name, kernel, flags(defines | STORAGE[storage.name]))
    if shared > DEFAULT_SHARED:
        function.max_dynamic_shared_size_bytes = shared
    function(grid, block, args, shared_mem=shared)


def _storage_dtype(kernel: str, parameters: tuple[Parameter, ...], args: tuple) -> np.dtype:
    """The dtype of the first array that may have any of STORAGE; float32 without one."""
    for parameter, arg in zip(parameters, args, strict=False):
        if parameter.type == "storage":
            dtype = getattr(arg, "dtype", np.dtype(np.float32))
            names = ", ".join(STORAGE)
            check(dtype.name in STORAGE, f"{kernel}: {parameter.name} has dtype {dtype}: must be one of {names}")
            return dtype
    return np.dtype(np.float32)


def _checked(kernel: str, parameters: tuple[Parameter, ...], args: tuple, xp, storage: np.dtype) -> tuple:
    if len(args) != len(parameters):
        raise KernelArgumentError(f"{kernel}: {len(args)} arguments given, and it takes {len(parameters)}")
    device = args[0].device.id
    return tuple(
        _checked_array(kernel, parameter, arg, xp, device, storage)
        if parameter.pointer
        else _checked_scalar(kernel, parameter, arg)
        for parameter, arg in zip(parameters, args, strict=True)
    )


def _checked_array(kernel: str, parameter: Parameter, array, xp, device: int, storage: np.dtype):
    where = f"{kernel}: {parameter.name}"
    dtype = storage if parameter.type == "storage" else np.dtype(SCALARS[parameter.type])
    if not isinstance(array, xp.ndarray):
        raise KernelArgumentError(f"{where} is a {type(array).__name__}: must be a {xp.__name__} array")
    if array.dtype != dtype:
        raise KernelArgumentError(f"{where} has dtype {array.dtype}: the CUDA kernel takes {dtype}")
    if not array.flags.c_contiguous:
        raise KernelArgumentError(f"{where} of shape {array.shape} is not C-contiguous: pass a contiguous copy")
    if array.device.id != device:
        raise KernelArgumentError(f"{where} is on device {array.device.id}: the other arrays are on device {device}")
    return array


def _checked_scalar(kernel: str, parameter: Parameter, value):
    scalar = SCALARS[parameter.type]
    if scalar is np.float32:
        return scalar(value)
    limits = np.iinfo(scalar)
    if not limits.min <= value <= limits.max:
        raise KernelArgumentError(
            f"{kernel}: {parameter.name} = {value} does not fit its type ({limits.min} to {limits.max})"
        )
    return scalar(value)


# ---- shapes of work -------------------------------------------------------------------------------------------------


def check(condition: bool, message: str) -> None:
    """Raise KernelArgumentError(message) unless `condition`."""
    if not condition:
        raise KernelArgumentError(message)


def contiguous(*arrays):
    """The arrays, with a copy of each that is not C-contiguous (a transposed or broadcast gradient)."""
    return tuple(a if a.flags.c_contiguous else device_namespace(a).ascontiguousarray(a) for a in arrays)


def launch_rows(name: str, kernel: str, rows: int, columns: int, args: tuple) -> None:
    """Launch a kernel that works on `rows` rows as rows.cuh lays out: a warp each if short, else a block each."""
    threads = 32 if columns <= 256 else 128 if columns <= 1024 else 512
    per_block = max(1, 128 // threads)
    launch(name, kernel, (-(-rows // per_block),), (threads, per_block), args, ROW_THREADS=threads)


def launch_elements(name: str, kernel: str, size: int, args: tuple) -> None:
    """Launch a kernel of one thread per element."""
    launch(name, kernel, (-(-size // 256),), (256,), args)

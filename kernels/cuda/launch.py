"""From a .cu file to a running kernel: source, compilation, argument checks, launch.

A source is compiled once per device and set of -D options, when first needed, by the `RawModule` of the namespace that
the arrays come from: CuPy's, or the emulator's, which runs the same text on the CPU. The kernel's own signature in the
.cu file says what each argument must be, so arrays are checked against it and Python's numbers (which CuPy would pass
as 64-bit) are cast to its types; no second list of types has to be kept in sync. Arrays of `storage` (storage.cuh) may
be float32, float16 or bfloat16, all of one call the same, for which the source is then compiled; those of `stream` have
that dtype, or all of them float32.

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
FLOAT_STREAM = {"FLOAT_STREAM": 1}  # beside storage of 16 bits
FLOAT32 = np.dtype(np.float32)
MAX_GRID = (2**31 - 1, 65_535)  # the limits of gridDim.x and gridDim.y on every architecture
STRIP_ROWS = 16  # of `launch_columns`, at least
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
def _function(
    xp, device: int, name: str, kernel: str, storage: np.dtype, float_stream: bool, defines: tuple[tuple[str, int], ...]
):
    """The compiled kernel; found anew for every launch, so the arguments are what the caller has at hand."""
    types = STORAGE[storage.name] | (FLOAT_STREAM if float_stream else {})
    return _module(xp, device, name, flags(dict(defines) | types)).get_function(kernel)


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
# A step has hundreds of launches, so what does not change from one to the next is worked out once for each kernel, and
# an argument is looked at closely only if something is wrong with it.


@dataclass(frozen=True)
class Signature:
    """What a kernel takes: its parameters, and their places by what has to be checked."""

    parameters: tuple[Parameter, ...]
    arrays: tuple[tuple[int, Any], ...]  # (place, dtype, or the name of a type of storage.cuh)
    integers: tuple[tuple[int, Any, int, int], ...]  # (place, type, lowest, highest)
    floats: tuple[int, ...]
    storage: int | None  # the place of the first array of `storage`
    stream: int | None  # and of `stream`


@functools.cache
def _signature(name: str, kernel: str) -> Signature:
    parameters = signatures(name)[kernel]
    arrays = [(i, p.type) for i, p in enumerate(parameters) if p.pointer]
    scalars = [(i, SCALARS[p.type]) for i, p in enumerate(parameters) if not p.pointer]
    integers = [(i, kind, np.iinfo(kind)) for i, kind in scalars if kind is not np.float32]
    return Signature(
        parameters,
        tuple((i, np.dtype(SCALARS[kind]) if kind in SCALARS else kind) for i, kind in arrays),
        tuple((i, kind, int(limits.min), int(limits.max)) for i, kind, limits in integers),
        tuple(i for i, kind in scalars if kind is np.float32),
        *(next((i for i, kind in arrays if kind == name), None) for name in ("storage", "stream")),
    )


def launch(name: str, kernel: str, grid: tuple, block: tuple, args: tuple, shared: int = 0, **defines: int) -> None:
    """Run `kernel` of the file `name`. The first argument must be an array of the current device.

    grid, block: 1 to 3 numbers each; shared: bytes of dynamic shared memory; defines: the source's options.
    Raises KernelArgumentError for an array of the wrong type, layout or device, a number that does not fit its
    parameter, and a grid beyond the hardware's limits.
    """
    xp, device = device_namespace(args[0]), args[0].data.device_id
    signature = _signature(name, kernel)
    storage = _storage_dtype(kernel, signature, args)
    stream = _stream_dtype(signature, args, storage)
    args = _checked(kernel, signature, args, xp, device, {"storage": storage, "stream": stream})
    for size, limit in zip(grid, MAX_GRID, strict=False):
        if size > limit:
            raise KernelArgumentError(f"{kernel}: needs {size} blocks along one axis, and a GPU takes {limit}")
    function = _function(xp, device, name, kernel, storage, stream is not storage, tuple(defines.items()))
    if shared > DEFAULT_SHARED:
        function.max_dynamic_shared_size_bytes = shared
    function(grid, block, args, shared_mem=shared)


@functools.cache
def _storage_options(dtype: np.dtype) -> dict[str, int] | None:
    """The options for arrays of this dtype, None if it is none of STORAGE; a dtype's name takes longer to find."""
    return STORAGE.get(dtype.name)


def _storage_dtype(kernel: str, signature: Signature, args: tuple) -> np.dtype:
    """The dtype of the first array that may have any of STORAGE; float32 without one."""
    place = signature.storage
    if place is None or place >= len(args):
        return FLOAT32
    dtype = getattr(args[place], "dtype", FLOAT32)
    if _storage_options(dtype) is None:
        where, names = f"{kernel}: {signature.parameters[place].name}", ", ".join(STORAGE)
        raise KernelArgumentError(f"{where} has dtype {dtype}: must be one of {names}")
    return dtype


def _stream_dtype(signature: Signature, args: tuple, storage: np.dtype) -> np.dtype:
    """float32 if the first array of `stream` has it and `storage` has 16 bits, else that of `storage`."""
    place = signature.stream
    if place is None or place >= len(args) or storage == FLOAT32:
        return storage
    return FLOAT32 if getattr(args[place], "dtype", storage) == FLOAT32 else storage


def _checked(kernel: str, signature: Signature, args: tuple, xp, device: int, dtypes: dict[str, np.dtype]) -> tuple:
    """The arguments, numbers cast to the types of their parameters. dtypes: those of the types of storage.cuh."""
    if len(args) != len(signature.parameters):
        raise KernelArgumentError(f"{kernel}: {len(args)} arguments given, and it takes {len(signature.parameters)}")
    kind, cast = xp.ndarray, list(args)
    for i, required in signature.arrays:
        array, dtype = args[i], dtypes[required] if type(required) is str else required
        fits = isinstance(array, kind) and array.dtype == dtype
        if not fits or not array.flags.c_contiguous or array.data.device_id != device:
            _refuse_array(f"{kernel}: {signature.parameters[i].name}", array, dtype, xp, device)
    for i, integer, low, high in signature.integers:
        if not low <= args[i] <= high:
            where = f"{kernel}: {signature.parameters[i].name} = {args[i]}"
            raise KernelArgumentError(f"{where} does not fit its type ({low} to {high})")
        cast[i] = integer(args[i])
    for i in signature.floats:
        cast[i] = np.float32(args[i])
    return tuple(cast)


def _refuse_array(where: str, array, dtype: np.dtype, xp, device: int) -> None:
    """Raise KernelArgumentError that says what is wrong with it."""
    if not isinstance(array, xp.ndarray):
        raise KernelArgumentError(f"{where} is a {type(array).__name__}: must be a {xp.__name__} array")
    if array.dtype != dtype:
        raise KernelArgumentError(f"{where} has dtype {array.dtype}: the CUDA kernel takes {dtype}")
    if not array.flags.c_contiguous:
        raise KernelArgumentError(f"{where} of shape {array.shape} is not C-contiguous: pass a contiguous copy")
    raise KernelArgumentError(f"{where} is on device {array.device.id}: the other arrays are on device {device}")


# ---- shapes of work -------------------------------------------------------------------------------------------------


def check(condition: bool, message: str) -> None:
    """Raise KernelArgumentError(message) unless `condition`."""
    if not condition:
        raise KernelArgumentError(message)


def contiguous(*arrays):
    """The arrays, with a copy of each that is not C-contiguous (a transposed or broadcast gradient)."""
    return tuple(a if a.flags.c_contiguous else device_namespace(a).ascontiguousarray(a) for a in arrays)


def pack_width(columns: int, *arrays) -> int:
    """How many neighbouring columns a thread may move at once, a kernel's option WIDTH: 4, or 1 if that does not fit.

    All rows of the arrays, which have so many columns, must begin at a multiple of 4 elements.
    """
    return 4 if columns % 4 == 0 and not any(a.data.ptr % (4 * a.itemsize) for a in arrays) else 1


def divide_rows(rows: int, least: int, most: int = 256) -> tuple[int, int]:
    """How many rows a strip has, `least` if there are enough, and how many strips there are, `most` of them at most."""
    strip_rows = max(least, -(-rows // most))
    return strip_rows, -(-rows // strip_rows)


def launch_columns(name: str, kernel: str, arrays: tuple, *others: Any, strips: int = 256) -> None:
    """Launch a kernel whose blocks own 256 columns of a strip of rows, as many to a thread as it may move at once.

    arrays: the first of shape (..., C), each with rows of that length. Then come `others`, the rows, C, and a strip's
    rows. strips: how many there are at most.
    """
    columns, width = arrays[0].shape[-1], pack_width(arrays[0].shape[-1], *arrays)
    rows = arrays[0].size // columns
    strip_rows, count = divide_rows(rows, STRIP_ROWS, strips)
    args = (*arrays, *others, rows, columns, strip_rows)
    launch(name, kernel, (-(-columns // 256), count), (256 // width,), args, WIDTH=width)


def launch_rows(name: str, kernel: str, rows: int, columns: int, args: tuple, **defines: int) -> None:
    """Launch a kernel that works on `rows` rows as rows.cuh lays out: a warp each if short, else a block each."""
    threads = 32 if columns <= 256 else 128 if columns <= 1024 else 512
    per_block = max(1, 128 // threads)
    launch(name, kernel, (-(-rows // per_block),), (threads, per_block), args, ROW_THREADS=threads, **defines)


def launch_elements(name: str, kernel: str, size: int, args: tuple) -> None:
    """Launch a kernel of one thread per element."""
    launch(name, kernel, (-(-size // 256),), (256,), args)

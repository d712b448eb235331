"""`RawModule` with CuPy's call signature, for CUDA source that runs on the CPU.

A launch hands NumPy memory and scalars to the compiled kernel. Where CuPy would pass on anything, this compares each
argument with the kernel's parameter first: a Python int is 8 bytes to CuPy, and a kernel's `int` takes the first 4.
Inside `with checked(seed=3) as launches:` every launch runs in the checked build. Builds on compiler.py. Next:
checks.py, the checked launch.
"""

import ctypes
import functools
import math
import os
import re
from dataclasses import dataclass

import numpy as np

from kernels.emulator import checks
from kernels.emulator.compiler import build_module, build_runtime
from kernels.emulator.dry_run import current_recorder
from kernels.emulator.errors import LaunchError
from kernels.emulator.memory import live
from kernels.emulator.memory.guard import guarded
from kernels.emulator.memory.sparse import SparseArray
from kernels.emulator.record import LaunchRecord, Parameter
from kernels.emulator.symbols import read_symbols

MAX_THREADS_PER_BLOCK = 1024
MAX_BLOCK = (1024, 1024, 64)
MAX_GRID = (2**31 - 1, 65535, 65535)
SHARED_MEMORY_PER_BLOCK = 48 << 10  # what any kernel may use
SHARED_MEMORY_PER_BLOCK_OPTIN = 99 << 10  # what a kernel may opt in to; compute capability 8.6 and 8.9
KINDS = {"f": "f", "i": "i", "u": "i", "b": "b", "c": "c"}  # NumPy's dtype.kind to device.h's
THREADS_PER_WORKER = 1024  # fewer CUDA threads than this are not worth another operating-system thread


@functools.cache
def runtime():
    """The loaded scheduler and checker."""
    return ctypes.CDLL(str(build_runtime()))


class RawModule:
    """`cupy.RawModule` on the CPU: compiles `code` when the first kernel is asked for.

    `name` is the source's file name in messages; a first line `#line 1 "softmax.cu"` says it too.
    Raises CompileError for a source that does not compile.
    """

    program = False  # tool/programs.py: whether the source has code for the host too
    cooperative = True  # whether launches may have barriers of the grid; tool/namespace.py asks first, as CuPy does

    def __init__(self, code, *, options=(), backend="nvrtc", name_expressions=None, name=None):
        if backend != "nvrtc":
            raise LaunchError(f"backend {backend!r}: the emulator stands in for 'nvrtc'")
        self.code, self.options, self.backend = code, tuple(options), backend
        stated = re.match(r'\s*#line 1 "(?:[^"]*/)?([^"/]+)"', code)
        self.name = name or (stated[1] if stated else "kernel.cu")
        self.name_expressions = tuple(name_expressions or ())
        self._functions, self._builds = {}, {}

    def build(self):
        """The compiled module for a launch here and now: fast, or what the `with checked(...)` around it asks for."""
        kind = checks.current_build()
        if kind not in self._builds:
            self._builds[kind] = Build(self, kind)
        return self._builds[kind]

    def compile(self, log_stream=None):
        """Compiles now rather than at the first `get_function`."""
        self.build()

    def get_function(self, name):
        """The kernel `name`: an `extern "C" __global__` function, or one of `name_expressions`."""
        if name not in self._functions:
            self._functions[name] = RawKernel(self, name)
        return self._functions[name]


class Build:
    """One shared object of a module, loaded, with what it says of its kernels."""

    def __init__(self, module, kind):
        self.path = build_module(
            module.code, module.name, module.options, module.name_expressions, kind, module.program
        )
        self.shared_object = ctypes.CDLL(str(self.path))
        self.symbols = read_symbols(self.path)
        self.anchor = self.shared_object.emulator_anchor_address
        self.anchor.restype = ctypes.c_void_p
        shared, anchor = self.symbols.shared, self.symbols.anchor
        begin, end = min((v.offset for v in shared), default=0), max((v.offset + v.bytes for v in shared), default=0)
        self.storage = (ctypes.cast(self.anchor, ctypes.c_void_p) if shared else None, begin - anchor, end - begin)
        table = ctypes.c_char.in_dll(self.shared_object, "emulator_kernels")
        rows = ctypes.string_at(ctypes.addressof(table)).decode().splitlines()
        self.kernels = {name: (i, *rest) for i, (name, *rest) in enumerate(row.split("|") for row in rows)}

    def thread_storage(self):
        """Where this thread's copy of the module's thread-local storage, so its `__shared__` memory, begins."""
        return self.anchor() - self.symbols.anchor

    def image(self):
        """Where the module is loaded: its symbols count from there."""
        return ctypes.addressof(ctypes.c_char.in_dll(self.shared_object, "emulator_kernels")) - self.symbols.kernels

    def shared_of(self, kernel):
        """The static `__shared__` variables that `kernel` may use: its own, and those of functions that it may call."""
        templates = {name.partition("<")[0] for name in self.kernels}
        own = kernel.partition("<")[0]
        return [v for v in self.symbols.shared if v.function == own or v.function not in templates]

    def kernel(self, name, expressions):
        """(entry point, [(name, Parameter, whether __restrict__)], launch bounds) of one kernel."""
        if name not in self.kernels or (name not in expressions and not hasattr(self.shared_object, name)):
            raise LaunchError(
                f'{self.path.stem} has no kernel {name!r}: declare it `extern "C" __global__ void {name}(...)`'
            )
        index, names, restricted = self.kernels[name]
        integer = functools.partial(ctypes.c_int.in_dll, self.shared_object)
        count = integer(f"emulator_count_{index}").value
        names = names.split(",") if names else []
        if len(names) != count:  # a parameter pack, an overloaded template
            names, restricted = [f"argument {i}" for i in range(count)], ""
        parameters = ctypes.POINTER(Parameter).in_dll(self.shared_object, f"emulator_parameters_{index}")
        entry = getattr(self.shared_object, f"emulator_call_{index}")
        restricted = [name in restricted.split(",") for name in names]
        listed = list(zip(names, parameters[:count], restricted, strict=True))
        return entry, listed, integer(f"emulator_bounds_{index}").value


class RawKernel:
    """`kernel(grid, block, args, shared_mem=0)`, with the attributes of `cupy.RawKernel` that a launcher reads."""

    def __init__(self, module, name):
        self.module, self.name = module, name
        build = module.build()
        _, self.parameters, self.max_threads_per_block = self._entry(build)
        self.shared_size_bytes = sum(variable.bytes for variable in build.shared_of(name))
        self._max_dynamic = SHARED_MEMORY_PER_BLOCK - self.shared_size_bytes

    def _entry(self, build):
        return build.kernel(self.name, self.module.name_expressions)

    @property
    def max_dynamic_shared_size_bytes(self):
        """Bytes of dynamic shared memory a launch may use; set it to go beyond 48 KiB in all."""
        return self._max_dynamic

    @max_dynamic_shared_size_bytes.setter
    def max_dynamic_shared_size_bytes(self, value):
        most = SHARED_MEMORY_PER_BLOCK_OPTIN - self.shared_size_bytes
        if value > most:
            raise LaunchError(f"kernel {self.name}: {value} bytes of dynamic shared memory, the device has {most}")
        self._max_dynamic = value

    @property
    def attributes(self):
        """CuPy's dictionary of the same name, without what only a compiler for GPUs knows (registers, PTX)."""
        names = ("max_threads_per_block", "shared_size_bytes", "max_dynamic_shared_size_bytes")
        return {name: getattr(self, name) for name in names}

    def __call__(self, grid, block, args, *, shared_mem=0, stream=None):
        """Runs the kernel to completion. `args`: arrays and NumPy scalars, one per parameter; `stream`: ignored."""
        record = LaunchRecord(dynamic_shared=shared_mem, uncooperative=not self.module.cooperative)
        record.grid[:], record.block[:] = self._sizes(grid, block, shared_mem)
        if len(args) != len(self.parameters):
            raise LaunchError(
                f"kernel {self.name} takes {len(self.parameters)} arguments, the launch gives {len(args)}"
            )
        arguments = [self._argument(a, *p) for a, p in zip(args, self.parameters, strict=True)]
        recorder, request = current_recorder(), checks.current_request()
        if recorder:
            recorder.launch(self.name, arguments)
        elif request is None:
            record.flush_to_zero = checks.current_build() == "rounded"
            with guarded(self, arguments):
                self.run(record, self.module.build(), arguments)
            for argument in arguments:
                argument.mark_written()
        else:
            checks.launch(request, record, self, arguments)

    def run(self, record, build, arguments):
        """Hands one launch to the runtime; raises its fault."""
        values = (ctypes.c_void_p * len(arguments))(*(a.value.ctypes.data for a in arguments))
        record.call = ctypes.cast(self._entry(build)[0], ctypes.c_void_p)
        record.arguments = values
        execute(record, build, self.name)

    def _sizes(self, grid, block, shared_mem):
        """Grid and block as three numbers each, within CUDA's limits."""
        grid, block = (tuple(map(int, size)) + (1,) * (3 - len(size)) for size in (grid, block))
        for what, size, limit in (("grid", grid, MAX_GRID), ("block", block, MAX_BLOCK)):
            if any(not 1 <= n <= most for n, most in zip(size, limit, strict=True)):
                raise LaunchError(f"kernel {self.name}: {what} {size} must lie between (1, 1, 1) and {limit}")
        if math.prod(block) > self.max_threads_per_block:
            most = self.max_threads_per_block
            raise LaunchError(
                f"kernel {self.name}: block {block} has {math.prod(block)} threads, at most {most} can run"
            )
        most = self.max_dynamic_shared_size_bytes
        if shared_mem > most:
            raise LaunchError(
                f"kernel {self.name}: {shared_mem} bytes of dynamic shared memory besides {self.shared_size_bytes} "
                f"static ones, at most {most} unless max_dynamic_shared_size_bytes is set higher"
            )
        return grid, block

    def _argument(self, arg, name, parameter, restricted):
        """The Argument that `arg` makes for one parameter, which it must fit."""
        memory = arg if isinstance(arg, np.ndarray) else getattr(arg, "host", None)
        value = np.asarray(arg if memory is None else memory.ctypes.data)
        given = value.dtype if memory is None else memory.dtype
        kind, size = parameter.kind.decode(), parameter.size
        if memory is not None and kind == "p":
            kind, size = parameter.pointee.decode(), parameter.pointee_size
            fits = memory.flags.c_contiguous or memory.flags.f_contiguous
            if not fits:
                raise LaunchError(f"kernel {self.name}: the array for {name!r} is not contiguous")
            fits = size == 1 or kind == "v" or (kind_of(given), given.itemsize) == (kind, size)
            fits |= kind == "B" and given == np.uint16
            fits |= kind == "p" and given in (np.uint64, np.int64)
            wants = f"a pointer to {describe(kind, size)}"
        elif kind == "a":
            fits = memory is not None and memory.ndim == size and given.itemsize == parameter.pointee_size
            wants = f"a CArray of {size} dimensions with {parameter.pointee_size}-byte elements"
        else:
            fits = memory is None and (kind == "v" or kind_of(given) == kind) and given.itemsize == size
            fits |= kind == "p" and memory is None and given in (np.uint64, np.int64) and live.is_pointer(int(value))
            wants = "a pointer" if kind == "p" else describe(kind, size)
        if not fits:
            got = f"a {given} {'scalar' if memory is None else 'array'}"
            raise LaunchError(f"kernel {self.name}: parameter {name!r} is {wants}, the launch gives {got}")
        argument = Argument(
            name,
            memory,
            value,
            getattr(arg, "written", None),
            constant=bool(parameter.constant),
            restricted=restricted,
            sparse=isinstance(arg, SparseArray),
            margin=memory is not arg,
            addresses=kind == "p",
            described=kind == "a",
        )
        if argument.described:
            argument.place(memory.ctypes.data)
        return argument


def execute(record, build, name):
    """Runs the launch that `record` describes, of the kernel `name`; raises its fault."""
    record.anchor, record.shared_offset, record.shared_bytes = build.storage
    blocks = math.prod(record.grid)
    workers = max(1, min(cores(), blocks, blocks * math.prod(record.block) // THREADS_PER_WORKER))
    record.workers = 1 if record.checked else workers
    runtime().emulator_launch(ctypes.byref(record))
    if record.fault:
        raise checks.fault(record, name, build.path)


@dataclass
class Argument:
    """One argument of one launch: its `value` is what the kernel receives, a scalar or the address of `memory`."""

    name: str
    memory: np.ndarray | None
    value: np.ndarray
    written: np.ndarray | None  # uint8, one per byte of memory: 0 where nobody wrote yet; None where all is written
    constant: bool = False  # a pointer to const
    restricted: bool = False  # __restrict__
    sparse: bool = False  # too large to copy
    margin: bool = False  # an array of the emulated device, with memory around it that belongs to nobody
    described: bool = False  # the kernel receives a CArray (include/cupy/carray.cuh)
    addresses: bool = False  # of arrays of the emulated device: a table of them, or one that is passed as a number

    def place(self, address):
        """Tells the kernel that its array is at `address`: by a pointer, or in a CArray with size, shape, strides."""
        self.value = np.asarray(address)
        if self.described:
            memory = self.memory
            self.value = np.array([address, memory.size, *memory.shape, *memory.strides], np.int64)

    def mark_written(self):
        """After a launch that did not watch, all memory it could reach counts as written."""
        if self.written is not None:
            self.written[...] = 1


def kind_of(dtype):
    """device.h's kind of a dtype; bfloat16 is ml_dtypes'."""
    return "B" if dtype.name == "bfloat16" else KINDS.get(dtype.kind)


def describe(kind, size):
    """C's name for a kind and size, as in "a 4-byte float"."""
    names = {"f": "float", "i": "integer", "b": "bool", "c": "complex number", "v": "struct", "B": "bfloat16"}
    names["p"] = "address (uint64)"
    return f"a {size}-byte {names[kind]}"


def cores():
    """The cores this process may use, at most 16: each worker keeps a stack per CUDA thread."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(16, usable)

"""Launches on the command line: `saxpy<<<4, 256>>>(rand(1000), y=zeros(1000), 2.0, 1000)`.

An argument is a number of the parameter's type, `nullptr`, or an array of so many elements of the pointer's type:
`rand(1000)`, `rand(20, 50)` (standard normal numbers, or integers from 0 to 99), `randint(1000, 8)` (1000 integers
below 8), `zeros(...)`, `ones(...)`, `arange(...)`, `empty(...)` (the kernel must write before it reads), `sparse(...)`
(for offsets beyond 2^31). `y=zeros(9)` names an array; `y` alone passes it again. Next: check.py.
"""

import ast
import math
import os
import re
from dataclasses import dataclass

import numpy as np

from kernels.emulator.errors import LaunchError
from kernels.emulator.memory.sparse import sparse
from kernels.emulator.source.scan import split

LAUNCH = re.compile(r"\s*(\w[\w:]*(?:\s*<(?!<<).*?>)?)\s*<<<(.*?)>>>\s*\((.*)\)\s*;?\s*", re.DOTALL)
ARGUMENT = re.compile(r"(?:(\w+)\s*=\s*)?(\w+)\s*\(([^()]*)\)")
DTYPES = {("f", 4): np.dtype("f4"), ("f", 8): np.dtype("f8"), ("f", 2): np.dtype("f2"), ("b", 1): np.dtype(bool)}
DTYPES |= {("i", size): np.dtype(f"i{size}") for size in (1, 2, 4, 8)}
DTYPES |= {("c", size): np.dtype(f"c{size}") for size in (8, 16)}
BFLOAT16_BITS = np.dtype(np.uint16)
DTYPES |= {("B", 2): BFLOAT16_BITS}
MAKERS = ("rand", "randint", "zeros", "ones", "arange", "empty", "sparse")
WITHOUT_VALUES = ("zeros", "empty", "sparse")
BY_VALUE = {"v": "a struct", "a": "a CArray", "B": "a bfloat16", "c": "a complex number"}
MEMORY = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


class Unwritten:
    """Memory that counts as unwritten until the kernel writes it."""

    def __init__(self, host):
        self.host, self.written = host, np.zeros(host.nbytes, np.uint8)


@dataclass(frozen=True)
class LaunchText:
    """A launch as it was written."""

    text: str
    kernel: str
    grid: tuple
    block: tuple
    shared: int
    arguments: tuple  # their texts


def parse(text):
    """The LaunchText of one launch; LaunchError if it is none."""
    match = LAUNCH.fullmatch(text)
    if not match:
        raise LaunchError(f"{text!r}: a launch is written as KERNEL<<<GRID, BLOCK>>>(ARGUMENTS)")
    settings = [part.strip() for part in split(match[2])]
    if not 2 <= len(settings) <= 3:
        raise LaunchError(f"{text!r}: between <<< and >>> stand the grid, the block and perhaps bytes of shared memory")
    grid, block = (_size(part, text) for part in settings[:2])
    shared = _size(settings[2], text) if len(settings) == 3 else (0,)
    if len(shared) > 1 or shared[0] < 0:
        raise LaunchError(f"{text!r}: {settings[2]} is no number of bytes of shared memory: it must be 0 or more")
    arguments = tuple(part.strip() for part in split(match[3])) if match[3].strip() else ()
    return LaunchText(text.strip(), re.sub(r"\s*<", "<", match[1]), grid, block, shared[0], arguments)


def _size(text, launch):
    try:
        value = ast.literal_eval(text.removeprefix("dim3").strip())
    except (ValueError, SyntaxError):
        value = None
    value = value if isinstance(value, tuple) else (value,)
    if not 1 <= len(value) <= 3 or not all(type(number) is int for number in value):
        raise LaunchError(f"{launch!r}: {text} is not a number or (x, y, z)")
    return value


def arguments(launch, parameters, random):
    """(arguments for RawKernel, {name: array}) of a LaunchText; `parameters` are RawKernel's, `random` a generator."""
    if len(launch.arguments) != len(parameters):
        given, most = len(launch.arguments), len(parameters)
        raise LaunchError(f"{launch.text!r}: the kernel takes {most} arguments, the launch gives {given}")
    values, named = [], {}
    for number, (text, (name, parameter, _)) in enumerate(zip(launch.arguments, parameters, strict=True)):
        match = ARGUMENT.fullmatch(text)
        try:
            if parameter.kind != b"p":
                values.append(_scalar(text, parameter.kind.decode(), parameter.size))
            elif text in ("nullptr", "NULL"):
                values.append(np.uint64(0))
            elif text in named:
                values.append(named[text])
            elif match and match[2] in MAKERS:
                array = _array(match[2], match[3], parameter, random)
                named[match[1] or name or f"argument {number}"] = array
                values.append(array)
            else:
                raise ValueError(f"is no array; there are {', '.join(MAKERS)}, and nullptr")
        except (ValueError, OSError, OverflowError, MemoryError) as error:
            raise LaunchError(f"{launch.text!r}: {text} {error}") from None
    return values, named


def _scalar(text, kind, size):
    """NumPy's scalar for a parameter of this kind and size. ValueError, whose text follows the argument's."""
    if kind in BY_VALUE:
        raise ValueError(
            f"is for {BY_VALUE[kind]} by value, which a launch here cannot give: run a main(), or use Python"
        )
    try:
        value = ast.literal_eval({"true": "True", "false": "False"}.get(text, text))
        number = float(value) if kind == "f" else int(value)
    except (ValueError, SyntaxError, TypeError, OverflowError):
        raise ValueError("is not a number for that parameter; write it out, without operators or suffixes") from None
    if kind == "f":
        with np.errstate(over="ignore"):
            scalar = DTYPES[kind, size].type(number)
        if math.isfinite(number) and not np.isfinite(scalar):
            raise ValueError(f"does not fit that parameter, a float of {size} bytes")
        return scalar
    low, high = (0, 1) if kind == "b" else _limits(size)
    if number != value:
        raise ValueError("is not a whole number, as that parameter's type needs")
    if not low <= number <= high:
        what = "a bool" if kind == "b" else f"an integer of {size} bytes"
        raise ValueError(f"does not fit that parameter, {what}: it must lie between {low} and {high}")
    unsigned = kind == "i" and number > high // 2
    return (np.dtype(f"u{size}") if unsigned else DTYPES[kind, size]).type(number)


def _limits(size):
    """The least and the largest number of an integer of `size` bytes, signed or unsigned: a Parameter does not say."""
    return -(1 << 8 * size - 1), (1 << 8 * size) - 1


def _array(maker, text, parameter, random):
    """An array of elements of the pointer's type. ValueError, whose text follows the argument's."""
    component, columns = _components(parameter)
    dtype = np.dtype([(name, component) for name in "xyzw"[:columns]]) if columns else component
    try:
        sizes = ast.literal_eval(f"({text},)")
    except (ValueError, SyntaxError):
        sizes = (None,)
    if not all(type(size) is int for size in sizes):
        raise ValueError("is no array: its sizes must be numbers, whole and written out")
    if maker == "arange" and (len(sizes) > 3 or sizes[2:] == (0,)):
        raise ValueError("is no array: arange takes a start, a stop and a step that is not 0")
    if maker == "randint" and sizes[-1] < 1:
        raise ValueError("is no array: its last number, which all integers stay below, must be at least 1")
    if maker == "arange":
        shape = (len(range(*sizes)),)
    else:
        shape = sizes[:-1] if maker == "randint" else sizes
    if min(shape, default=0) < 0:
        raise ValueError("is no array: its sizes must be 0 or more")
    if maker != "sparse" and math.prod(shape) * max(dtype.itemsize, 8) > MEMORY:
        raise ValueError(f"is more than this machine's {MEMORY:,} bytes of memory: make it smaller, or sparse")
    if maker in WITHOUT_VALUES:
        array = sparse(shape, dtype) if maker == "sparse" else np.zeros(shape, dtype)
        return Unwritten(array) if maker == "empty" else array
    if component.kind == "V":
        choice = " or ".join(WITHOUT_VALUES)
        raise ValueError(f"is for structs of {dtype.itemsize} bytes, whose members are not known: write {choice}")
    values = _values(maker, sizes, shape + (columns,) * bool(columns), component, random)
    return values.view(dtype)[..., 0] if columns else values


def _components(parameter):
    """(dtype, n) of what a pointer points to: of n components if it is one of CUDA's vector types, else n is 0."""
    kind, size, columns = parameter.pointee.decode(), parameter.pointee_size, parameter.components
    if kind == "p":
        raise ValueError("is for a table of pointers, which a launch here cannot give: run a main(), or use Python")
    if columns:
        return DTYPES[parameter.component.decode(), size // columns], columns
    return DTYPES.get((kind, size)) or np.dtype(f"V{size}" if size > 1 else np.uint8), 0


def _values(maker, sizes, shape, dtype, random):
    """An array of this shape with the values that `maker` stands for."""
    number = dtype.kind in "fc" or dtype == BFLOAT16_BITS
    if maker == "arange":
        column = np.arange(*sizes).reshape(-1, *[1] * (len(shape) - 1))
        values = np.broadcast_to(column, shape)
    elif maker == "ones":
        values = np.ones(shape)
    elif maker == "randint":
        values = random.integers(0, sizes[-1], shape)
    elif number:
        values = random.standard_normal(shape)
    else:
        values = random.integers(0, 2 if dtype.kind == "b" else 100, shape)
    if dtype.kind == "c" and maker == "rand":
        values = values + 1j * random.standard_normal(shape)
    if dtype == BFLOAT16_BITS:
        bits = values.astype(np.float32).view(np.uint32)
        values = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16  # rounded to nearest even
    elif dtype.kind == "i" and values.size:
        low, high = _limits(dtype.itemsize)
        if values.min() < low or values.max() > high:
            raise ValueError(f"has numbers that do not fit an integer of {dtype.itemsize} bytes, {low} to {high}")
    return np.ascontiguousarray(values, dtype)

"""Launches on the command line: `saxpy<<<4, 256>>>(rand(1000), y=zeros(1000), 2.0, 1000)`.

An argument is a number, cast to the parameter's type, or an array of the pointer's type: `rand(1000)`, `rand(20, 50)`
(normal numbers, or integers from 0 to 99), `randint(1000, 8)` (integers below 8), `zeros(...)`, `ones(...)`,
`arange(...)`, `empty(...)` (the kernel must write before it reads), `sparse(...)` (for offsets beyond 2^31).
`y=zeros(9)` names an array; `y` alone passes it again. Next: check.py.
"""

import ast
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
MAKERS = ("rand", "randint", "zeros", "ones", "arange", "empty", "sparse")


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
    shared = _size(settings[2], text)[0] if len(settings) == 3 else 0
    arguments = tuple(part.strip() for part in split(match[3])) if match[3].strip() else ()
    return LaunchText(text.strip(), re.sub(r"\s*<", "<", match[1]), grid, block, shared, arguments)


def _size(text, launch):
    try:
        value = ast.literal_eval(text.removeprefix("dim3").strip())
    except (ValueError, SyntaxError):
        raise LaunchError(f"{launch!r}: {text} is not a number or (x, y, z)") from None
    value = value if isinstance(value, tuple) else (value,)
    if not all(isinstance(number, int) for number in value):
        raise LaunchError(f"{launch!r}: {text} is not a number or (x, y, z)")
    return value


def arguments(launch, parameters, random):
    """(arguments for RawKernel, {name: array}) of a LaunchText; `parameters` are RawKernel's, `random` a generator."""
    if len(launch.arguments) != len(parameters):
        given, most = len(launch.arguments), len(parameters)
        raise LaunchError(f"{launch.text!r}: the kernel takes {most} arguments, the launch gives {given}")
    values, named = [], {}
    for number, (text, (name, parameter, _)) in enumerate(zip(launch.arguments, parameters, strict=True)):
        kind, size = parameter.kind.decode(), parameter.size
        match = ARGUMENT.fullmatch(text)
        if kind != "p":
            values.append(_scalar(text, kind, size, launch))
        elif text in named:
            values.append(named[text])
        elif match and match[2] in MAKERS:
            dtype = DTYPES.get((parameter.pointee.decode(), parameter.pointee_size), np.dtype(np.uint8))
            array = _array(match[2], match[3], dtype, random, text)
            named[match[1] or name or f"argument {number}"] = array
            values.append(array)
        else:
            raise LaunchError(f"{launch.text!r}: {text} is no array; there are {', '.join(MAKERS)}")
    return values, named


def _scalar(text, kind, size, launch):
    try:
        value = ast.literal_eval(text)
        return DTYPES[kind, size].type(value)
    except (ValueError, SyntaxError, KeyError, OverflowError, TypeError):
        raise LaunchError(f"{launch.text!r}: {text} is not a number for that parameter") from None


def _array(maker, sizes, dtype, random, text):
    try:
        sizes = ast.literal_eval(f"({sizes},)")
    except (ValueError, SyntaxError):
        raise LaunchError(f"{text}: its sizes must be numbers") from None
    if maker == "randint":
        return random.integers(0, sizes[-1], sizes[:-1]).astype(dtype)
    if maker == "rand":
        numbers = random.standard_normal(sizes) if dtype.kind == "f" else random.integers(0, 100, sizes)
        return numbers.astype(dtype)
    if maker == "sparse":
        return sparse(sizes, dtype)
    if maker == "empty":
        return Unwritten(np.zeros(sizes, dtype))
    return getattr(np, maker)(*sizes, dtype=dtype) if maker == "arange" else getattr(np, maker)(sizes, dtype)

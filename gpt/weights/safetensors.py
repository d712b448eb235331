"""The safetensors format: weights are written by its library, and read tensor by tensor into a model's own memory.

The library's loaders map or copy a whole file, which takes the model's size twice; here the only copy is the model's
own. A file is 8 bytes (the length of the header, little-endian), the header, which is JSON
{name: {"dtype", "shape", "data_offsets": [begin, end]}}, and the data.
"""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import safetensors.numpy

import tinytensor as tt
from gpt.errors import UserError
from gpt.files import parse_json, require_regular

# NumPy has no bfloat16, which is the upper half of a float32.
DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
MAX_HEADER = 100_000_000  # bytes, as in the format's own library
CHUNK = 1 << 20  # elements converted at once
MAX_NAMED = 3  # of several mismatches, how many are named


@dataclass(frozen=True)
class Entry:
    """Where a tensor is stored: file, dtype by the format's name, shape, first byte, and which version of the file."""

    path: Path
    kind: str
    shape: tuple[int, ...]
    begin: int
    version: tuple[int, int]


def host_arrays(state: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The arrays of a state dict as contiguous NumPy arrays."""
    return {name: np.asarray(tt.to_numpy(value), order="C") for name, value in state.items()}


def write(path: Path, arrays: dict[str, np.ndarray], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file. OSError or SafetensorError if it cannot be written."""
    path.touch()
    mode = path.stat().st_mode  # as the umask has it; the library's files are for their owner alone
    safetensors.numpy.save_file(arrays, path, metadata=metadata)
    path.chmod(mode)


def version(status: os.stat_result) -> tuple[int, int]:
    """What differs between a file and the one that replaces it: inode, which can be used again, and time in ns."""
    return status.st_ino, status.st_mtime_ns


def entries(path: Path) -> dict[str, Entry]:
    """{name: Entry} of a safetensors file. UserError if it is corrupt; FileNotFoundError if it does not exist."""
    try:
        require_regular(path)
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            length = int.from_bytes(file.read(8), "little")
            if length > min(status.st_size, MAX_HEADER):
                raise ValueError("its header is truncated")
            header = parse_json(file.read(length))
        header.pop("__metadata__", None)
        found = {name: entry(path, name, content, 8 + length, status) for name, content in header.items()}
        spans = sorted(content["data_offsets"] for content in header.values())
        if [0, *(end for _, end in spans)] != [*(begin for begin, _ in spans), status.st_size - 8 - length]:
            raise ValueError("its tensors overlap or leave gaps")
        return found
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f"{path}: corrupt ({error})") from None


def entry(path: Path, name: str, content: Mapping[str, Any], data: int, status: os.stat_result) -> Entry:
    """The Entry of a tensor in a file of that status whose data begins at `data`; ValueError if it is truncated."""
    kind, shape, (begin, end) = content["dtype"], tuple(content["shape"]), content["data_offsets"]
    if not all(type(number) is int and number >= 0 for number in (*shape, begin, end)):
        raise ValueError(f"{name} has the shape {shape} at {begin} to {end}")
    # a dtype that is not read here may be that of a tensor that is not needed
    expected = math.prod(shape) * np.dtype(DTYPES[kind]).itemsize if kind in DTYPES else end - begin
    if not begin <= end <= status.st_size - data or end - begin != expected:
        raise ValueError(f"{name} is truncated")
    return Entry(path, kind, shape, data + begin, version(status))


class Place(Protocol):
    """Where a tensor is read to: an array, perhaps a view, and the shape that the tensor has in the file."""

    @property
    def view(self) -> np.ndarray:
        """With the elements in the file's order."""

    @property
    def shape(self) -> tuple[int, ...]:
        """In the file."""


def fill(parameters: Mapping[str, Place], found: Mapping[str, Entry]) -> None:
    """Read the entries `found` {name: Entry} into `parameters` {name: Place}.

    Raises ValueError that names what is missing, unexpected or of the wrong shape, and UserError for a dtype that is
    not read here, before anything is changed.
    """
    mismatches = [f"missing {name}" for name in parameters if name not in found]
    mismatches += [f"unexpected {name}" for name in found if name not in parameters]
    mismatches += [
        f"{name} has shape {found[name].shape}, needs {parameter.shape}"
        for name, parameter in parameters.items()
        if name in found and found[name].shape != parameter.shape
    ]
    if mismatches:
        more = f" and {len(mismatches) - MAX_NAMED} more" if len(mismatches) > MAX_NAMED else ""
        raise ValueError("; ".join(mismatches[:MAX_NAMED]) + more)
    for name, entry in found.items():
        if entry.kind not in DTYPES:
            kinds = ", ".join(DTYPES)
            raise UserError(f"{entry.path}: {name} has dtype {entry.kind}, not one of {kinds}: save it as float32")
    for name, parameter in parameters.items():
        read_view(found[name], parameter.view)


def read_view(entry: Entry, view: np.ndarray) -> None:
    """Read a tensor into an array of any strides, as many rows at a time as make a chunk."""
    if view.flags.c_contiguous:
        read(entry, view.reshape(-1))
        return
    row = math.prod(view.shape[1:])
    count = max(1, CHUNK // max(1, row))
    for begin in range(0, len(view), count):
        rows = view[begin : begin + count]
        values = np.empty(rows.shape, view.dtype)
        read(entry, values.reshape(-1), begin * row)
        rows[...] = values


def read(entry: Entry, out: np.ndarray, first: int = 0) -> None:
    """Read elements of a tensor, from `first` on, into a contiguous array `out` (N,), converting chunk by chunk."""
    dtype = np.dtype(DTYPES[entry.kind])
    with open(entry.path, "rb") as file:
        if version(os.fstat(file.fileno())) != entry.version:  # by a training that goes on
            raise UserError(f"{entry.path}: was replaced while it was read: give the command again")
        file.seek(entry.begin + first * dtype.itemsize)
        for begin in range(0, len(out), CHUNK):
            target = out[begin : begin + CHUNK]
            same = entry.kind != "BF16" and dtype == out.dtype
            chunk = target if same else np.empty(len(target), dtype)
            if file.readinto(chunk.view(np.uint8).data) != chunk.nbytes:
                raise UserError(f"{entry.path}: is shorter than when it was opened")
            if entry.kind == "BF16":
                target[:] = (chunk.astype(np.uint32) << 16).view(np.float32)
            elif not same:
                target[:] = chunk


def has_values(entry: Entry, array: np.ndarray) -> bool:
    """Whether a tensor in a file has the shape of a contiguous array and, converted to its dtype, the same values."""
    if entry.shape != array.shape or entry.kind not in DTYPES:
        return False
    values = array.reshape(-1)
    for begin in range(0, len(values), CHUNK):
        expected = values[begin : begin + CHUNK]
        found = np.empty_like(expected)
        read(entry, found, begin)
        if not np.array_equal(found, expected, equal_nan=True):
            return False
    return True

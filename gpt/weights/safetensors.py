"""Weight files in safetensors format, read tensor by tensor straight into the memory of a model.

Floor 5, above `errors`. The libraries' loaders map or copy a whole file, which needs the model's size twice; here the
only copy is the model's own. A file is 8 bytes (the length of the header, little-endian), the header, which is JSON
{name: {"dtype", "shape", "data_offsets": [begin, end]}}, and the data. Read `gpt.weights.load` next.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gpt.errors import UserError

# bfloat16, which NumPy has not, is the upper half of a float32
DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
PIECE = 1 << 20  # numbers converted at once
NAMED = 3  # of several faults, how many are named


@dataclass(frozen=True)
class Entry:
    """Where a tensor lies."""

    path: Path
    kind: str
    shape: tuple
    begin: int


def entries(path):
    """{name: Entry} of a safetensors file. UserError if it is damaged; FileNotFoundError if it is not there."""
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > size:
                raise ValueError("its header is cut off")
            header = json.loads(file.read(length))
        return {
            name: entry(path, name, content, 8 + length, size)
            for name, content in header.items()
            if name != "__metadata__"
        }
    except FileNotFoundError:
        raise
    except (OSError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f"{path}: damaged ({error})") from None


def entry(path, name, content, data, size):
    """The Entry of a tensor in a file of `size` bytes whose data begins at `data`; ValueError if that cannot be."""
    kind, shape, (begin, end) = content["dtype"], tuple(content["shape"]), content["data_offsets"]
    if kind not in DTYPES:
        raise UserError(f"{path}: {name} is of type {kind}, none of {', '.join(DTYPES)}: save it as float32")
    if not 0 <= begin <= end <= size - data or end - begin != math.prod(shape) * np.dtype(DTYPES[kind]).itemsize:
        raise ValueError(f"{name} is cut off")
    return Entry(path, kind, shape, data + begin)


def fill(parameters, found):
    """Read the entries `found` {name: Entry} into `parameters` {name: Tensor on the CPU}.

    Raises ValueError that names what is missing, unexpected or misshaped, before anything is changed.
    """
    faults = [f"missing {name}" for name in parameters if name not in found]
    faults += [f"unexpected {name}" for name in found if name not in parameters]
    faults += [
        f"{name} has shape {found[name].shape}, needs {parameter.shape}"
        for name, parameter in parameters.items()
        if name in found and found[name].shape != parameter.shape
    ]
    if faults:
        more = f" and {len(faults) - NAMED} more" if len(faults) > NAMED else ""
        raise ValueError("; ".join(faults[:NAMED]) + more)
    for name, parameter in parameters.items():
        read(found[name], parameter.data.reshape(-1))  # a view: parameters are contiguous


def read(where, out):
    """Read a tensor into a contiguous array `out` (N,), converting its type piece by piece."""
    dtype = np.dtype(DTYPES[where.kind])
    with open(where.path, "rb") as file:
        file.seek(where.begin)
        for begin in range(0, len(out), PIECE):
            target = out[begin : begin + PIECE]
            same = where.kind != "BF16" and dtype == out.dtype
            piece = target if same else np.empty(len(target), dtype)
            if file.readinto(piece.view(np.uint8)) != piece.nbytes:
                raise UserError(f"{where.path}: is shorter than when it was opened")
            if where.kind == "BF16":
                target[:] = (piece.astype(np.uint32) << 16).view(np.float32)
            elif not same:
                target[:] = piece

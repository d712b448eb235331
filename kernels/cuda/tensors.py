"""Tables of tensors, for kernels that work on many of them in one launch (tensors.cuh).

A step of a GPT-2 updates 148 tensors, most of them small: launched one by one, the launches would take longer than the
work. A table is copied to the device in one transfer, which does not synchronize it.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from kernels.cuda.launch import KernelArgumentError, device_namespace


class Table(NamedTuple):
    """Arrays of the device, as tensors.cuh takes them."""

    addresses: list  # one array (tensors,) uint64 for each list of tensors
    sizes: Any  # (tensors,) int64
    first_blocks: Any  # (tensors,) int32
    tensors: int
    blocks: int  # of a launch over all of them


def make_table(lists: Sequence[Sequence[Any]], block_values: int) -> Table:
    """A table of tensors that are C-contiguous: lists of equally many, those at one place in the lists of one size.

    Parameters stay where they are, and CuPy's pool gives the gradients of each step the same memory, so the same
    addresses come again and again: the last tables are kept. Raises KernelArgumentError for a tensor on another device
    than the first.
    """
    first = lists[0][0]
    device = first.data.device_id
    memory = [(x, x.data) for tensors in lists for x in tensors]
    for x, data in memory:
        if data.device_id != device:
            where = f"a tensor of shape {x.shape} is on device {data.device_id}"
            raise KernelArgumentError(f"{where}: the others are on device {device}")
    sizes = tuple([x.size for x in lists[0]])
    return _table(device_namespace(first), device, tuple([int(data.ptr) for _, data in memory]), sizes, block_values)


@functools.lru_cache(maxsize=16)
def _table(xp, device: int, addresses: tuple[int, ...], sizes: tuple[int, ...], block_values: int) -> Table:
    """The table of tensors at these addresses of a device, those of a list one after the other."""
    tensors, lists = len(sizes), len(addresses) // len(sizes)
    ends = np.cumsum([-(-size // block_values) for size in sizes])
    host = np.zeros((lists + 2, tensors), np.uint64)
    host[:-2] = np.array(addresses, np.uint64).reshape(lists, tensors)
    host[-2] = sizes
    host[-1].view(np.int32)[:tensors] = np.concatenate([[0], ends[:-1]])
    rows = xp.asarray(host)
    first_blocks = rows[-1].view(np.int32)[:tensors]
    return Table([rows[i] for i in range(lists)], rows[-2].view(np.int64), first_blocks, tensors, int(ends[-1]))

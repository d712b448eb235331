"""Tables of tensors, for kernels that work on many of them in one launch (tensors.cuh).

A step of a GPT-2 updates 148 tensors, most of them small: launched one by one, the launches would take longer than the
work. A table is copied to the device in one transfer, which does not synchronize it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from kernels.cuda.launch import check, device_namespace


class Table(NamedTuple):
    """Arrays of the device, as tensors.cuh takes them."""

    addresses: list  # one array (tensors,) uint64 for each list of tensors
    sizes: Any  # (tensors,) int64
    first_blocks: Any  # (tensors,) int32
    tensors: int
    blocks: int  # of a launch over all of them


def make_table(lists: Sequence[Sequence[Any]], block_values: int) -> Table:
    """A table of tensors that are C-contiguous: lists of equally many, those at one place in the lists of one size.

    Raises KernelArgumentError for a tensor on another device than the first.
    """
    first = lists[0][0]
    xp = device_namespace(first)
    sizes = np.array([x.size for x in lists[0]])
    ends = np.cumsum(-(-sizes // block_values))
    for x in (x for tensors in lists for x in tensors):
        where = f"a tensor of shape {x.shape} is on device {x.device.id}: the others are on device {first.device.id}"
        check(x.device.id == first.device.id, where)
    host = np.zeros((len(lists) + 2, len(sizes)), np.uint64)
    host[:-2] = [[x.data.ptr for x in tensors] for tensors in lists]
    host[-2] = sizes
    host[-1].view(np.int32)[: len(sizes)] = np.concatenate([[0], ends[:-1]])
    rows = xp.asarray(host)
    first_blocks = rows[-1].view(np.int32)[: len(sizes)]
    return Table([rows[i] for i in range(len(lists))], rows[-2].view(np.int64), first_blocks, len(sizes), int(ends[-1]))

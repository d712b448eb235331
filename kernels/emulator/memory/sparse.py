"""Arrays larger than the machine's memory, to launch a kernel whose offsets pass 2^31.

Only pages that are touched take memory, so a kernel that visits a few elements far apart costs little. A checked launch
leaves such an array where it is: after a fault it holds what the kernel wrote until then.
"""

import mmap

import numpy as np

NORESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)


class SparseArray(np.ndarray):
    """A NumPy array whose pages come into being when they are touched."""


def reserve(size):
    """So many bytes of which only the touched pages take memory, between two pages that belong to nobody."""
    page = mmap.PAGESIZE
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NORESERVE
    return np.ndarray(size, np.uint8, buffer=mmap.mmap(-1, size + 2 * page, flags=flags), offset=page)


def sparse(shape, dtype=np.float32):
    """An array of zeros of which only the touched pages take memory: `sparse((3 << 30,))` is 12 GiB of addresses."""
    dtype = np.dtype(dtype)
    memory = reserve(int(np.prod(shape, dtype=np.int64)) * dtype.itemsize)
    return np.ndarray(shape, dtype, buffer=memory).view(SparseArray)

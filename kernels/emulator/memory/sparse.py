"""Arrays larger than the machine's memory, to launch a kernel whose offsets pass 2^31.

Only pages that are touched take memory, so a kernel that visits a few elements far apart costs little. A checked launch
leaves such an array where it is: after a fault it holds what the kernel wrote until then.
"""

import mmap

import numpy as np

NORESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)


class SparseArray(np.ndarray):
    """A NumPy array whose pages come into being when they are touched."""


def sparse(shape, dtype=np.float32):
    """An array of zeros of which only the touched pages take memory: `sparse((3 << 30,))` is 12 GiB of addresses."""
    dtype, page = np.dtype(dtype), mmap.PAGESIZE
    count = int(np.prod(shape, dtype=np.int64))
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NORESERVE
    memory = mmap.mmap(-1, count * dtype.itemsize + 2 * page, flags=flags)  # a page at each end that belongs to nobody
    return np.ndarray(shape, dtype, buffer=memory, offset=page).view(SparseArray)

"""The emulated device's arrays by address, for kernels that are given tables of addresses.

A table of type `uint64`, for a parameter such as `float *const *tensors`, says where a kernel may read and write
besides its own arguments, and so does an address that is passed as a number. A checked launch leaves these arrays where
they are, as it does with sparse ones (sparse.py).
"""

import weakref

from kernels.emulator.record import Region

_owners: weakref.WeakValueDictionary = weakref.WeakValueDictionary()  # by the address of their first byte


def register(array):
    """Note that `array` owns its memory, for as long as it lives."""
    _owners[address(array.host)] = array


def address(host):
    """Where a NumPy array begins."""
    return host.__array_interface__["data"][0]


def owners(table):
    """The arrays that begin at the addresses in a table."""
    return [_owners[int(pointer)] for pointer in table.reshape(-1)]


def is_pointer(number):
    """Whether a number is the address of something in an array, or null."""
    return number == 0 or any(start <= number < start + a.host.nbytes for start, a in list(_owners.items()))


def regions(arguments):
    """The Regions of all arrays that are in the tables among the arguments, each owner once."""
    wanted = {}
    for a in arguments:
        if a.addresses and a.memory is None:
            wanted[int(a.value)] = a.name
        elif a.addresses:
            wanted |= {int(pointer): f"{a.name}[{i}]" for i, pointer in enumerate(a.memory.reshape(-1))}
    found = {}
    for start, array in list(_owners.items()) if wanted else ():
        names = [name for pointer, name in wanted.items() if start <= pointer < start + array.host.nbytes]
        if names:
            found[start] = array, min(names)
    return [_region(start, array, name) for start, (array, name) in found.items()]


def _region(start, array, name):
    kind = str(array.host.dtype).encode()
    written = None if array.written is None else array.written.ctypes.data
    return Region(
        base=start,
        bytes=array.host.nbytes,
        name=name.encode(),
        type=kind,
        item=array.host.itemsize,
        written=written,
        host=start,
    )

"""Keeps freed memory for the next array of that size.

By default the C library gives every large array back to the system when it is freed and asks for a new one
at the next step, whose pages the system must then clear and map one by one, 4 KiB each. In training, where each step
allocates what the last one freed, that costs about as much as all elementwise arithmetic together.
"""

from __future__ import annotations

import ctypes
from typing import Any

# from glibc's <malloc.h>
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
LARGEST = 2**31 - 1


def keep_freed_memory() -> bool:
    """Tell the C library to reuse freed memory instead of returning it; False where it has no such setting.

    It holds for the whole process, so programs call it, not libraries. Only glibc has `mallopt`.
    """
    mallopt = _from_libc("mallopt")
    if mallopt is None:
        return False
    # one arena: those of other threads are made of 64 MiB pieces, too small for large arrays
    settings = {M_MMAP_THRESHOLD: 2**27, M_TRIM_THRESHOLD: LARGEST, M_ARENA_MAX: 1}
    return all(mallopt(name, value) for name, value in settings.items())


def return_freed_memory() -> None:
    """Give what is freed now back to the system once, as before a fork, which would keep a copy of it."""
    malloc_trim = _from_libc("malloc_trim")
    if malloc_trim is not None:
        malloc_trim(0)


def _from_libc(name: str) -> Any:
    """A function of glibc, or None where there is none."""
    try:
        return getattr(ctypes.CDLL("libc.so.6"), name)
    except (OSError, AttributeError):
        return None

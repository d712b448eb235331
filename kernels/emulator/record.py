"""The ctypes twins of scheduler.h's structs and of device.h's Parameter: what Python and the runtime say to each other.

Next: module.py, which fills them in.
"""

import ctypes
from ctypes import c_char, c_char_p, c_int, c_int32, c_int64, c_uint32, c_uint64, c_void_p


class Parameter(ctypes.Structure):
    """One parameter of a kernel as the compiler sees it.

    Kinds are NumPy's, with "i" any integer, "p" a pointer, "a" CuPy's CArray, of `size` dimensions and items of
    `pointee_size` bytes. A pointee that is one of CUDA's vector types, such as float4, is of kind "v" and has
    `components` of the kind `component`.
    """

    _fields_ = [("kind", c_char), ("pointee", c_char), ("component", c_char), ("size", c_int), ("pointee_size", c_int)]
    _fields_ += [("constant", c_int), ("components", c_int)]


class Region(ctypes.Structure):
    """A stretch of memory that a checked launch may touch."""

    _fields_ = [
        ("base", c_void_p),
        ("bytes", c_int64),
        ("name", c_char_p),
        ("type", c_char_p),
        ("item", c_int64),
        ("written", c_void_p),
        ("shared", c_int32),
        ("stored", c_int32),
        ("read_only", c_int32),
        ("part", c_int32),
        ("group", c_int32),
        ("host", c_void_p),
    ]


class Counts(ctypes.Structure):
    """What a checked launch did, see checks.Launch."""

    _fields_ = [
        (name, c_int64)
        for name in (
            "bytes_read",
            "bytes_written",
            "unique_bytes_read",
            "unique_bytes_written",
            "shared_bytes_read",
            "shared_bytes_written",
            "atomics",
            "barriers",
            "flops",
            "special",
        )
    ]


class LaunchRecord(ctypes.Structure):
    """One launch on its way to the runtime, and its first fault on the way back."""

    _fields_ = [
        ("call", c_void_p),
        ("arguments", ctypes.POINTER(c_void_p)),
        ("grid", c_uint32 * 3),
        ("block", c_uint32 * 3),
        ("dynamic_shared", c_int64),
        ("dynamic_shared_memory", c_void_p),
        ("anchor", c_void_p),
        ("shared_offset", c_int64),
        ("shared_bytes", c_int64),
        ("workers", c_int32),
        ("checked", c_int32),
        ("same_value_writes", c_int32),
        ("count_lines", c_int32),
        ("flush_to_zero", c_int32),
        ("uncooperative", c_int32),
        ("seed", c_uint64),
        ("regions", ctypes.POINTER(Region)),
        ("region_count", c_int64),
        ("image_begin", c_void_p),
        ("image_end", c_void_p),
        ("counts", Counts),
        ("notes", c_void_p),
        ("notes_size", c_int64),
        ("fault", c_int32),
        ("pcs", c_uint64 * 2),
        ("message", c_char * 1024),
    ]

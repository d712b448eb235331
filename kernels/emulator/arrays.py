"""The emulated device's array: NumPy memory that behaves as a CuPy array does where code goes wrong.

`ndarray` holds its values in `host`, but nothing gets at them by accident: NumPy arrays do not mix with it, implicit
conversion raises, every result is an array (0-d rather than a number), and reading a value on the host is an explicit
act that `no_synchronization` can forbid. A view keeps its owner in `base`, so live bytes are counted exactly.
Where CuPy would be lenient this is strict: NumPy's functions refuse the array (CuPy's dispatch would take it), an
index out of bounds raises (CuPy wraps it round), an array of a device that is not current takes part in nothing but
copies (CuPy may use peer access), and fresh memory is poisoned. Sums and products of 16-bit arrays are accumulated in
float32, and products of float32 matrices may be TF32, as CuPy's are. Read `cupy_like.py` next.
"""

from __future__ import annotations

import math
import os
import threading
from contextlib import contextmanager
from numbers import Number

import numpy as np

from kernels.dtypes import BFLOAT16, is_floating, is_sixteen_bit
from kernels.emulator import checks, cuda_like
from kernels.emulator.dry_run import allocate, current_recorder
from kernels.emulator.memory import live

# Parameters are CuPy's, in CuPy's order; those after * by keyword only. CuPy has more names than these.
UFUNC_NAMES = """
abs absolute add bitwise_and bitwise_or bitwise_xor cos divide equal exp floor floor_divide greater greater_equal invert
isfinite isinf isnan left_shift less less_equal log logaddexp logical_and logical_not logical_or matmul maximum minimum
multiply negative not_equal power remainder right_shift sign sin sqrt square subtract tanh true_divide
"""
UFUNCS = frozenset(UFUNC_NAMES.split())
OF_DTYPES = (np.result_type, np.iscomplexobj)  # NumPy's functions that CuPy's arrays answer without their values
dispatches_numpy = False  # whether NumPy's functions take these arrays, as they do CuPy's: tool/plugin.py sets it
METHODS = {
    "all": "axis out keepdims",
    "any": "axis out keepdims",
    "argmax": "axis out * keepdims",
    "argmin": "axis out * keepdims",
    "argsort": "axis kind",
    "astype": "dtype order * copy",
    "copy": "order",
    "clip": "min max out",
    "conj": "",
    "cumprod": "axis dtype out",
    "cumsum": "axis dtype out",
    "diagonal": "offset axis1 axis2",
    "dot": "b out",
    "flatten": "order",
    "max": "axis out keepdims",
    "mean": "axis dtype out keepdims",
    "min": "axis out keepdims",
    "nonzero": "",
    "prod": "axis dtype out keepdims",
    "ravel": "order",
    "repeat": "repeats axis",
    "round": "decimals out",
    "std": "axis dtype out ddof keepdims",
    "sum": "axis dtype out keepdims",
    "swapaxes": "axis1 axis2",
    "take": "indices axis out",
    "trace": "offset axis1 axis2 dtype out",
    "var": "axis dtype out ddof keepdims",
    "view": "dtype",
}
OPERATORS = {
    "add": "add",
    "sub": "subtract",
    "mul": "multiply",
    "truediv": "true_divide",
    "floordiv": "floor_divide",
    "mod": "remainder",
    "pow": "power",
    "and": "bitwise_and",
    "or": "bitwise_or",
    "xor": "bitwise_xor",
    "lshift": "left_shift",
    "rshift": "right_shift",
    "matmul": "matmul",
}
COMPARISONS = {
    "eq": "equal",
    "ne": "not_equal",
    "lt": "less",
    "le": "less_equal",
    "gt": "greater",
    "ge": "greater_equal",
}
KEEPS_ORDER = frozenset(("astype", "copy", "zeros_like", "ones_like", "full_like", "empty_like"))
PRODUCTS = ("dot", "matmul")
SUMS = frozenset((*PRODUCTS, "mean", "prod", "std", "sum", "var"))
MARGIN = 4096  # bytes around an array: a kernel that writes past its end must not reach what keeps the process alive
NO_CONVERSION = "Implicit conversion to a NumPy array is not allowed. Please use `.get()` to construct one explicitly."


class HiddenSynchronization(RuntimeError):
    """The device was synchronized inside `no_synchronization`; the traceback shows where."""


_thread = threading.local()


@contextmanager
def no_synchronization():
    """Inside, whatever synchronizes the device (item, float, if, get, a boolean index) raises."""
    outer, _thread.forbidden = getattr(_thread, "forbidden", False), True
    try:
        yield
    finally:
        _thread.forbidden = outer


def synchronized(reason: str) -> None:
    """Note that the host synchronizes the device now."""
    if getattr(_thread, "forbidden", False):
        raise HiddenSynchronization(f"{reason} makes the host wait for the device")


class ndarray:
    """`cupy.ndarray(shape, dtype)` on the host: uninitialized memory, here filled with NaN or 0xCC bytes.

    host: the values. base: None, or the array that owns the memory this one looks into. written: None, or one byte for
    each of the memory, 0 where it was never written (only during the emulator's checked launches).
    """

    __slots__ = ("__weakref__", "_device", "_written", "base", "host")
    __array_priority__ = 100
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, shape, dtype=float, memptr=None, strides=None, order="C"):
        if memptr is not None or strides is not None:
            raise TypeError("the emulated device makes arrays of its own memory only: memptr and strides must be None")
        size = np.dtype(dtype).itemsize * math.prod(np.atleast_1d(shape).tolist()) + 2 * MARGIN
        in_earnest = current_recorder() is None
        host = np.ndarray(shape, dtype, np.empty(size, np.uint8) if in_earnest else allocate(size), MARGIN, order=order)
        if in_earnest:
            host.reshape(-1, order="A").view(np.uint8).fill(0xFF if is_floating(host.dtype) else 0xCC)
        self._own(host)
        if checks.current_request() is not None:
            self._written = np.zeros(host.nbytes, np.uint8)

    def _own(self, host) -> ndarray:
        self.host, self.base, self._written = host, None, None
        self._device = cuda_like.runtime.getDevice()
        cuda_like.POOL._take(host.nbytes, self._device)
        live.register(self)
        return self

    def __del__(self):
        if getattr(self, "base", self) is None and cuda_like is not None:  # the modules of a process that ends are gone
            cuda_like.POOL._give(self.host.nbytes, self._device)

    @property
    def written(self):
        owner = self if self.base is None else self.base
        if owner._written is None:
            return None
        start = self.host.ctypes.data - owner.host.ctypes.data
        return owner._written[start : start + self.host.nbytes]

    def _mark_written(self):
        """Something other than a kernel wrote here; the rest of the memory counts as written, too."""
        owner = self if self.base is None else self.base
        owner._written = None

    # ---- what it is ----

    @property
    def shape(self):
        return self.host.shape

    @property
    def dtype(self):
        return self.host.dtype

    @property
    def ndim(self):
        return self.host.ndim

    @property
    def size(self):
        return self.host.size

    @property
    def itemsize(self):
        return self.host.itemsize

    @property
    def nbytes(self):
        return self.host.nbytes

    @property
    def strides(self):
        return self.host.strides

    @property
    def flags(self):
        return cuda_like.Flags(self.host.flags, self.base is None)

    @property
    def data(self):
        return cuda_like.MemoryPointer(self, self._device)

    @property
    def device(self):
        return cuda_like.Device(self._device)

    def __len__(self):
        return len(self.host)

    def __iter__(self):
        if self.ndim == 0:
            raise TypeError("iteration over a 0-d array")
        return (self[i] for i in range(len(self)))

    # ---- to the host: each of these synchronizes the device ----

    def get(self, stream=None, order="C", out=None, blocking=True):
        """A copy as a NumPy array."""
        synchronized("get")
        if current_recorder():
            raise RuntimeError("in a dry run arrays have no values")
        if out is None:
            return np.array(self.host, order=order)
        np.copyto(out, self.host, casting="no")
        return out

    def item(self):
        """The value of an array with one element, as a Python number."""
        return self.get().item()

    def tolist(self):
        return self.get().tolist()

    def tobytes(self, order="C"):
        return self.get().tobytes(order)

    def __bool__(self):
        return bool(self.get())

    def __int__(self):
        return int(self.get())

    def __float__(self):
        return float(self.get())

    def __complex__(self):
        return complex(self.get())

    def __repr__(self):
        return repr(self.get())

    def __str__(self):
        return str(self.get())

    def __format__(self, spec):
        return format(self.get(), spec)

    def __reduce__(self):
        return from_host, (self.get(),)

    # ---- from the host ----

    def set(self, arr, stream=None):
        """Copy a NumPy array of the same shape and dtype into this one."""
        if not isinstance(arr, np.ndarray):
            raise TypeError("Only numpy.ndarray can be set to cupy.ndarray")
        if (arr.dtype, arr.shape) != (self.dtype, self.shape):
            raise ValueError(f"cannot set {arr.shape} {arr.dtype} to an array of {self.shape} {self.dtype}")
        self.host[...] = arr
        self._mark_written()

    def fill(self, value):
        self[...] = value

    def __array__(self, dtype=None, copy=None):
        raise TypeError(NO_CONVERSION)

    def __array_ufunc__(self, ufunc, method, *inputs, **kwargs):
        """`numpy.float32(2) * x` arrives here, and so would `numpy_array * x`, which raises TypeError."""
        if method != "__call__" or ufunc.__name__ not in UFUNCS:
            return NotImplemented
        if isinstance(kwargs.get("out"), tuple):
            (kwargs["out"],) = kwargs["out"]
        return call_ufunc(ufunc, *inputs, **kwargs)

    def __array_function__(self, function, types, args, kwargs):
        if function in OF_DTYPES:
            return function(*(np.empty(0, a.dtype) if isinstance(a, ndarray) else a for a in args), **kwargs)
        return call(function, function.__name__, *args, **kwargs) if dispatches_numpy else NotImplemented

    # ---- elements and shapes ----

    def __getitem__(self, index):
        index, is_mask = _index(index)
        if is_mask:
            synchronized("a boolean index")
        if recorder := current_recorder():
            return wrap(recorder.getitem(self.host, index), (self,))
        return wrap(self.host[index], (self,))

    def __setitem__(self, index, value):
        host_index, is_mask = _index(index)
        if is_mask:
            synchronized("a boolean index")
        if isinstance(value, np.ndarray) and value.ndim:
            raise ValueError("non-scalar numpy.ndarray cannot be used for fill")
        for array in (self, value):
            if isinstance(array, ndarray):
                cuda_like.check_current(array._device)
        value = value.host if isinstance(value, ndarray) else value
        if recorder := current_recorder():
            recorder.setitem(self.host[host_index], value)
        else:
            self.host[host_index] = value
        self._mark_written()

    @property
    def real(self):
        return wrap(self.host.real, (self,))

    @property
    def imag(self):
        return wrap(self.host.imag, (self,))

    @property
    def T(self):
        return self if self.ndim < 2 else self.transpose()

    @property
    def mT(self):
        return self.swapaxes(-1, -2)

    def reshape(self, *shape, order="C"):
        host = self.host.reshape(*shape, order=order)
        if recorder := current_recorder():
            recorder.view("reshape", self.host, host)
        return wrap(host, (self,))

    def transpose(self, *axes):
        return wrap(self.host.transpose(*axes), (self,))

    def squeeze(self, axis=None):
        squeezed = wrap(self.host.squeeze(axis), (self,))
        return self if squeezed.ndim == self.ndim else squeezed

    # ---- arithmetic; the operators and most methods are attached below ----

    def __neg__(self):
        return call_ufunc(np.negative, self)

    def __pos__(self):
        return self

    def __abs__(self):
        return call_ufunc(np.absolute, self)

    def __invert__(self):
        return call_ufunc(np.invert, self)


def from_host(host: np.ndarray) -> ndarray:
    """An array that owns the NumPy array `host`."""
    return ndarray.__new__(ndarray)._own(host)


def wrap(result, inputs, keeps_order: bool = False):
    """NumPy's result as arrays of the device: one of the `inputs` itself, a view into one, or new memory.

    CuPy's results are in C order unless the function promises to keep that of its input.
    """
    if isinstance(result, (tuple, list)):
        return type(result)(wrap(part, inputs, keeps_order) for part in result)
    host = np.asarray(result)  # a NumPy scalar becomes 0-d
    for x in inputs:
        if host is x.host:
            return x
        if _memory(host) is _memory(x.host):
            view = ndarray.__new__(ndarray)
            view.host, view.base, view._written = host, x if x.base is None else x.base, None
            view._device = x._device
            return view
    return from_host(host if keeps_order or host.flags.c_contiguous else np.ascontiguousarray(host))


def _memory(host: np.ndarray):
    """The NumPy array that owns the memory of `host`."""
    return host if host.base is None else host.base


def to_host(x, arrays: list, what: str):
    """`x` for a NumPy call: arrays become their host memory and are added to `arrays`; NumPy arrays raise TypeError."""
    if isinstance(x, ndarray):
        arrays.append(x)
        return x.host
    if isinstance(x, np.ndarray):
        raise TypeError(f"{what}: Unsupported type {type(x)}, move it to the device with asarray first")
    if isinstance(x, (list, tuple)):
        return type(x)([to_host(part, arrays, what) for part in x])
    return x


def call(function, name: str, *args, needs_array: bool = False, **kwargs):
    """A NumPy function or unbound method on arrays of the device; of numbers too, unless it `needs_array`."""
    arrays: list[ndarray] = []
    args = to_host(args, arrays, name)
    if needs_array and not arrays:
        raise TypeError(f"{name}() needs an array of the device, as in CuPy")
    out = kwargs.get("out")
    kwargs = {key: to_host(value, arrays, name) for key, value in kwargs.items()}
    for array in arrays:
        cuda_like.check_current(array._device)
    recorder = current_recorder()
    if not recorder and name in SUMS and any(is_sixteen_bit(array.dtype) for array in arrays):
        function = _summed_in_float32(function, name)
    elif name in PRODUCTS and os.environ.get("CUPY_TF32", "0") != "0":
        function = _in_tf32(function)
    with np.errstate(all="ignore"):  # a GPU raises no floating-point warnings
        values = recorder.call(function, name, args, kwargs) if recorder else function(*args, **kwargs)
        result = wrap(values, arrays, name in KEEPS_ORDER)
    if out is not None:
        out._mark_written()
    return result


def _summed_in_float32(function, name: str):
    """`function` of 16-bit arrays as CuPy has it: sums are accumulated in float32, and rounded at the end."""

    def apply(*args, out=None, **kwargs):
        dtype = np.result_type(*(x for x in args if isinstance(x, np.ndarray)))
        if dtype.name == BFLOAT16 and name in PRODUCTS and any(np.ndim(x) > 2 for x in args):
            raise TypeError(f"{name}: CuPy 14 has no products of bfloat16 arrays of more than two axes")
        wide = [x.astype(np.float32) if isinstance(x, np.ndarray) and is_sixteen_bit(x.dtype) else x for x in args]
        result = np.asarray(function(*wide, **kwargs)).astype(kwargs.get("dtype") or dtype)
        if out is not None:
            out[...] = result
        return result if out is None else out

    return apply


def _in_tf32(function):
    """A product as CuPy has it with CUPY_TF32=1: the factors of two float32 matrices keep 10 bits after the point."""

    def rounded(x):
        if not isinstance(x, np.ndarray) or x.dtype != np.float32 or x.ndim != 2:
            return x
        return ((x.view(np.uint32) + 0x1000) & 0xFFFFE000).view(np.float32)

    return lambda *args, **kwargs: function(*map(rounded, args), **kwargs)


def call_ufunc(ufunc, *args, **kwargs):
    """A ufunc with the keywords that CuPy's have; `out` may come by position."""
    name = ufunc.__name__
    check_arguments(name, frozenset(("out", "dtype", "casting")), ufunc.nargs, args, kwargs)
    for x in args[: ufunc.nin]:
        if not isinstance(x, (ndarray, np.ndarray, np.generic, Number)):
            raise TypeError(f"{name}: Unsupported type {type(x)}")
    if kwargs.get("out") is None:
        kwargs = {**kwargs, "order": "C"}
    bfloat16 = next((x.dtype for x in args if isinstance(x, ndarray) and x.dtype.name == BFLOAT16), None)
    if bfloat16:  # as with every other dtype, Python's numbers take that of the array; ml_dtypes would make float32
        args = tuple(bfloat16.type(x) if type(x) in (int, float) else x for x in args)
    return call(ufunc, name, *args, **kwargs)


def parameters(signature: str) -> tuple[list[str], frozenset[str]]:
    """Those that may come by position, and all that may come by keyword, of "a axis * kind"."""
    positional, _, keywords = signature.partition("*")
    return positional.split(), frozenset(positional.split() + keywords.split())


def check_arguments(name: str, keywords: frozenset[str], most: int, args, kwargs) -> None:
    """Raise TypeError for what NumPy takes but CuPy does not."""
    if len(args) > most:
        raise TypeError(f"{name}() takes at most {most} arguments by position, as in CuPy")
    for key in kwargs:
        if key not in keywords:
            raise TypeError(f"{name}() has no argument {key!r}, as in CuPy")


def _index(index) -> tuple[tuple, bool]:
    """The index for NumPy, and whether it has a boolean array; its Ellipsis makes a single element come as a view."""
    parts = index if isinstance(index, tuple) else (index,)
    parts = tuple(part.host if isinstance(part, ndarray) else _bounds(part) for part in parts)
    is_mask = any(getattr(part, "dtype", None) == np.bool_ for part in parts)
    return parts if any(part is Ellipsis for part in parts) else (*parts, Ellipsis), is_mask


def _bounds(part):
    """A slice whose bounds are numbers, even where they are arrays; as it is, any other part of an index."""
    if not isinstance(part, slice):
        return part
    return slice(*(int(x) if isinstance(x, ndarray) else x for x in (part.start, part.stop, part.step)))


def _operator(ufunc):
    def operator(self, other):
        if getattr(other, "__array_ufunc__", self) is None:
            return NotImplemented
        return call_ufunc(ufunc, self, other)

    return operator


def _reflected(ufunc):
    return lambda self, other: call_ufunc(ufunc, other, self)


def _in_place(ufunc):
    return lambda self, other: call_ufunc(ufunc, self, other, out=self)


def _method(name: str, signature: str):
    positional, keywords = parameters(signature)

    def method(self, *args, **kwargs):
        check_arguments(name, keywords, len(positional), args, kwargs)
        return call(getattr(np.ndarray, name), name, self, *args, **kwargs)

    method.__name__ = name
    return method


for _name, _ufunc in OPERATORS.items():
    setattr(ndarray, f"__{_name}__", _operator(getattr(np, _ufunc)))
    setattr(ndarray, f"__r{_name}__", _reflected(getattr(np, _ufunc)))
    if _name != "matmul":
        setattr(ndarray, f"__i{_name}__", _in_place(getattr(np, _ufunc)))
for _name, _ufunc in COMPARISONS.items():
    setattr(ndarray, f"__{_name}__", _operator(getattr(np, _ufunc)))
for _name, _signature in METHODS.items():
    setattr(ndarray, _name, _method(_name, _signature))

"""A dry run: what a program would enqueue on a GPU, from the shapes of its arrays alone.

    with dry_run() as operations:
        model(ids, targets).backward()

Inside, arrays of the emulated device have addresses but no values: nothing is computed, memory that nobody touches
takes no place, and each launch is recorded, those of CuPy's own kernels and of cuBLAS too. So the step of a model that
would take hours here, or more memory than there is, takes seconds. Names and numbers of launches are those of CuPy 14.
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

import numpy as np

from kernels.emulator.memory import live
from kernels.emulator.memory.sparse import reserve

_recorder: ContextVar[Recorder | None] = ContextVar("dry run", default=None)

CUB_TILE = 4096  # values that CUB sums in one kernel; more take two
LARGE = 1 << 20  # bytes
SORT_TILE = 2816  # values that thrust's merge sort sorts in one block
VIEWS = frozenset(("broadcast_to", "diagonal", "expand_dims", "ravel", "reshape", "swapaxes", "transpose", "view"))
REDUCTIONS = frozenset(("all", "any", "argmax", "argmin", "max", "mean", "min", "prod", "sum"))
FILLS = frozenset(("arange", "eye", "full", "ones", "ones_like", "tri", "zeros", "zeros_like"))


@dataclass(frozen=True)
class Operation:
    """One thing that the device is given to do.

    kind: "kernel" (a RawKernel), "elementwise", "reduction", "copy", "fill", "sort" (CuPy's), "product" (cuBLAS's) or
    "transfer" (from the host). launches: of kernels, memory fills and copies that it takes. read, written: bytes, each
    array's once. args: {parameter: an Array or a number} of a RawKernel. sizes: (M, N, K) of a
    product, itemsize that of its factors.
    """

    kind: str
    name: str
    read: int = 0
    written: int = 0
    operations: int = 0
    launches: int = 1
    args: dict = field(default_factory=dict)
    sizes: tuple[int, ...] = ()
    itemsize: int = 0


@dataclass(frozen=True)
class Array:
    """An array that a RawKernel was given. constant: a pointer to const."""

    shape: tuple[int, ...]
    dtype: np.dtype
    constant: bool

    @property
    def nbytes(self) -> int:
        """All of its bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


@contextmanager
def dry_run():
    """Inside, nothing is computed on the emulated device. Yields the list that collects an Operation for each launch.

    Arrays made inside hold nothing, afterwards too. Raises RuntimeError where a value is read, NotImplementedError for
    a function whose result's shape is not known here.
    """
    recorder = Recorder()
    token = _recorder.set(recorder)
    try:
        yield recorder.operations
    finally:
        _recorder.reset(token)


def current_recorder() -> Recorder | None:
    """That of the innermost `with dry_run():` of this thread, or None."""
    return _recorder.get()


class Recorder:
    """Takes the place of NumPy's functions: makes arrays of the right shape and notes what CuPy would launch."""

    def __init__(self):
        self.operations: list[Operation] = []

    def add(self, kind: str, name: str, **details) -> None:
        """Note an operation."""
        self.operations.append(Operation(kind, name, **details))

    def call(self, function, name: str, args: tuple, kwargs: dict):
        """What `function` would return, its values aside. Arrays are NumPy's, as in `arrays.call`."""
        if isinstance(function, np.ufunc):
            return self._ufunc(function, args, kwargs)
        if name in VIEWS:
            return self.view(name, args[0], function(*args, **kwargs))  # which reads no values
        if name in REDUCTIONS:
            return self._reduction(name, *args, **kwargs)
        if name in FILLS:
            return self._fill(function, name, args, kwargs)
        method = getattr(self, f"_{name}", None)
        if method is None:
            raise NotImplementedError(f"{name}: not known to a dry run; add it to dry_run.py")
        return method(*args, **kwargs)

    def launch(self, name: str, arguments: list) -> None:
        """Note the launch of a RawKernel with these Arguments."""
        args = {a.name: a.value.item() if a.memory is None else _array(a) for a in arguments}
        arrays = [a for a in args.values() if isinstance(a, Array)]
        read = sum(a.nbytes for a in arrays if a.constant)
        written = sum(a.nbytes for a in arrays if not a.constant)
        self.add("kernel", name, read=read, written=written, args=args)

    def transfer(self, array) -> None:
        """Note a copy from the host."""
        self.add("transfer", "from the host", written=array.nbytes)

    def getitem(self, x, index: tuple):
        """x[index]: a view, or for an array of indices along the first axis a copy."""
        if not isinstance(index[0], np.ndarray):
            return x[index]
        result = _empty((*index[0].shape, *x.shape[1:]), x.dtype)
        self.add("elementwise", "take", read=result.nbytes + index[0].nbytes, written=result.nbytes)
        return result

    def setitem(self, target, value) -> None:
        """target[...] = value."""
        kind = "copy" if isinstance(value, np.ndarray) else "fill"
        self.add(kind, kind, read=distinct_bytes(value), written=target.nbytes)

    def view(self, name: str, x, result):
        """Note the copy that `result` is if it is no view of x. Returns it."""
        if not np.may_share_memory(result, x):
            self.add("copy", name, read=distinct_bytes(x), written=result.nbytes)
        return result

    # ---- functions by kind; each returns the result ----

    def _ufunc(self, ufunc, args, kwargs):
        inputs, given = args[: ufunc.nin], args[ufunc.nin :]
        out = given[0] if given else kwargs.get("out")
        if ufunc is np.matmul:
            return self._product(*inputs, out)
        arrays = [x for x in inputs if isinstance(x, np.ndarray)]
        if out is None:
            kinds = [x.dtype if isinstance(x, (np.ndarray, np.generic)) else type(x) for x in inputs]
            dtype = kwargs.get("dtype") or ufunc.resolve_dtypes((*kinds, None))[-1]
            out = _empty(np.broadcast_shapes(*(x.shape for x in arrays)), dtype)
        read = sum(distinct_bytes(x) for x in arrays)
        self.add("elementwise", ufunc.__name__, read=read, written=out.nbytes, operations=out.size)
        return out

    def _product(self, a, b, out):
        rows, columns = (a.shape[-2:] if a.ndim > 1 else (1, len(a)))[0], b.shape[-1] if b.ndim > 1 else 1
        batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
        if out is None:
            shape = (*batch, *([rows] if a.ndim > 1 else []), *([columns] if b.ndim > 1 else []))
            out = _empty(shape, np.result_type(a, b))
        sizes = math.prod(batch) * rows, columns, a.shape[-1]
        self.product(distinct_bytes(a) + distinct_bytes(b), out.nbytes, sizes, a.itemsize)
        return out

    def product(self, read: int, written: int, sizes: tuple[int, int, int], itemsize: int, adds: bool = False) -> None:
        """Note a product of matrices (M, K) @ (K, N) by cuBLAS, or one that it adds to what is there."""
        read += written if adds else 0
        operations = 2 * math.prod(sizes)
        self.add("product", "cuBLAS", read=read, written=written, operations=operations, sizes=sizes, itemsize=itemsize)

    def _reduction(self, name, x, axis=None, dtype=None, out=None, keepdims=False):
        axes = range(x.ndim) if axis is None else [axis] if isinstance(axis, int) else axis
        axes = {i % x.ndim for i in axes}
        if out is None:
            shape = [1 if i in axes else n for i, n in enumerate(x.shape) if keepdims or i not in axes]
            indices = np.intp if name.startswith("arg") else np.bool_ if name in ("all", "any") else dtype
            wide = np.int64 if name in ("sum", "prod") and x.dtype.kind in "bi" else x.dtype
            out = _empty(shape, indices or wide)
        launches = 2 if len(axes) == x.ndim and x.size > CUB_TILE else 1
        self.add("reduction", name, read=distinct_bytes(x), written=out.nbytes, operations=x.size, launches=launches)
        return out

    def _fill(self, function, name, args, kwargs):
        if name in ("ones_like", "zeros_like"):
            result = _empty(args[0].shape, kwargs.get("dtype") or args[0].dtype)
        elif name in ("ones", "zeros"):
            result = _empty(args[0], *args[1:2] or [kwargs.get("dtype", float)])
        else:
            result = function(*args, **kwargs)
        self.add("fill", name, written=result.nbytes)
        return result

    # ---- functions by name ----

    def _astype(self, x, dtype, order="K", copy=True):
        if not copy and x.dtype == dtype:
            return x
        result = _empty(x.shape, dtype)
        self.add("copy", "astype", read=distinct_bytes(x), written=result.nbytes)
        return result

    def _copy(self, x, order="C"):
        self.add("copy", "copy", read=distinct_bytes(x), written=x.nbytes)
        return _empty(x.shape, x.dtype)

    def _dot(self, a, b, out=None):
        if a.ndim > 1 or b.ndim > 1:
            return self._product(a, b, out)
        product = self._ufunc(np.multiply, (a, b), {})  # as CuPy does by default
        return self._reduction("sum", product, out=out)

    def _argsort(self, x, axis=-1, kind=None):
        order = _empty(x.shape, np.int64)
        merges = math.ceil(math.log2(max(1, x.size / SORT_TILE)))
        moved = (2 + merges) * (x.nbytes + order.nbytes)  # a copy, the blocks, and each merge
        self.add("sort", "argsort", read=moved, written=moved, launches=3 + 2 * merges)
        return order

    def _searchsorted(self, a, v, side="left", sorter=None):
        found = _empty(v.shape, np.int64)
        self.add("elementwise", "searchsorted", read=a.nbytes + v.nbytes, written=found.nbytes)
        return found

    def _concatenate(self, arrays, axis=0, out=None):
        shape = list(arrays[0].shape)
        shape[axis] = sum(x.shape[axis] for x in arrays)
        return self._joined(arrays, shape, out)

    def _stack(self, arrays, axis=0, out=None):
        shape = list(arrays[0].shape)
        shape.insert(axis % (len(shape) + 1), len(arrays))
        return self._joined(arrays, shape, out)

    def _joined(self, arrays, shape, out):
        out = _empty(shape, np.result_type(*arrays)) if out is None else out
        self.add("copy", "concatenate", read=sum(map(distinct_bytes, arrays)), written=out.nbytes)
        return out


def _array(argument) -> Array:
    """What an Argument is, or for a table of addresses all the arrays in it together."""
    if not argument.addresses:
        return Array(argument.memory.shape, argument.memory.dtype, argument.constant)
    tensors = live.owners(argument.memory)
    return Array((sum(x.size for x in tensors),), tensors[0].dtype, argument.constant)


def allocate(size: int):
    """Memory for so many bytes, as NumPy owns it; of large arrays only addresses."""
    return np.empty(size, np.uint8) if size < LARGE else reserve(size)


def _empty(shape, dtype):
    """An array that holds nothing yet."""
    dtype, shape = np.dtype(dtype), (shape,) if isinstance(shape, int) else tuple(shape)
    return np.ndarray(shape, dtype, allocate(math.prod(shape) * dtype.itemsize))


def distinct_bytes(x) -> int:
    """The bytes of memory behind an array, those that are repeated by broadcasting once."""
    if not isinstance(x, np.ndarray):
        return 0
    return x.itemsize * math.prod(n for n, stride in zip(x.shape, x.strides, strict=True) if stride or n == 0)

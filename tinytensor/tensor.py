"""The autograd engine: a Tensor remembers the Function that made it, and `backward` walks the graph in reverse.

The engine knows of no particular operation. A forward pass records a graph as it runs:

    Tensor x --+
               +--> Function (Mul) --> Tensor y        y.function is the Mul, and the Mul's inputs are (x, w)
    Tensor w --+

The loss is one number L, and each Function holds a vector-Jacobian product (VJP): given g = dL/dy it returns dL/dx
for each of its inputs x. A Function is deeper than all that made its inputs, so taking the deepest from a heap visits
the graph in reverse topological order: when a Function's turn comes, all uses of its result have added to g.

    take the deepest Function and the sum g of what reached it
    add each gradient of vjp(g) to the sum of the input it belongs to          this sum over paths is the chain rule
    put the Functions on the heap that were reached for the first time

First-order gradients only: VJPs compute on raw arrays and are not recorded. On a first reading, skip what guards
against mistakes: `Version`, `save`'s guards, and the functions named `_require_...`.

Read `ops/elementwise.py` next, where each operation is a forward and a VJP side by side.
"""

from __future__ import annotations

import heapq
import itertools
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ContextDecorator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from kernels.dtypes import is_floating, is_sixteen_bit
from kernels.namespace import require_current
from tinytensor.backend import array_module, device_of, to_numpy

if TYPE_CHECKING:  # Tensor's methods need the operations, which need Tensor: `methods.py` adds the methods last
    from tinytensor.methods import Methods
else:
    Methods = object

Array = Any  # a raw array: numpy.ndarray, cupy.ndarray, or that of the emulated device
TensorLike = Any  # a Tensor, a raw array, or numbers
DEFAULT_DTYPE = np.float32
SUM_ROWS, SUM_BLOCK = 1024, 64  # more rows than that are added in blocks of so many


class _GradMode(threading.local):
    enabled = True


_grad_mode = _GradMode()
_leaf_lock = threading.Lock()  # two threads may run backward into one leaf


class no_grad(ContextDecorator):
    """Inside `with no_grad():`, or in a function under `@no_grad`, no graph is recorded (in this thread)."""

    def __new__(cls, function: Callable | None = None) -> Any:
        """A context manager; or, for a decorator without parentheses, the decorated function."""
        return super().__new__(cls) if function is None else cls()(function)

    def __enter__(self) -> None:
        self._before = _grad_mode.enabled
        _grad_mode.enabled = False

    def __exit__(self, *exception: object) -> None:
        _grad_mode.enabled = self._before

    def _recreate_cm(self) -> no_grad:  # called by ContextDecorator: recursive calls must not share `_before`
        return no_grad()


def is_grad_enabled() -> bool:
    """Whether operations are recorded in this thread."""
    return _grad_mode.enabled


class Version:
    """Counts in-place changes to a block of memory; all views share one, so a change through any of them is noticed."""

    __slots__ = ("changes",)

    def __init__(self) -> None:
        self.changes = 0


class Tensor(Methods):
    """An array and the Function that computed it.

    data: the raw array (NumPy, CuPy or emulated), of any shape and dtype.
    grad: None, or dL/d(this tensor) as a raw array of the same shape and dtype, after `backward` (leaves only).
    function: the Function that computed it, None for a leaf.

    `Tensor(array)` shares the array's memory; numbers and nested lists become float32, int64 or bool arrays.
    Raises TypeError for data that is not numeric, and for requires_grad of anything but floats.
    """

    __slots__ = ("__weakref__", "_data", "_grad", "_requires_grad", "function", "version")
    __array_ufunc__ = None  # makes `ndarray * Tensor` call Tensor.__rmul__, for NumPy's and CuPy's arrays
    __hash__ = object.__hash__  # the engine keys dictionaries by identity, whatever == says

    def __init__(self, data: TensorLike, requires_grad: bool = False):
        self._data = as_array(data)
        self._requires_grad = False
        if requires_grad is not False:
            self.requires_grad = requires_grad
        self._grad: Array | None = None
        self.function: Function | None = None
        self.version: Version = data.version if isinstance(data, Tensor) else Version()  # a Tensor's memory is shared

    @property
    def data(self) -> Array:
        """The raw array. Replacing it leaves recorded graphs valid; writing into it is seen only by `mark_changed`."""
        return self._data

    @data.setter
    def data(self, array: TensorLike) -> None:
        if array is self._data:  # as after `t.data -= step`: Python assigns what the in-place operation returned
            self.mark_changed()
        else:
            self._data, self.version = as_array(array), Version()

    def mark_changed(self) -> None:
        """Record an in-place change: backward raises if a graph still needs the old values."""
        self.version.changes += 1

    @property
    def grad(self) -> Array | None:
        """None, or the gradient that `backward` has accumulated, a raw array of this shape and dtype."""
        return self._grad

    @grad.setter
    def grad(self, gradient: TensorLike) -> None:
        self._grad = None if gradient is None else as_array(gradient)

    @property
    def requires_grad(self) -> bool:
        """Whether operations on this tensor are recorded. Setting it raises TypeError for anything but floats."""
        return self._requires_grad

    @requires_grad.setter
    def requires_grad(self, required: bool) -> None:
        if not isinstance(required, bool):
            raise TypeError(f"requires_grad {required!r}: must be True or False (for a shape, use tt.zeros)")
        if required and not is_floating(self._data.dtype):
            raise TypeError(f"only floating-point tensors have gradients, this one is {self._data.dtype}")
        self._requires_grad = required

    @property
    def shape(self) -> tuple[int, ...]:
        """The length of each axis."""
        return self._data.shape

    @property
    def dtype(self) -> np.dtype:
        """The type of the elements."""
        return self._data.dtype

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return self._data.ndim

    @property
    def device(self) -> str:
        """Where the array is: "cpu", "cuda:0", "emulated"."""
        return device_of(self._data).name

    def size(self, axis: int | None = None) -> Any:
        """The shape, or the length of one axis."""
        return self.shape if axis is None else self.shape[axis]

    def numel(self) -> int:
        """The number of elements."""
        return self._data.size

    def __len__(self) -> int:
        return len(self._data)

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> np.ndarray:
        """For `np.asarray(x)` and matplotlib: the values, without their gradient."""
        return np.array(self.numpy(), dtype, copy=copy)

    def __repr__(self) -> str:
        values = np.array2string(to_numpy(self._data), separator=", ", prefix="tensor(", precision=4, threshold=100)
        grad = ", requires_grad=True" if self.requires_grad else ""
        if self.function is not None:
            grad = f", function={type(self.function).__name__}"
        shape = "" if self._data.size else f", shape={self.shape}"
        dtype = "" if self.dtype in (np.float32, np.int64, np.bool_) else f", dtype={self.dtype}"
        return f"tensor({values}{shape}{dtype}{grad})"

    def numpy(self) -> np.ndarray:
        """The values as a NumPy array; on the CPU it shares this tensor's memory."""
        return to_numpy(self._data)

    def tolist(self) -> Any:
        """The values as nested lists of Python numbers."""
        return self.numpy().tolist()

    def item(self) -> float | int | bool:
        """The value of a tensor with one element, as a Python number (synchronizes the device)."""
        return self._data.item()

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if spec and not self.ndim else format(str(self), spec)

    def __bool__(self) -> bool:
        return bool(self._data)

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __index__(self) -> int:
        if self.ndim or self.dtype.kind not in "iu":
            raise TypeError(f"a tensor of shape {self.shape} and dtype {self.dtype} is not an integer")
        return int(self.item())

    def detach(self) -> Tensor:
        """A tensor that shares this memory but is not part of the graph: gradients stop here."""
        constant = Tensor(self._data)
        constant.version = self.version
        return constant

    def _edge(self) -> tuple[Function | Tensor, tuple[int, ...], Any]:
        """Where a gradient of this tensor goes, and the shape and dtype that it has there."""
        return _node(self), self._data.shape, self._data.dtype

    def backward(self, gradient: TensorLike = None) -> None:
        """Add dL/dx to `x.grad` of every leaf x this tensor was computed from, and free the graph.

        gradient: dL/d(this tensor), an array or Tensor of this shape; may be left out for a scalar, where it is 1.
        Raises RuntimeError if nothing here requires a gradient, if part of the graph was freed by an earlier call, or
        if an array in it was changed in place; in that case no grad has changed: run forward again. Raises ValueError
        for a gradient of the wrong shape, TypeError for a VJP that returns other than a tuple of arrays.
        """
        if not self._requires_grad:
            raise RuntimeError("backward: no input of this tensor requires a gradient (set requires_grad=True)")
        _propagate(self, _seed_gradient(self, gradient))


class Guard(NamedTuple):
    """The version of saved memory when it was saved, and words to name it."""

    version: Version
    changes: int
    role: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class ScatterAdd:
    """A sparse gradient: `add_into(total)` adds it in place to a contiguous array of the input's shape."""

    add_into: Callable[[Array], None]


class Function:
    """One application of a differentiable operation; subclass it to make your own, and apply each object once.

    `forward(*arrays)` computes the result from raw arrays, which it never changes. What the VJP will need it passes
    through `save`, so that in-place changes are detected.
    `vjp(g)` gets dL/dy and returns a tuple with dL/dx for each input, None where `self.needs_grad[i]` is false: new
    arrays or views of g, which it never changes. For an input that was broadcast it may return a gradient of the
    result's shape; the engine sums it to the input's. A sparse gradient is a `ScatterAdd`. Options go to `__init__`:

        class Square(Function):
            '''y = c x^2;  gx = 2 c g x'''
            def __init__(self, c): self.c = c
            def forward(self, x):
                self.x = self.save(x)
                return self.c * x * x
            def vjp(self, g): return (2 * self.c * g * self.x,)

        y = Square(3.0)(x)
    """

    needs_grad: tuple[bool, ...] = ()  # for each input, once the Function is applied
    accumulates = False  # whether vjp(g, total) adds dL/dx of the first input to `total`, which has reached it so far
    _applied = False
    _saved: tuple = ()
    _depth = 0  # topological depth: 1 + the largest depth of the Functions that made the inputs
    # one (Function or leaf, shape, dtype) per input, None where no gradient is needed; empty if nothing was recorded,
    # or once freed
    _edges: Sequence[tuple | None] = ()
    _guards: Sequence[Guard] = ()
    _freed_by: _Backward | None = None

    def forward(self, *arrays: Array) -> Array:
        """The result for raw arrays; a subclass defines it."""
        raise NotImplementedError(f"{type(self).__name__} does not define forward")

    def vjp(self, g: Array) -> tuple:
        """(dL/dx for each input x) for g = dL/dy; a subclass defines it."""
        raise NotImplementedError(f"{type(self).__name__} does not define vjp")

    def save(self, *arrays: Array) -> Any:
        """Save arrays for the VJP and return them, one alone, several as a tuple; other values pass through."""
        if True in self.needs_grad:
            self._saved += tuple(_flat(arrays))
        return arrays[0] if len(arrays) == 1 else arrays

    def __call__(self, *inputs: TensorLike) -> Tensor:
        """Apply to Tensors; anything else (numbers, raw arrays, None) is passed on as a constant."""
        if self._applied or not _RESERVED.isdisjoint(vars(self)):
            self._refuse()
        arrays = _raw_arrays(type(self).__name__, inputs)
        self._applied, recording = True, _grad_mode.enabled
        self.needs_grad = tuple([recording and isinstance(x, Tensor) and x._requires_grad for x in inputs])
        try:
            result = self.forward(*arrays)
        except (ValueError, TypeError) as error:
            kind = ValueError if isinstance(error, ValueError) else TypeError
            raise kind(f"{type(self).__name__} of {' and '.join(map(_describe, arrays))}: {error}") from error
        if not isinstance(result, (np.ndarray, np.generic)) and not is_array(result):
            raise TypeError(f"{type(self).__name__}.forward returned a {type(result).__name__}: must be an array")
        y = Tensor(result)
        if y._data.base is not None or id(y._data) in map(id, arrays):
            _share_version(y, inputs)
        if True in self.needs_grad:
            self._record(inputs, y)
        return y

    def _refuse(self) -> None:
        name = type(self).__name__
        if self._applied:
            raise RuntimeError(f"{name}: was applied before; a Function object holds what one application saved")
        taken = min(_RESERVED & vars(self).keys())
        raise TypeError(f"{name}: has an option named {taken!r}, which is the engine's; choose another name")

    def _record(self, inputs: tuple, y: Tensor) -> None:
        """Make this Function the node of y in the graph."""
        y.function, y._requires_grad = self, True
        saved = {id(_owner(a)) for a in self._saved}
        edges, guards, depth = [], [], 0
        for x, needed in zip(inputs, self.needs_grad, strict=True):
            # not the Tensors themselves, which would keep all their arrays alive
            edges.append(x._edge() if needed else None)
            if isinstance(x, Tensor):
                depth = depth if x.function is None else max(depth, x.function._depth)
                if saved and id(_owner(x._data)) in saved:
                    guards.append(Guard(x.version, x.version.changes, "an input", x.shape))
        if saved and id(_owner(y._data)) in saved:
            guards.append(Guard(y.version, y.version.changes, "the result", y.shape))
        self._edges, self._guards, self._depth = edges, guards, depth + 1

    def _check(self) -> None:
        """Raise RuntimeError if what was saved is no longer there, or was changed in place."""
        name = type(self).__name__
        if not self._edges:
            failure = self._freed_by.failure if self._freed_by else ""
            ending = f" that failed in {failure}" if failure else ""
            raise RuntimeError(
                f"backward: the graph through this {name} was freed by an earlier backward{ending}; run forward again"
            )
        for guard in self._guards:
            if guard.version.changes != guard.changes:
                raise RuntimeError(
                    f"backward: {guard.role} of {name}, shape {guard.shape}, was changed in place after it was used"
                )

    def _free(self, walk: _Backward) -> None:
        """Drop the saved arrays and the graph."""
        vars(self).clear()
        self._applied, self._freed_by = True, walk


# what a subclass must leave alone
_RESERVED = {name for name in vars(Function) if not name.startswith("__")}


# ---- backward ----


class _Backward:
    """One walk over a graph: the gradients accumulated so far but not yet propagated, and how it ended."""

    def __init__(self) -> None:
        # id of a Function or leaf, which may define equality -> (it, sum so far, whether that is ours to add into)
        self.sums: dict[int, tuple[Function | Tensor, Array, bool]] = {}
        self.failure = ""  # the Function whose VJP raised

    def add(self, node: Function | Tensor, g: Array, owned: bool) -> None:
        """Add g to the sum; `owned`: nobody else holds this array, so it may be added into."""
        if id(node) not in self.sums:
            self.sums[id(node)] = node, g, owned
            return
        _, total, total_owned = self.sums[id(node)]
        if total_owned:
            out = total
        else:  # never into an array that another node may hold; without out=, 0-d sums would be NumPy scalars
            out = g if owned else array_module(g).empty_like(g)
        self.sums[id(node)] = node, array_module(g).add(total, g, out=out), True

    def total_at(self, edge: tuple | None) -> Array | None:
        """What has reached the node of an edge so far, in the shape and dtype of the input there, or None."""
        return self.sums[id(edge[0])][1] if edge and id(edge[0]) in self.sums else None

    def scatter_add(self, node: Function | Tensor, sparse: ScatterAdd, shape: tuple, dtype: Any, xp: Any) -> None:
        """Add a sparse gradient to the sum, made a contiguous array that is ours first."""
        _, total, owned = self.sums.get(id(node)) or (node, xp.zeros(shape, dtype=dtype), True)
        if not owned or not total.flags.c_contiguous:
            total = total.copy(order="C")
        sparse.add_into(total)
        self.sums[id(node)] = node, total, True


def _node(x: Tensor) -> Function | Tensor:
    """Where a gradient of x goes: the Function that made it, or x itself if it is a leaf."""
    return x if x.function is None else x.function


def _seed_gradient(y: Tensor, gradient: TensorLike) -> Array:
    xp = array_module(y.data)
    if gradient is None:
        if y.data.size != 1:
            raise RuntimeError(f"backward: a tensor of shape {y.shape} is not a scalar; pass gradient=, its dL/dy")
        return xp.ones(y.shape, dtype=y.dtype)
    g = xp.asarray(raw(gradient), dtype=y.dtype)
    if g.shape != y.shape:
        raise ValueError(f"backward: gradient has shape {g.shape}, the tensor has {y.shape}")
    return g


def _propagate(root: Tensor, g: Array) -> None:
    """Visit Functions in reverse topological order: when one is visited, all uses of its result have been."""
    walk, tiebreak = _Backward(), itertools.count()
    walk.add(_node(root), g, owned=False)
    # a max-heap on depth; the counter breaks ties deterministically
    heap: list[tuple[int, int, Function]] = []
    if root.function is not None:
        heap.append((-root.function._depth, next(tiebreak), root.function))
    while heap:
        function = heapq.heappop(heap)[-1]
        try:
            reached = _pull_back(function, walk)
        except BaseException:
            walk.failure = type(function).__name__
            raise
        function._free(walk)
        for parent in reached:
            heapq.heappush(heap, (-parent._depth, next(tiebreak), parent))
    for leaf, total, owned in walk.sums.values():
        assert isinstance(leaf, Tensor)  # all Functions were popped
        with _leaf_lock:
            if leaf._grad is None:
                leaf._grad = total if owned else total.copy()
            else:
                leaf._grad = as_array(array_module(total).add(leaf._grad, total, out=total if owned else None))
    walk.sums.clear()  # freed Functions keep a reference to the walk; it must not keep the gradients alive


def _pull_back(function: Function, walk: _Backward) -> list[Function]:
    """Call one Function's VJP and add its gradients to the inputs' sums; returns the parents now reached first."""
    function._check()
    _, g, _ = walk.sums.pop(id(function))
    total = walk.total_at(function._edges[0]) if function.accumulates else None
    gradients = function.vjp(g) if total is None else function.vjp(g, total)  # type: ignore[call-arg]
    _require_tuple(function, gradients)
    # a gradient is ours to add into unless it is g, a saved array, a view, or returned for two inputs
    held = {id(g), *map(id, function._saved)}
    if len({*map(id, gradients)}) < len(gradients):
        held.update(i for i, uses in Counter(map(id, gradients)).items() if uses > 1)
    reached = []
    for i, (edge, gx) in enumerate(zip(function._edges, gradients, strict=True)):
        if edge is None:
            continue
        node, shape, dtype = edge
        if isinstance(node, Function) and id(node) not in walk.sums:
            reached.append(node)
        if isinstance(gx, ScatterAdd):
            walk.scatter_add(node, gx, shape, dtype, array_module(g))
        else:
            if type(gx) is not np.ndarray or gx.shape != shape:
                gx = _require_gradient(function, i, gx, shape, g.shape)
            owned = id(gx) not in held and gx.base is None
            if gx.shape != shape or gx.dtype != dtype:
                gx, owned = _fit(gx, shape, dtype), True
            if i == 0 and total is not None:
                walk.sums[id(node)] = node, gx, owned
            else:
                walk.add(node, gx, owned)
    return reached


def _require_tuple(function: Function, gradients: object) -> None:
    """Raise TypeError for what a VJP returned, unless it is one gradient for each input."""
    name, count = type(function).__name__, len(function._edges)
    if not isinstance(gradients, tuple):
        kind = type(gradients).__name__
        raise TypeError(f"backward: {name}.vjp returned a {kind}: must be a tuple, such as `return (gx,)`")
    if len(gradients) != count:
        raise TypeError(f"backward: {name}.vjp returned {len(gradients)} gradients: must be {count}, one per input")


def _require_gradient(function: Function, i: int, gx: Any, shape: tuple, result_shape: tuple) -> Array:
    """Gradient number i of a VJP, if it is an array of its input's shape, or of the result's where that broadcast."""
    name = type(function).__name__
    if gx is None:
        raise RuntimeError(f"backward: {name}.vjp gave no gradient for input {i}, of shape {shape}")
    if isinstance(gx, np.generic):  # NumPy's arithmetic on 0-d arrays gives scalars, which nothing can be added into
        gx = np.asarray(gx)
    if not is_array(gx):
        kind = type(gx).__name__
        raise TypeError(f"backward: {name}.vjp gave a {kind} as the gradient of input {i}: must be an array")
    if gx.shape != shape and not (gx.shape == result_shape and _broadcasts(shape, result_shape)):
        raise ValueError(f"backward: {name}.vjp gave input {i}, of shape {shape}, a gradient of shape {gx.shape}")
    return gx


def _fit(gx: Array, shape: tuple, dtype: Any) -> Array:
    """A new array: a gradient brought to the shape and dtype of its input."""
    return as_array(unbroadcast(gx, shape)).astype(dtype, copy=False)  # a sum may be a NumPy scalar


# ---- arrays ----


def is_array(x: object) -> bool:
    """Whether x is a raw array of any device."""
    return isinstance(x, np.ndarray) or array_module(x) is not np


def as_array(data: TensorLike, dtype: DTypeLike | None = None) -> Array:
    """`data` as an array, without a copy where it is one of that dtype.

    Python numbers and nested lists become float32, int64 or bool; arrays and NumPy's scalars keep their dtype unless
    another is asked for. Raises TypeError for what is not numeric, ValueError for ragged lists.
    """
    if isinstance(data, Tensor):
        data = data._data
    ours = type(data) is np.ndarray or array_module(data) is not np  # no subclass of NumPy's
    if ours and dtype is None and data.dtype.kind in "fiub" and data.dtype.isnative:
        return data
    if is_array(data):
        array = data if dtype is None else data.astype(dtype, copy=False)
    else:
        array = np.asarray(data, dtype)
        if dtype is None and array.dtype == np.float64 and not hasattr(data, "dtype"):
            array = array.astype(DEFAULT_DTYPE)
    holds_numbers = array.dtype.kind in "fiub" or is_floating(array.dtype)
    if not holds_numbers or isinstance(data, np.ma.MaskedArray):
        kind = "a masked array" if isinstance(data, np.ma.MaskedArray) else f"{array.dtype} as in {data!r:.40}"
        raise TypeError(f"a tensor holds real numbers or booleans, not {kind}")
    if type(array) is not np.ndarray and isinstance(array, np.ndarray):
        array = np.asarray(array)  # a matrix, say, whose * means something else
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def raw(x: TensorLike) -> Array:
    """The array of a Tensor; anything else as it is."""
    return x._data if isinstance(x, Tensor) else x


def _raw_arrays(name: str, inputs: tuple) -> list:
    """What `forward` receives: beside an array, None and Python numbers stay, as numbers take its dtype.

    Raises ValueError for arrays on different devices, DeviceError for those of a GPU that is not current.
    """
    arrays, on_host, elsewhere = [], False, []
    for x in inputs:
        array = x._data if isinstance(x, Tensor) else _plain(x)
        arrays.append(array)
        if type(array) is np.ndarray:
            on_host = True
        elif array is not None and not isinstance(array, (bool, int, float)):
            elsewhere.append(array)
    if elsewhere:
        if on_host:
            names = dict.fromkeys(device_of(x).name for x in arrays if is_array(x))
            raise ValueError(f"{name}: inputs are on different devices, {' and '.join(names)}: move one with x.to(...)")
        require_current(*elsewhere)  # CuPy would compute on the wrong GPU
    elif not on_host:
        if all(x is None for x in arrays):
            raise TypeError(f"{name}: got no tensor, array or number")
        return [x if x is None else as_array(x) for x in arrays]
    return arrays


def _plain(x: object) -> Any:
    """A constant: an array, None, or a Python number; also of NumPy's scalars, as a float64 must not widen float32."""
    if isinstance(x, np.generic):
        return x.item()
    return x if x is None or isinstance(x, (bool, int, float)) else as_array(x)


def _flat(values: Iterable) -> Iterator[Array]:
    """The arrays among values, and in tuples and lists of them, however deep."""
    for value in values:
        if type(value) is np.ndarray:
            yield value
        elif isinstance(value, (tuple, list)):
            yield from _flat(value)
        elif is_array(value):
            yield value


def _owner(array: Array) -> Array:
    """The array that owns the memory `array` is a view of."""
    while (base := array.base) is not None and is_array(base):
        array = base
    return array


def _share_version(y: Tensor, inputs: tuple) -> None:
    """If y is a view of an input's memory, a change of either is a change of both."""
    owner = _owner(y._data)
    for x in inputs:
        if isinstance(x, Tensor) and _owner(x._data) is owner:
            y.version = x.version


def _describe(x: object) -> str:
    return f"{x.shape} {x.dtype}" if hasattr(x, "shape") and hasattr(x, "dtype") else repr(x)


def _broadcasts(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    """Whether an array of `shape` can be broadcast to the shape `to`."""
    return len(shape) <= len(to) and all(n in (1, m) for n, m in zip(shape[::-1], to[::-1], strict=False))


def unbroadcast(g: Array, shape: tuple[int, ...]) -> Array:
    """g summed over the axes along which an array of `shape` was broadcast to g's shape (the VJP of broadcasting)."""
    if g.shape == shape:
        return g
    extra = g.ndim - len(shape)
    axes = tuple(range(extra)) + tuple(i + extra for i, n in enumerate(shape) if n == 1)
    return accurate_sum(g, axes).reshape(shape)


def accurate_sum(x: Array, axes: tuple[int, ...], keepdims: bool = False, dtype: Any = None) -> Array:
    """x.sum(axes), with 16 bits accumulated in float32, and many rows on the CPU in blocks.

    NumPy adds the rows of axis 0 one after the other, so rounding errors grow with their number: 10^7 rows of 0.1 in
    float32 would sum to 1.09 10^6. Elsewhere it adds pairwise, as CuPy does.
    """
    if is_sixteen_bit(x.dtype):
        return x.sum(axis=axes, dtype=np.float32, keepdims=keepdims).astype(x.dtype)
    if type(x) is np.ndarray and 0 in axes and len(axes) < x.ndim and len(x) > SUM_ROWS and x.dtype.kind == "f":
        even = len(x) // SUM_BLOCK * SUM_BLOCK
        blocks = x[:even].reshape(-1, SUM_BLOCK, *x.shape[1:]).sum(axis=1)
        x = accurate_sum(np.concatenate([blocks, x[even:]]), (0,), keepdims=True)
    return x.sum(axis=axes, dtype=dtype, keepdims=keepdims)

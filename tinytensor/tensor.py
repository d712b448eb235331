"""The autograd engine: a Tensor remembers the Function that made it, and `backward` walks the graph in reverse.

The engine knows of no particular operation. A forward pass records a graph as it runs:

    Tensor x --+
               +--> Function (Mul) --> Tensor y        y.function is the Mul, and the Mul's inputs are (x, w)
    Tensor w --+

The loss is one number L, and each Function holds a vector-Jacobian product (VJP): given g = dL/dy it returns dL/dx
for each of its inputs x. `backward` calls the VJPs in reverse topological order and sums what reaches a tensor along
several paths, which is the chain rule. First-order gradients only: VJPs compute on raw arrays and are not recorded.

Read `ops/elementwise.py` next, where each operation is a forward and a VJP side by side.
"""

from __future__ import annotations

import heapq
import itertools
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ContextDecorator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike

from kernels.namespace import require_current
from tinytensor.backend import array_module, device_of, to_numpy

if TYPE_CHECKING:  # methods call operations, which are made of Tensors: `methods.py` adds them once all of it exists
    from tinytensor.methods import Methods
else:
    Methods = object

Array = Any  # a raw array: numpy.ndarray, cupy.ndarray, or that of the emulated device
TensorLike = Any  # a Tensor, a raw array, or numbers
DEFAULT_DTYPE = np.float32


class _GradMode(threading.local):
    enabled = True


_grad_mode = _GradMode()
_leaf_lock = threading.Lock()  # two threads may run backward into one leaf


class no_grad(ContextDecorator):
    """Inside `with no_grad():`, or in a function under `@no_grad()`, no graph is recorded (in this thread)."""

    def __enter__(self) -> None:
        self._before = _grad_mode.enabled
        _grad_mode.enabled = False

    def __exit__(self, *exception: object) -> None:
        _grad_mode.enabled = self._before

    def _recreate_cm(self) -> no_grad:
        return no_grad()  # a fresh one for each call of a decorated function, which may call itself


def is_grad_enabled() -> bool:
    """Whether operations are recorded in this thread."""
    return _grad_mode.enabled


class Version:
    """Counts the in-place changes of some memory; all views of it share one, so none can go stale unnoticed."""

    __slots__ = ("changes",)

    def __init__(self) -> None:
        self.changes = 0


class Tensor(Methods):
    """An array, and how it came to be.

    data: the raw array (NumPy, CuPy or emulated), of any shape and dtype.
    grad: None, or dL/d(this tensor) as a raw array of the same shape and dtype, after `backward` (leaves only).
    function: the Function that computed it, None for a leaf.

    `Tensor(array)` shares the array's memory; numbers and nested lists become float32, int64 or bool arrays.
    Raises TypeError for data that is not numeric, and for requires_grad of anything but floats.
    """

    __slots__ = ("__weakref__", "_data", "function", "grad", "requires_grad", "version")
    __array_ufunc__ = None  # makes `ndarray * Tensor` call Tensor.__rmul__
    __hash__ = object.__hash__  # the engine keys dictionaries by identity, whatever == says

    def __init__(self, data: TensorLike, requires_grad: bool = False):
        self._data = data if type(data) is np.ndarray and data.dtype.kind in "fiub" else as_array(data)
        if requires_grad and self._data.dtype.kind != "f":
            raise TypeError(f"only floating-point tensors have gradients, this one is {self._data.dtype}")
        self.requires_grad = requires_grad
        self.grad: Array | None = None
        self.function: Function | None = None
        self.version = Version()

    @property
    def data(self) -> Array:
        """The raw array; assigning another one leaves graphs of the old one valid."""
        return self._data

    @data.setter
    def data(self, array: Array) -> None:
        if array is self._data:  # as after `t.data -= step`: Python assigns what the in-place operation returned
            self.mark_changed()
        else:
            self._data, self.version = array, Version()

    def mark_changed(self) -> None:
        """Say that the array was changed in place; graphs that need its old values will refuse to run backward."""
        self.version.changes += 1

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
        if self.function:
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
        """The same memory as a constant: gradients stop here."""
        constant = Tensor(self._data)
        constant.version = self.version
        return constant

    def backward(self, gradient: TensorLike = None) -> None:
        """Add dL/dx to `x.grad` of every leaf x this tensor was computed from, and free the graph.

        gradient: dL/d(this tensor), an array or Tensor of this shape; may be left out for a scalar, where it is 1.
        Raises RuntimeError if nothing here requires a gradient, if part of the graph was freed by an earlier call or an
        array in it changed in place (no `grad` changes then, but run forward again); ValueError for a gradient of the
        wrong shape; TypeError for a VJP that returns something else than a tuple of arrays.
        """
        if not self.requires_grad:
            raise RuntimeError("backward: no input of this tensor requires a gradient (set requires_grad=True)")
        _propagate(self, _seed_gradient(self, gradient))


@dataclass(frozen=True)
class ScatterAdd:
    """A sparse gradient: `add_into(total)` adds it in place to a contiguous array of the input's shape."""

    add_into: Callable[[Array], None]


class Function:
    """One application of a differentiable operation; subclass it to make your own, and apply each object once.

    `forward(*arrays)` computes the result from raw arrays. What the VJP will need of them goes through `save`, which
    lets the engine notice if it is changed in place before it is used.
    `vjp(g)` gets dL/dy and returns a tuple with dL/dx for each input: arrays it has just made, or views of g, but g is
    never changed in place; None where `self.needs_grad[i]` is false. Where an input was broadcast, a gradient of the
    result's shape will do: the engine sums it down. A sparse gradient is a `ScatterAdd`. Options go to `__init__`:

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
    _applied = False
    _saved: tuple = ()
    _depth = 0  # topological depth: 1 + the largest depth of the Functions that made the inputs
    # when recorded, (Function or leaf, shape, dtype) for each input that needs a gradient; None when not, or once freed
    _edges: list | None = None
    _guards: list = []  # noqa: RUF012  replaced, never changed
    _freed_by: _Backward | None = None

    def forward(self, *arrays: Array) -> Array:
        """The result for raw arrays; a subclass defines it."""
        raise NotImplementedError

    def vjp(self, g: Array) -> tuple:
        """(dL/dx for each input x) for g = dL/dy; a subclass defines it."""
        raise NotImplementedError

    def save(self, *arrays: Array) -> Any:
        """Keep arrays (anything else passes through) for the VJP; returns them, or the one if there is one."""
        self._saved += tuple(_flat(arrays))
        return arrays[0] if len(arrays) == 1 else arrays

    def __call__(self, *inputs: TensorLike) -> Tensor:
        """Apply to Tensors; anything else (numbers, raw arrays, None) is passed on as a constant."""
        self._require_new()
        arrays = _raw_arrays(inputs)
        self._applied = True
        self.needs_grad = tuple([_grad_mode.enabled and isinstance(x, Tensor) and x.requires_grad for x in inputs])
        try:
            result = self.forward(*arrays)
        except (ValueError, TypeError) as error:
            kind = ValueError if isinstance(error, ValueError) else TypeError
            raise kind(f"{type(self).__name__} of {' and '.join(map(_describe, arrays))}: {error}") from error
        if not isinstance(result, np.generic) and not is_array(result):
            raise TypeError(f"{type(self).__name__}.forward returned a {type(result).__name__}: must be an array")
        y = Tensor(result)
        tensors = [x for x in inputs if isinstance(x, Tensor)]
        if y._data.base is not None:
            _share_version(y, tensors)
        if True in self.needs_grad:
            y.function, y.requires_grad = self, True
            self._guards = self._make_guards(tensors, y)
            self._depth = 1 + max([x.function._depth for x in tensors if x.function], default=0)
            # not the Tensors themselves, which would keep all their arrays alive
            self._edges = [
                (x.function or x, x.shape, x.dtype) if needed else None
                for x, needed in zip(inputs, self.needs_grad, strict=True)
            ]
        return y

    def _require_new(self) -> None:
        name = type(self).__name__
        if self._applied:
            raise RuntimeError(f"{name}: was applied before; a Function object holds what one application saved")
        if not _RESERVED.isdisjoint(vars(self)):
            taken = min(_RESERVED & vars(self).keys())
            raise TypeError(f"{name}: has an option named {taken!r}, which is the engine's; choose another name")

    def _make_guards(self, inputs: list[Tensor], y: Tensor) -> list[tuple]:
        """What to compare before the VJP for each array that was saved: its version now, and words to name it."""
        if not self._saved:
            return []
        saved = {id(_owner(a)) for a in self._saved}
        guards = [(x.version, x.version.changes, "an input", x.shape) for x in inputs if id(_owner(x._data)) in saved]
        if id(_owner(y._data)) in saved:
            guards.append((y.version, y.version.changes, "the result", y.shape))
        return guards

    def _check(self) -> None:
        """Raise RuntimeError if what was saved is no longer there, or was changed in place."""
        name = type(self).__name__
        if self._edges is None:
            failure = self._freed_by.failure if self._freed_by else ""
            ending = f" that failed in {failure}" if failure else ""
            raise RuntimeError(
                f"backward: the graph through this {name} was freed by an earlier backward{ending}; run forward again"
            )
        for version, changes, role, shape in self._guards:
            if version.changes != changes:
                raise RuntimeError(f"backward: {role} of {name}, shape {shape}, was changed in place after it was used")

    def _free(self, walk: _Backward) -> None:
        """Drop the saved arrays and the graph."""
        vars(self).clear()
        self._applied, self._freed_by = True, walk


# what a subclass must leave alone
_RESERVED = {name for name in vars(Function) if not name.startswith("__")}


# ---- arrays ----


def is_array(x: object) -> bool:
    """Whether x is a raw array of any device."""
    return type(x) is np.ndarray or isinstance(x, np.ndarray) or (hasattr(x, "dtype") and array_module(x) is not np)


def as_array(data: TensorLike, dtype: DTypeLike | None = None) -> Array:
    """`data` as an array, without a copy where it is one of that dtype.

    Python numbers and nested lists become float32, int64 or bool; arrays and NumPy's scalars keep their dtype unless
    another is asked for. Raises TypeError for what is not numeric, ValueError for ragged lists.
    """
    if isinstance(data, Tensor):
        data = data._data
    if is_array(data):
        array = data if dtype is None else data.astype(dtype, copy=False)
    else:
        array = np.asarray(data, dtype)
        if dtype is None and array.dtype == np.float64 and not isinstance(data, np.generic):
            array = array.astype(DEFAULT_DTYPE)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"a tensor holds real numbers or booleans, not {array.dtype} as in {data!r:.40}")
    return array


def raw(x: TensorLike) -> Array:
    """The array of a Tensor; anything else as it is."""
    return x._data if isinstance(x, Tensor) else x


def _raw_arrays(inputs: tuple) -> list:
    """What `forward` gets: arrays, and beside an array also None and Python numbers, which take its dtype."""
    arrays = [x._data if isinstance(x, Tensor) else _plain(x) for x in inputs]
    for array in arrays:
        if type(array) is np.ndarray:
            return arrays
    if not any(map(is_array, arrays)):
        return [x if x is None else as_array(x) for x in arrays]
    for array in arrays:
        require_current(array)  # CuPy would compute on the wrong GPU
    return arrays


def _plain(x: object) -> Any:
    """A constant: lists as arrays, NumPy's scalars as Python numbers, so that a float64 one does not widen float32."""
    if isinstance(x, np.generic):
        return x.item()
    return as_array(x) if isinstance(x, (list, tuple)) else x


def _flat(values: Iterable) -> Iterator[Array]:
    """The arrays among values, and in tuples and lists of them, however deep."""
    for value in values:
        if isinstance(value, (tuple, list)):
            yield from _flat(value)
        elif is_array(value):
            yield value


def _owner(array: Array) -> Array:
    """The array that owns the memory `array` is a view of."""
    while (base := array.base) is not None and is_array(base):
        array = base
    return array


def _share_version(y: Tensor, inputs: list[Tensor]) -> None:
    """If y is a view of an input's memory, a change of either is a change of both."""
    owner = _owner(y._data)
    for x in inputs:
        if _owner(x._data) is owner:
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
    return g.sum(axis=axes).reshape(shape)


# ---- backward ----


class _Backward:
    """One walk over a graph: the gradients accumulated so far but not yet propagated, and how it ended."""

    def __init__(self) -> None:
        self.sums: dict = {}  # Function or leaf -> (sum so far, whether that array is ours to add into)
        self.failure = ""  # the Function whose VJP raised

    def add(self, node: Function | Tensor, g: Array, fresh: bool) -> None:
        """Add g to the sum; `fresh`: nobody else holds this array."""
        if node not in self.sums:
            self.sums[node] = g, fresh
            return
        total, owned = self.sums[node]
        # never into an array that another node may hold; 0-d sums come back as NumPy scalars without out=
        out = total if owned else g if fresh else array_module(g).empty_like(g)
        self.sums[node] = array_module(g).add(total, g, out=out), True

    def scatter_add(self, node: Function | Tensor, sparse: ScatterAdd, shape: tuple, dtype: Any, xp: Any) -> None:
        """Add a sparse gradient to the sum, made a contiguous array that is ours first."""
        total, owned = self.sums[node] if node in self.sums else (xp.zeros(shape, dtype=dtype), True)
        if not owned or not total.flags.c_contiguous:
            total = total.copy(order="C")
        sparse.add_into(total)
        self.sums[node] = total, True


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
    walk, order = _Backward(), itertools.count()
    walk.add(root.function or root, g, fresh=False)
    # a heap, deepest Function first; the count settles ties, in the same order every time
    heap: list[tuple[int, int, Function]] = []
    if root.function:
        heap.append((-root.function._depth, next(order), root.function))
    while heap:
        function = heapq.heappop(heap)[-1]
        try:
            reached = _pull_back(function, walk)
        except BaseException:
            walk.failure = type(function).__name__
            raise
        function._free(walk)
        for parent in reached:
            heapq.heappush(heap, (-parent._depth, next(order), parent))
    for leaf, (total, owned) in walk.sums.items():
        with _leaf_lock:
            if leaf.grad is None:
                leaf.grad = total if owned else total.copy()
            else:
                leaf.grad = array_module(total).add(leaf.grad, total, out=total if owned else None)
    walk.sums.clear()  # freed Functions remember the walk, for how it ended


def _pull_back(function: Function, walk: _Backward) -> list[Function]:
    """Call one Function's VJP and add its gradients to those of the inputs; returns the Functions reached first."""
    function._check()
    g, _ = walk.sums.pop(function)
    gradients = _require_tuple(function, function.vjp(g))
    # g itself, a view, a saved array, or one array for two inputs may be held elsewhere: not ours to add into
    held, ids = {id(g), *map(id, function._saved)}, [id(gx) for gx in gradients if gx is not None]
    if len(set(ids)) < len(ids):
        held.update(i for i, uses in Counter(ids).items() if uses > 1)
    reached = []
    for i, (edge, gx) in enumerate(zip(function._edges or (), gradients, strict=True)):
        if edge is None:
            continue
        node, shape, dtype = edge
        if isinstance(node, Function) and node not in walk.sums:
            reached.append(node)
        if isinstance(gx, ScatterAdd):
            walk.scatter_add(node, gx, shape, dtype, array_module(g))
        else:
            if type(gx) is not np.ndarray or gx.shape != shape:
                gx = _require_gradient(function, i, gx, shape, g.shape)
            fresh = id(gx) not in held and gx.base is None
            walk.add(node, *_fit(gx, shape, dtype, fresh))
    return reached


def _require_tuple(function: Function, gradients: object) -> tuple:
    """What a VJP returned, if it is one gradient for each input."""
    name, count = type(function).__name__, len(function._edges or ())
    if not isinstance(gradients, tuple):
        kind = type(gradients).__name__
        raise TypeError(f"backward: {name}.vjp returned a {kind}: must be a tuple, such as `return (gx,)`")
    if len(gradients) != count:
        raise RuntimeError(f"backward: {name}.vjp returned {len(gradients)} gradients: must be {count}, one per input")
    return gradients


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


def _fit(gx: Array, shape: tuple, dtype: Any, fresh: bool) -> tuple[Array, bool]:
    """Bring a gradient to the shape and dtype of its input; whether the array is ours to add into."""
    if gx.shape != shape:
        gx, fresh = as_array(unbroadcast(gx, shape)), True  # a sum may be a NumPy scalar
    if gx.dtype != dtype:
        gx, fresh = gx.astype(dtype), True
    return gx, fresh

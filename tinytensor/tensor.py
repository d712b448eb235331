"""The autograd engine: a Tensor remembers the Function that made it, and `backward` walks those back.

Floor 1; it knows of no particular operation. A forward pass builds a graph as it runs:

    Tensor x --+
               +--> Function (Mul) --> Tensor y        y.function is the Mul, and the Mul's inputs are (x, w)
    Tensor w --+

The loss is one number L, and each Function holds a vector-Jacobian product (VJP): given g = dL/dy it returns dL/dx
for each of its inputs x. `backward` calls the VJPs in reverse topological order, summing what reaches a tensor by
several paths, which is the chain rule. First-order gradients only: VJPs compute on raw arrays and are not recorded.

Read `ops/elementwise.py` next, where each operation is a forward and a VJP side by side.
"""

from __future__ import annotations

import heapq
import threading
from contextlib import ContextDecorator

import numpy as np

from tinytensor.backend import array_module, to_numpy


class _GradMode(threading.local):
    enabled = True


_grad_mode = _GradMode()


class no_grad(ContextDecorator):
    """Inside `with no_grad():`, or in a function under `@no_grad()`, no graph is recorded (in this thread)."""

    def __enter__(self):
        self._before = _grad_mode.enabled
        _grad_mode.enabled = False

    def __exit__(self, *exception):
        _grad_mode.enabled = self._before

    def _recreate_cm(self):
        return no_grad()  # a fresh one for each call of a decorated function, which may call itself


class Version:
    """Counts the in-place changes of one array, for `backward` to see whether an array it needs was overwritten."""

    __slots__ = ("changes",)

    def __init__(self):
        self.changes = 0


class Tensor:
    """An array, and how it came to be.

    data: the raw array (NumPy, CuPy or emulated), of any shape and dtype.
    grad: None, or dL/d(this tensor) as a raw array of the same shape and dtype, after `backward` (leaves only).
    function: the Function that computed it, None for a leaf.
    """

    __slots__ = ("__weakref__", "_data", "function", "grad", "requires_grad", "version")
    __array_ufunc__ = None  # makes `ndarray * Tensor` call Tensor.__rmul__

    def __init__(self, data, requires_grad: bool = False):
        self._data = data if not isinstance(data, np.generic) else np.asarray(data)
        if requires_grad and self._data.dtype.kind != "f":
            raise TypeError(f"only floating-point tensors have gradients, this one is {self._data.dtype}")
        self.requires_grad = requires_grad
        self.grad = None
        self.function: Function | None = None
        self.version = Version()

    @property
    def data(self):
        return self._data

    @data.setter
    def data(self, array):
        if array is self._data:  # as after `t.data -= step`: Python assigns what the in-place operation returned
            self.mark_changed()
        else:
            self._data, self.version = array, Version()

    def mark_changed(self) -> None:
        """Say that the array was changed in place; graphs that need its old values will refuse to run backward."""
        self.version.changes += 1

    @property
    def shape(self) -> tuple[int, ...]:
        return self._data.shape

    @property
    def dtype(self):
        return self._data.dtype

    @property
    def ndim(self) -> int:
        return self._data.ndim

    def __len__(self) -> int:
        return len(self._data)

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        """For `np.asarray(x)` and matplotlib: the values, without their gradient."""
        return np.array(self.numpy(), dtype, copy=copy)

    def __repr__(self) -> str:
        values = np.array2string(to_numpy(self._data), separator=", ", prefix="tensor(", precision=4, threshold=100)
        grad = ", requires_grad=True" if self.requires_grad else ""
        if self.function:
            grad = f", function={self.function.name}"
        shape = "" if self._data.size else f", shape={self.shape}"
        dtype = "" if self.dtype in (np.float32, np.int64, np.bool_) else f", dtype={self.dtype}"
        return f"tensor({values}{shape}{dtype}{grad})"

    def numpy(self) -> np.ndarray:
        """The values as a NumPy array; on the CPU it shares this tensor's memory."""
        return to_numpy(self._data)

    def item(self) -> float | int | bool:
        """The value of a tensor with one element, as a Python number (waits for the device)."""
        return self._data.item()

    def detach(self) -> Tensor:
        """The same data as a constant: gradients stop here."""
        return Tensor(self._data)

    def backward(self, gradient=None) -> None:
        """Add dL/dx to `x.grad` of every leaf x this tensor was computed from, and free the graph.

        gradient: dL/d(this tensor), an array or Tensor of this shape; may be left out for a scalar, where it is 1.
        Raises RuntimeError if nothing here requires a gradient, if part of the graph was freed by an earlier call or an
        array in it changed in place (no `grad` changes then, but run forward again); ValueError for a misfit gradient.
        """
        if not self.requires_grad:
            raise RuntimeError("backward: no input of this tensor requires a gradient (set requires_grad=True)")
        _propagate(self, _seed_gradient(self, gradient))


class Function:
    """One application of a differentiable operation; subclass it to make your own.

    `forward(*arrays)` computes the result from raw arrays and keeps on `self` what the VJP will need.
    `vjp(g)` gets dL/dy and returns a tuple with dL/dx per input: arrays it has just made, or views of g, never g
    changed in place, and None where `self.needs_grad[i]` is false. An input that was broadcast may get a gradient
    of the result's shape; the engine sums it down. Instead of an array that is mostly zeros, it may return a function
    that adds the rest into an array of the input's shape. Options go to `__init__`:

        class Scale(Function):
            '''y = c x;  gx = c g'''
            def __init__(self, c): self.c = c
            def forward(self, x): return self.c * x
            def vjp(self, g): return (self.c * g,)

        y = Scale(3.0)(x)
    """

    edges: list | None = None  # set when recorded in a graph, None again once backward has freed it
    _depth = 0  # one more than that of the deepest Function whose result this one was given

    def forward(self, *arrays):
        raise NotImplementedError

    def vjp(self, g) -> tuple:
        raise NotImplementedError

    @property
    def name(self) -> str:
        return type(self).__name__

    def __call__(self, *inputs) -> Tensor:
        """Apply to Tensors; anything else (numbers, raw arrays, None) is passed on as a constant."""
        arrays = [x._data if isinstance(x, Tensor) else x for x in inputs]
        self.needs_grad = tuple([_grad_mode.enabled and isinstance(x, Tensor) and x.requires_grad for x in inputs])
        try:
            y = Tensor(self.forward(*arrays))
        except (ValueError, TypeError) as error:
            kind = ValueError if isinstance(error, ValueError) else TypeError
            raise kind(f"{self.name} of {' and '.join(map(_describe, arrays))}: {error}") from error
        if True in self.needs_grad:
            y.function, y.requires_grad = self, True
            tensors = [x for x in inputs if isinstance(x, Tensor)]
            self.guards = self._guards(tensors, y)
            self._depth = 1 + max([x.function._depth for x in tensors if x.function], default=0)
            # where gradients go, and what they must fit; not the Tensors, which would keep all their arrays alive
            self.edges = [
                (x.function or x, x.shape, x.dtype) if needed else None
                for x, needed in zip(inputs, self.needs_grad, strict=True)
            ]
        return y

    def _guards(self, inputs: list[Tensor], y: Tensor) -> list[tuple]:
        """What to compare before the VJP for each array that was kept: its version now, and words to name it."""
        kept = [id(v) for value in vars(self).values() for v in (value if isinstance(value, tuple) else (value,))]
        roles = [(x, "an input") for x in inputs] + [(y, "the result")]
        return [(x.version, x.version.changes, role, x.shape) for x, role in roles if id(x._data) in kept]

    def _check(self) -> None:
        """Raise RuntimeError if what was kept is no longer there, or an array of it was changed in place."""
        if self.edges is None:
            raise RuntimeError(
                f"backward: the graph through this {self.name} was freed by an earlier backward; run forward again"
            )
        for version, changes, role, shape in self.guards:
            if version.changes != changes:
                raise RuntimeError(
                    f"backward: {role} of {self.name}, shape {shape}, was changed in place after it was used"
                )

    def __lt__(self, other: Function) -> bool:
        """The deepest comes first in a heap."""
        return self._depth > other._depth


def as_function(operation: type[Function]):
    """A plain function that applies an operation without options: exp = as_function(Exp)."""

    def apply(*inputs) -> Tensor:
        return operation()(*inputs)

    apply.__name__, apply.__doc__ = operation.__name__.lower(), operation.__doc__
    return apply


def _describe(x) -> str:
    return f"{x.shape} {x.dtype}" if hasattr(x, "shape") else repr(x)


def _seed_gradient(y: Tensor, gradient):
    xp = array_module(y.data)
    if gradient is None:
        if y.data.size != 1:
            raise RuntimeError(f"backward: a tensor of shape {y.shape} is not a scalar; pass gradient=, its dL/dy")
        return xp.ones(y.shape, dtype=y.dtype)
    g = xp.asarray(gradient.data if isinstance(gradient, Tensor) else gradient, dtype=y.dtype)
    if g.shape != y.shape:
        raise ValueError(f"backward: gradient has shape {g.shape}, the tensor has {y.shape}")
    return g


def _propagate(root: Tensor, g) -> None:
    """Visit Functions from the deepest on, so that all that used a Function's result come before it."""
    sums = _Sums()
    sums.add(root.function or root, g, fresh=False)
    waiting = [root.function] if root.function else []
    while waiting:
        function = heapq.heappop(waiting)
        _pull_back(function, sums, waiting)
        vars(function).clear()  # frees the arrays it kept, and the graph
    for leaf, (g, owned) in sums.items():
        if leaf.grad is not None:
            leaf.grad = array_module(g).add(leaf.grad, g, out=g if owned else None)
        else:
            leaf.grad = g if owned else g.copy()


def _pull_back(function: Function, sums: _Sums, waiting: list[Function]) -> None:
    """Take one Function's gradient from `sums`, add there what its VJP makes of it, and let what it reached wait."""
    function._check()
    g, _ = sums.pop(function)
    gradients = function.vjp(g)
    for edge, gx in zip(function.edges, gradients, strict=True):
        if edge is None:
            continue
        node, shape, dtype = edge
        if isinstance(node, Function) and node not in sums:
            heapq.heappush(waiting, node)
        if gx is None:
            raise RuntimeError(f"backward: {function.name} gave no gradient for its input of shape {shape}")
        if callable(gx):
            sums.add_by(gx, node, shape, dtype, array_module(g))
            continue
        # g itself, a view, or one array for two inputs may be held elsewhere: those are not ours to add into
        fresh = gx is not g and gx.base is None and sum(gx is other for other in gradients) == 1
        sums.add(node, *_fit(gx, shape, dtype, fresh))


def _fit(gx, shape, dtype, fresh: bool):
    """Bring a VJP's result to the shape and dtype of its input: sum over the axes that forward broadcast."""
    if gx.shape != shape:
        extra = gx.ndim - len(shape)
        axes = tuple(range(extra)) + tuple(i + extra for i, n in enumerate(shape) if n == 1)
        gx, fresh = gx.sum(axis=axes).reshape(shape), True
    if gx.dtype != dtype:
        gx, fresh = gx.astype(dtype), True
    # NumPy's arithmetic on 0-d arrays gives scalars, which nothing can be added into
    return (np.asarray(gx) if isinstance(gx, np.generic) else gx), fresh


class _Sums(dict):
    """Gradients under way: Function or leaf -> (sum so far, whether that array is ours to add into)."""

    def add(self, key, g, fresh: bool) -> None:
        if key not in self:
            self[key] = g, fresh
            return
        total, owned = self[key]
        # never into an array that another node may hold; 0-d sums come back as NumPy scalars without out=
        out = total if owned else g if fresh else array_module(g).empty_like(g)
        self[key] = array_module(g).add(total, g, out=out), True

    def add_by(self, add_into, key, shape, dtype, xp) -> None:
        """Let `add_into` add a gradient that is mostly zeros into the sum, a contiguous array that is ours."""
        total, owned = self[key] if key in self else (xp.zeros(shape, dtype=dtype), True)
        total = xp.ascontiguousarray(total) if owned else total.copy(order="C")
        add_into(total)
        self[key] = total, True

"""Gives Tensor its operators and methods: `a + b`, `x[2:]`, `x.sum()`.

Floor 3. The operations stand on Tensor, so Tensor itself cannot name them; this module binds them onto it once they
exist. Read `nn.py` next.
"""

from __future__ import annotations

from tinytensor.backend import array_module, device, device_of
from tinytensor.ops import elementwise, fused, linalg, reduce, shape
from tinytensor.tensor import Tensor


def _swapped(function):
    """For `2 - x`: Python calls x.__rsub__(2)."""
    return lambda x, other: function(other, x)


def _compared(name):
    def compare(x, other) -> Tensor:
        return Tensor(getattr(array_module(x.data), name)(x.data, _raw(other)))

    return compare


def _without_gradient(name):
    def method(x, *args, **kwargs) -> Tensor:
        return Tensor(getattr(x.data, name)(*args, **kwargs))

    method.__doc__ = f"As numpy.ndarray.{name}; it has no gradient."
    return method


def _raw(x):
    return x.data if isinstance(x, Tensor) else x


def setitem(x, index, value) -> None:
    """x[index] = value, in place, for tensors that need no gradient."""
    if x.requires_grad:
        raise RuntimeError("in-place assignment to a tensor that requires a gradient; use where or masked_fill")
    x.data[tuple(map(_raw, index)) if isinstance(index, tuple) else _raw(index)] = _raw(value)
    x.mark_changed()


def iterate(x):
    """The slices x[0], x[1], ..."""
    return (shape.getitem(x, i) for i in range(len(x)))


def to(x, where) -> Tensor:
    """x itself if it is on that device ("cpu", "cuda", ...), else a new leaf there; or x in another dtype."""
    if isinstance(where, str) and where.partition(":")[0] in ("auto", "cpu", "cuda", "emulated"):
        array = device(where).put(x.data)
        return x if array is x.data else Tensor(array, x.requires_grad)
    return elementwise.cast(x, where)


def clone(x) -> Tensor:
    """A copy with its own memory, which passes gradients on."""
    return elementwise.cast(x, x.dtype)


OPERATORS = {
    "__add__": elementwise.add,
    "__radd__": _swapped(elementwise.add),
    "__sub__": elementwise.sub,
    "__rsub__": _swapped(elementwise.sub),
    "__mul__": elementwise.mul,
    "__rmul__": _swapped(elementwise.mul),
    "__truediv__": elementwise.div,
    "__rtruediv__": _swapped(elementwise.div),
    "__pow__": elementwise.pow,
    "__rpow__": _swapped(elementwise.pow),
    "__matmul__": linalg.matmul,
    "__rmatmul__": _swapped(linalg.matmul),
    "__neg__": elementwise.neg,
    "__abs__": elementwise.abs,
    "__eq__": _compared("equal"),
    "__ne__": _compared("not_equal"),
    "__lt__": _compared("less"),
    "__le__": _compared("less_equal"),
    "__gt__": _compared("greater"),
    "__ge__": _compared("greater_equal"),
    "__getitem__": shape.getitem,
    "__setitem__": setitem,
    "__iter__": iterate,
    "__hash__": object.__hash__,  # the engine keys dictionaries by identity, whatever == says
    "__bool__": lambda x: bool(x.data),
    "__float__": lambda x: float(x.item()),
    "__int__": lambda x: int(x.item()),
}

METHODS = {
    elementwise: "abs exp log sqrt tanh sigmoid relu clip pow maximum minimum masked_fill",
    reduce: "sum mean max min var logsumexp",
    shape: "reshape permute transpose swapaxes expand squeeze unsqueeze split tril triu",
    linalg: "matmul",
    fused: "softmax log_softmax",
}

ALIASES = {
    "view": shape.reshape,
    "astype": elementwise.cast,
    "to": to,
    "clone": clone,
    "T": property(shape.transpose),
    "mT": property(lambda x: shape.swapaxes(x, -1, -2)),
    "float": lambda x: elementwise.cast(x, "float32"),
    "long": lambda x: elementwise.cast(x, "int64"),
    "tolist": lambda x: x.numpy().tolist(),
    "numel": lambda x: x.data.size,
    "size": lambda x, axis=None: x.shape if axis is None else x.shape[axis],
    "device": property(lambda x: device_of(x.data).name),
}

for name, function in (OPERATORS | ALIASES).items():
    setattr(Tensor, name, function)
for module, names in METHODS.items():
    for name in names.split():
        setattr(Tensor, name, getattr(module, name))
for name in ("argmax", "argmin", "argsort", "all", "any"):
    setattr(Tensor, name, _without_gradient(name))

"""The operators and methods of a Tensor: `a + b`, `x[2:]`, `x.sum()`.

Each hands over to the operation of its name in `tinytensor.ops`, where the mathematics is. The operations are made of
Tensors, so `tensor.py` cannot import them; a type checker sees Tensor inherit from `Methods`, and when Python imports
this file, its last lines put the methods there. Read `nn/` next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from tinytensor.backend import Device, array_module, device
from tinytensor.ops import activations, elementwise, fused, indexing, linalg, logic, order, reduce, scan, shape
from tinytensor.ops.arguments import torch_names
from tinytensor.tensor import Tensor, TensorLike, is_grad_enabled, raw

# those that take the same arguments as our methods
NUMPY_FUNCTIONS = {
    "all",
    "any",
    "argmax",
    "argmin",
    "argsort",
    "clip",
    "cumprod",
    "cumsum",
    "flip",
    "max",
    "mean",
    "min",
    "prod",
    "reshape",
    "roll",
    "squeeze",
    "std",
    "sum",
    "swapaxes",
    "var",
}


class Methods:
    """What `tensor.py` leaves out of Tensor."""

    __slots__ = ()

    # ---- arithmetic ----

    def __add__(self, other: TensorLike) -> Tensor:
        return elementwise.add(self, other)

    def __radd__(self, other: TensorLike) -> Tensor:
        return elementwise.add(other, self)

    def __sub__(self, other: TensorLike) -> Tensor:
        return elementwise.sub(self, other)

    def __rsub__(self, other: TensorLike) -> Tensor:
        return elementwise.sub(other, self)

    def __mul__(self, other: TensorLike) -> Tensor:
        return elementwise.mul(self, other)

    def __rmul__(self, other: TensorLike) -> Tensor:
        return elementwise.mul(other, self)

    def __truediv__(self, other: TensorLike) -> Tensor:
        return elementwise.div(self, other)

    def __rtruediv__(self, other: TensorLike) -> Tensor:
        return elementwise.div(other, self)

    def __mod__(self, other: TensorLike) -> Tensor:
        return elementwise.remainder(self, other)

    def __rmod__(self, other: TensorLike) -> Tensor:
        return elementwise.remainder(other, self)

    def __floordiv__(self, other: TensorLike) -> Tensor:
        return logic.floor_divide(self, other)

    def __rfloordiv__(self, other: TensorLike) -> Tensor:
        return logic.floor_divide(other, self)

    def __pow__(self, other: TensorLike) -> Tensor:
        return elementwise.pow(self, other)

    def __rpow__(self, other: TensorLike) -> Tensor:
        return elementwise.pow(other, self)

    def __matmul__(self, other: TensorLike) -> Tensor:
        return linalg.matmul(self, other)

    def __rmatmul__(self, other: TensorLike) -> Tensor:
        return linalg.matmul(other, self)

    def __neg__(self) -> Tensor:
        return elementwise.neg(self)

    def __abs__(self) -> Tensor:
        return elementwise.abs(self)

    # ---- bits and truth values, without a gradient ----

    def __and__(self, other: TensorLike) -> Tensor:
        return logic.bitwise_and(self, other)

    def __rand__(self, other: TensorLike) -> Tensor:
        return logic.bitwise_and(other, self)

    def __or__(self, other: TensorLike) -> Tensor:
        return logic.bitwise_or(self, other)

    def __ror__(self, other: TensorLike) -> Tensor:
        return logic.bitwise_or(other, self)

    def __xor__(self, other: TensorLike) -> Tensor:
        return logic.bitwise_xor(self, other)

    def __rxor__(self, other: TensorLike) -> Tensor:
        return logic.bitwise_xor(other, self)

    def __invert__(self) -> Tensor:
        return logic.bitwise_not(self)

    # ---- in place: for tensors that need no gradient, as in PyTorch ----

    def __iadd__(self, other: TensorLike) -> Tensor:
        return _in_place(self, "add", elementwise.add, other)

    def __isub__(self, other: TensorLike) -> Tensor:
        return _in_place(self, "subtract", elementwise.sub, other)

    def __imul__(self, other: TensorLike) -> Tensor:
        return _in_place(self, "multiply", elementwise.mul, other)

    def __itruediv__(self, other: TensorLike) -> Tensor:
        return _in_place(self, "divide", elementwise.div, other)

    def __setitem__(self, index: Any, value: TensorLike) -> None:
        """x[index] = value, in place. Raises RuntimeError if the tensor requires a gradient."""
        x: Any = self
        if is_grad_enabled() and x.requires_grad:
            raise RuntimeError("in-place assignment to a tensor that requires a gradient; use where or masked_fill")
        if is_grad_enabled() and getattr(value, "requires_grad", False):
            raise RuntimeError("in-place assignment would lose the value's gradient; use where, concat or stack")
        x.data[tuple(map(raw, index)) if isinstance(index, tuple) else raw(index)] = raw(value)
        x.mark_changed()

    # ---- comparisons, without a gradient ----

    def __eq__(self, other: TensorLike) -> Tensor:  # type: ignore[override]
        return _compare("equal", self, other)

    def __ne__(self, other: TensorLike) -> Tensor:  # type: ignore[override]
        return _compare("not_equal", self, other)

    def __lt__(self, other: TensorLike) -> Tensor:
        return _compare("less", self, other)

    def __le__(self, other: TensorLike) -> Tensor:
        return _compare("less_equal", self, other)

    def __gt__(self, other: TensorLike) -> Tensor:
        return _compare("greater", self, other)

    def __ge__(self, other: TensorLike) -> Tensor:
        return _compare("greater_equal", self, other)

    # ---- elements and axes ----

    def nelement(self) -> int:
        """The number of elements, as `numel`."""
        return raw(self).size

    def __getitem__(self, index: Any) -> Tensor:
        """x[index] for integers, slices, integer arrays and boolean masks, as in NumPy."""
        return indexing.getitem(self, index)

    def __iter__(self) -> Iterator[Tensor]:
        """The slices x[0], x[1], ..."""
        x: Any = self
        if not x.ndim:
            raise TypeError("iteration over a 0-d tensor")
        return (indexing.getitem(self, i) for i in range(len(x)))

    def reshape(self, *lengths: Any) -> Tensor:
        """With another shape of the same size; one length may be -1."""
        return shape.reshape(self, *lengths)

    def view(self, *lengths: Any) -> Tensor:
        """As `reshape`."""
        return shape.reshape(self, *lengths)

    def flatten(self, start_dim: int = 0, end_dim: int = -1) -> Tensor:
        """With the axes `start_dim` to `end_dim`, both included, made one."""
        return shape.flatten(self, start_dim, end_dim)

    def permute(self, *axes: Any) -> Tensor:
        """With the axes in the order `axes`."""
        return shape.permute(self, *axes)

    def transpose(self, axis1: int | None = None, axis2: int | None = None) -> Tensor:
        """With two axes exchanged; without axes, all of them reversed."""
        return shape.transpose(self, axis1, axis2)

    def swapaxes(self, axis1: int, axis2: int) -> Tensor:
        """With two axes exchanged."""
        return shape.swapaxes(self, axis1, axis2)

    @property
    def T(self) -> Tensor:
        """With all axes reversed."""
        return shape.transpose(self)

    @property
    def mT(self) -> Tensor:
        """With the last two axes exchanged."""
        return shape.swapaxes(self, -1, -2)

    def expand(self, *lengths: Any) -> Tensor:
        """Broadcast to a shape; -1 keeps a length."""
        return shape.expand(self, *lengths)

    @torch_names
    def squeeze(self, axis: Any = None) -> Tensor:
        """Without `axis`, which must have length 1; without all axes of length 1 if None."""
        return shape.squeeze(self, axis)

    @torch_names
    def unsqueeze(self, axis: int) -> Tensor:
        """With a new axis of length 1 at `axis`."""
        return shape.unsqueeze(self, axis)

    @torch_names
    def split(self, size: int | Sequence[int], axis: int = 0) -> tuple[Tensor, ...]:
        """Pieces along `axis`: of `size` each (the last may be smaller), or of the sizes listed."""
        return shape.split(self, size, axis)

    @torch_names
    def chunk(self, chunks: int, axis: int = 0) -> tuple[Tensor, ...]:
        """At most `chunks` pieces along `axis`, all of one size but the last, which may be smaller."""
        return shape.chunk(self, chunks, axis)

    @torch_names
    def unbind(self, axis: int = 0) -> tuple[Tensor, ...]:
        """The slices along `axis`, which they lack."""
        return shape.unbind(self, axis)

    @torch_names
    def gather(self, axis: int, index: TensorLike) -> Tensor:
        """The elements that `index` names along `axis`, one for each of its own."""
        return indexing.gather(self, axis, index)

    def repeat(self, *counts: Any) -> Tensor:
        """Again and again along each axis, as NumPy's `tile`."""
        return shape.repeat(self, *counts)

    @torch_names
    def flip(self, axis: Any = None) -> Tensor:
        """Read backwards along `axis`: one, several, or all if None."""
        return shape.flip(self, axis)

    @torch_names
    def roll(self, shift: int | Sequence[int], axis: Any = None) -> Tensor:
        """With the elements moved by `shift` along `axis`, those that leave at one end coming in at the other."""
        return shape.roll(self, shift, axis)

    def contiguous(self) -> Tensor:
        """In row-major order without gaps: itself if its memory is so, else a copy."""
        return shape.contiguous(self)

    def tril(self, diagonal: int = 0) -> Tensor:
        """The lower triangle of the last two axes: 0 above the given diagonal."""
        return shape.tril(self, diagonal)

    def triu(self, diagonal: int = 0) -> Tensor:
        """The upper triangle of the last two axes: 0 below the given diagonal."""
        return shape.triu(self, diagonal)

    # ---- functions ----

    def abs(self) -> Tensor:
        """|x|, elementwise."""
        return elementwise.abs(self)

    def exp(self) -> Tensor:
        """e ** x, elementwise."""
        return elementwise.exp(self)

    def log(self) -> Tensor:
        """The natural logarithm, elementwise."""
        return elementwise.log(self)

    def sqrt(self) -> Tensor:
        """The square root, elementwise."""
        return elementwise.sqrt(self)

    def square(self) -> Tensor:
        """x * x, elementwise."""
        return elementwise.square(self)

    def sin(self) -> Tensor:
        """The sine, elementwise."""
        return elementwise.sin(self)

    def cos(self) -> Tensor:
        """The cosine, elementwise."""
        return elementwise.cos(self)

    def erf(self) -> Tensor:
        """The error function, elementwise."""
        return activations.erf(self)

    def tanh(self) -> Tensor:
        """The hyperbolic tangent, elementwise."""
        return elementwise.tanh(self)

    def sigmoid(self) -> Tensor:
        """1 / (1 + exp(-x)), elementwise."""
        return activations.sigmoid(self)

    def relu(self) -> Tensor:
        """max(x, 0), elementwise."""
        return activations.relu(self)

    def pow(self, exponent: TensorLike) -> Tensor:
        """x ** exponent, elementwise."""
        return elementwise.pow(self, exponent)

    def clip(self, min: TensorLike = None, max: TensorLike = None) -> Tensor:
        """Limited to [min, max], numbers or tensors; None means no limit on that side."""
        return elementwise.clip(self, min, max)

    def clamp(self, min: TensorLike = None, max: TensorLike = None) -> Tensor:
        """As `clip`."""
        return elementwise.clip(self, min, max)

    def maximum(self, other: TensorLike) -> Tensor:
        """The larger of two, elementwise."""
        return elementwise.maximum(self, other)

    def minimum(self, other: TensorLike) -> Tensor:
        """The smaller of two, elementwise."""
        return elementwise.minimum(self, other)

    def masked_fill(self, mask: TensorLike, value: TensorLike) -> Tensor:
        """With `value` where the boolean `mask` is true."""
        return elementwise.masked_fill(self, mask, value)

    def isnan(self) -> Tensor:
        """Where it is NaN."""
        return logic.isnan(self)

    def isfinite(self) -> Tensor:
        """Where it is neither infinite nor NaN."""
        return logic.isfinite(self)

    def allclose(self, other: TensorLike, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> bool:
        """Whether |x - other| <= atol + rtol |other| everywhere."""
        return logic.allclose(self, other, rtol, atol, equal_nan)

    def matmul(self, other: TensorLike) -> Tensor:
        """The matrix product with `other`."""
        return linalg.matmul(self, other)

    @torch_names
    def softmax(self, axis: int = -1) -> Tensor:
        """exp(x) / sum(exp(x)) along `axis`."""
        return fused.softmax(self, axis)

    @torch_names
    def log_softmax(self, axis: int = -1) -> Tensor:
        """log(softmax(x)) along `axis`."""
        return fused.log_softmax(self, axis)

    # ---- reductions ----

    @torch_names
    def sum(self, axis: Any = None, keepdims: bool = False) -> Tensor:
        """The sum over `axis` (None: over everything)."""
        return reduce.sum(self, axis, keepdims)

    @torch_names
    def prod(self, axis: Any = None, keepdims: bool = False) -> Tensor:
        """The product over `axis`."""
        return reduce.prod(self, axis, keepdims)

    @torch_names
    def cumsum(self, axis: int | None = None) -> Tensor:
        """The sums of the elements so far along `axis`, or of the flattened tensor if None."""
        return scan.cumsum(self, axis)

    @torch_names
    def cumprod(self, axis: int | None = None) -> Tensor:
        """The products of the elements so far along `axis`, or of the flattened tensor if None."""
        return scan.cumprod(self, axis)

    @torch_names
    def mean(self, axis: Any = None, keepdims: bool = False) -> Tensor:
        """The mean over `axis`."""
        return reduce.mean(self, axis, keepdims)

    @torch_names
    def max(self, axis: Any = None, keepdims: bool = False) -> Tensor:
        """The maximum over `axis`."""
        return reduce.max(self, axis, keepdims)

    @torch_names
    def min(self, axis: Any = None, keepdims: bool = False) -> Tensor:
        """The minimum over `axis`."""
        return reduce.min(self, axis, keepdims)

    @torch_names
    def var(self, axis: Any = None, keepdims: bool = False, ddof: int = 0) -> Tensor:
        """The variance over `axis`, with n - ddof as divisor."""
        return reduce.var(self, axis, keepdims, ddof)

    @torch_names
    def std(self, axis: Any = None, keepdims: bool = False, ddof: int = 0) -> Tensor:
        """The standard deviation over `axis`, with n - ddof as divisor."""
        return reduce.std(self, axis, keepdims, ddof)

    @torch_names
    def norm(self, p: float = 2, axis: Any = None, keepdims: bool = False) -> Tensor:
        """The p-norm over `axis`, for p of 1, 2 or infinity."""
        return reduce.norm(self, p, axis, keepdims)

    @torch_names
    def logsumexp(self, axis: Any = None, keepdims: bool = False) -> Tensor:
        """log(sum(exp(x))) over `axis`, without overflow."""
        return reduce.logsumexp(self, axis, keepdims)

    @torch_names
    def argmax(self, axis: int | None = None, keepdims: bool = False) -> Tensor:
        """Where the maximum is along `axis`, or in the flattened tensor; it has no gradient."""
        return order.argmax(self, axis, keepdims)

    @torch_names
    def argmin(self, axis: int | None = None, keepdims: bool = False) -> Tensor:
        """Where the minimum is along `axis`, or in the flattened tensor; it has no gradient."""
        return order.argmin(self, axis, keepdims)

    @torch_names
    def argsort(self, axis: int = -1, descending: bool = False) -> Tensor:
        """The order that sorts the elements along `axis`, equal ones kept in their order; it has no gradient."""
        return order.argsort(self, axis, descending)

    @torch_names
    def sort(self, axis: int = -1, descending: bool = False) -> order.Ordered:
        """(values, indices): sorted along `axis`, and where each element was."""
        return order.sort(self, axis, descending)

    @torch_names
    def topk(self, k: int, axis: int = -1, largest: bool = True) -> order.Ordered:
        """(values, indices) of the k largest elements along `axis`, or the smallest; the most extreme comes first."""
        return order.topk(self, k, axis, largest)

    @torch_names
    def all(self, axis: Any = None, keepdims: bool = False) -> Tensor:
        """Whether all elements over `axis` are true."""
        return reduce.all(self, axis, keepdims)

    @torch_names
    def any(self, axis: Any = None, keepdims: bool = False) -> Tensor:
        """Whether any element over `axis` is true."""
        return reduce.any(self, axis, keepdims)

    # ---- dtype and device ----

    def astype(self, dtype: Any) -> Tensor:
        """A copy in another dtype."""
        return elementwise.cast(self, dtype)

    def float(self) -> Tensor:
        """A copy in float32."""
        return elementwise.cast(self, np.float32)

    def long(self) -> Tensor:
        """A copy in int64."""
        return elementwise.cast(self, np.int64)

    def double(self) -> Tensor:
        """A copy in float64."""
        return elementwise.cast(self, np.float64)

    def type(self, dtype: Any) -> Tensor:
        """A copy in another dtype, as `astype`."""
        return elementwise.cast(self, dtype)

    def clone(self) -> Tensor:
        """A copy with its own memory, which passes gradients on."""
        return elementwise.cast(self, raw(self).dtype)

    def to(self, where: Any) -> Tensor:
        """On another device ("cpu", "cuda", ...) as a new leaf, itself if it is there; or a copy in another dtype.

        Raises ValueError for what names neither, DeviceError for a device that is not there.
        """
        x: Any = self
        if isinstance(where, Device) or str(where).partition(":")[0] in ("auto", "cpu", "cuda", "emulated"):
            array = device(where).put(x.data)
            return x if array is x.data else Tensor(array, x.requires_grad)
        try:
            dtype = np.dtype(where)
        except TypeError:
            raise ValueError(f"to({where!r}): is neither a device (cpu, cuda, cuda:N, emulated) nor a dtype") from None
        return elementwise.cast(self, dtype)

    # ---- NumPy's functions ----

    def __array_function__(self, function: Callable, types: Any, args: tuple, kwargs: dict) -> Any:
        """`np.sum(x)` is `x.sum()`, with its gradient; other functions get the values, unless a gradient would be lost.

        Raises TypeError if it would.
        """
        if function.__name__ in NUMPY_FUNCTIONS and args and isinstance(args[0], Tensor):
            return getattr(Methods, function.__name__)(*args, **kwargs)
        return function(*_to_numpy(args, function), **_to_numpy(kwargs, function))


def _in_place(x: Any, ufunc: str, operation: Callable, other: TensorLike) -> Tensor:
    """x changed by a ufunc in its own memory; out of place for a result that gradients flow through."""
    if is_grad_enabled() and (x.requires_grad or getattr(other, "requires_grad", False)):
        if x.requires_grad and x.function is None:
            raise RuntimeError(
                "in-place change of a leaf that requires a gradient; inside no_grad it is allowed, or write x = x + y"
            )
        return operation(x, other)
    if x.dtype.kind != "f" and getattr(raw(other), "dtype", np.dtype(type(other))).kind == "f":
        raise TypeError(f"in-place {ufunc} of floats to {x.dtype}: the result would not fit; write x = x + y")
    getattr(array_module(x.data), ufunc)(x.data, raw(other), out=x.data)
    x.mark_changed()
    return x


def _compare(ufunc: str, x: Any, other: TensorLike) -> Tensor:
    return Tensor(getattr(array_module(x.data), ufunc)(x.data, raw(other)))


def _to_numpy(value: Any, function: Callable) -> Any:
    """`value` with its Tensors, also those in lists and dicts, as NumPy arrays, for a function of NumPy."""
    if isinstance(value, Tensor):
        if value.requires_grad and is_grad_enabled():
            name = function.__name__
            raise TypeError(f"np.{name} would lose the gradient; use an operation of tt, or x.detach()")
        return value.numpy()
    if isinstance(value, (tuple, list)):
        return type(value)([_to_numpy(item, function) for item in value])
    if isinstance(value, dict):
        return {name: _to_numpy(item, function) for name, item in value.items()}
    return value


for _name, _method in vars(Methods).items():
    if _name not in ("__module__", "__qualname__", "__doc__", "__slots__", "__hash__"):
        if callable(_method):
            _method.__qualname__ = f"Tensor.{_name}"  # for error messages
        setattr(Tensor, _name, _method)

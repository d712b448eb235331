"""Makes tensors: from data, constant, in ranges, random.

Floats are float32 unless a dtype is given, integers int64; NumPy arrays keep their dtype. Random values come from the
current key (`random.py`), or from a `generator`, and are the same on every device.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from tinytensor.backend import Device, array_module, device, device_of, to_numpy
from tinytensor.ops.arguments import as_ints
from tinytensor.random import Generator, random_generator
from tinytensor.tensor import DEFAULT_DTYPE, Array, Tensor, TensorLike, as_array


def tensor(
    data: TensorLike, dtype: DTypeLike | None = None, requires_grad: bool = False, device: str | Device = "cpu"
) -> Tensor:
    """A copy of `data` (a number, nested lists, an array or a Tensor) as a Tensor.

    dtype: of the data if it is an array; otherwise float32 for floats, int64 for integers, bool for booleans.
    Raises TypeError for data that is not numeric, and if requires_grad is asked for anything but floats.
    """
    array = as_array(data, dtype)
    return _on(device, array.copy(), requires_grad)


def LongTensor(data: TensorLike) -> Tensor:
    """`tensor` of dtype int64, by its old name in PyTorch."""
    return tensor(data, dtype=np.int64)


def from_numpy(array: np.ndarray) -> Tensor:
    """A Tensor that shares the memory of `array`."""
    return Tensor(array)


def zeros(
    *shape: Any, dtype: DTypeLike = DEFAULT_DTYPE, requires_grad: bool = False, device: str | Device = "cpu"
) -> Tensor:
    """A tensor of zeros: zeros(2, 3) or zeros((2, 3))."""
    return _on(device, np.zeros(_shape(shape), dtype), requires_grad)


def ones(
    *shape: Any, dtype: DTypeLike = DEFAULT_DTYPE, requires_grad: bool = False, device: str | Device = "cpu"
) -> Tensor:
    """A tensor of ones."""
    return _on(device, np.ones(_shape(shape), dtype), requires_grad)


def full(
    shape: Any,
    value: float,
    *,
    dtype: DTypeLike = DEFAULT_DTYPE,
    requires_grad: bool = False,
    device: str | Device = "cpu",
) -> Tensor:
    """A tensor filled with `value`."""
    return _on(device, np.full(shape, value, dtype), requires_grad)


def empty(
    *shape: Any, dtype: DTypeLike = DEFAULT_DTYPE, requires_grad: bool = False, device: str | Device = "cpu"
) -> Tensor:
    """A tensor whose values are whatever the memory held."""
    return _on(device, np.empty(_shape(shape), dtype), requires_grad)


def arange(
    start: float,
    stop: float | None = None,
    step: float = 1,
    *,
    dtype: DTypeLike | None = None,
    requires_grad: bool = False,
    device: str | Device = "cpu",
) -> Tensor:
    """start, start + step, ... below stop; arange(n) is 0..n-1. Integers give int64, floats float32."""
    array = np.arange(start, step=step) if stop is None else np.arange(start, stop, step)
    return _on(device, array.astype(dtype or (DEFAULT_DTYPE if array.dtype.kind == "f" else np.int64)), requires_grad)


def linspace(
    start: float,
    stop: float,
    steps: int,
    *,
    dtype: DTypeLike = DEFAULT_DTYPE,
    requires_grad: bool = False,
    device: str | Device = "cpu",
) -> Tensor:
    """`steps` evenly spaced values from start to stop, both included."""
    return _on(device, np.linspace(start, stop, steps, dtype=dtype), requires_grad)


def logspace(
    start: float,
    stop: float,
    steps: int,
    base: float = 10.0,
    *,
    dtype: DTypeLike = DEFAULT_DTYPE,
    requires_grad: bool = False,
    device: str | Device = "cpu",
) -> Tensor:
    """`steps` values from base**start to base**stop, evenly spaced on a log scale."""
    return _on(device, np.logspace(start, stop, steps, base=base, dtype=dtype), requires_grad)


def eye(
    rows: int,
    columns: int | None = None,
    *,
    dtype: DTypeLike = DEFAULT_DTYPE,
    requires_grad: bool = False,
    device: str | Device = "cpu",
) -> Tensor:
    """Ones on the diagonal, zeros elsewhere."""
    return _on(device, np.eye(rows, columns, dtype=dtype), requires_grad)


def rand(
    *shape: Any,
    generator: Generator | None = None,
    dtype: Any = DEFAULT_DTYPE,
    requires_grad: bool = False,
    device: str | Device = "cpu",
) -> Tensor:
    """Uniform in [0, 1)."""
    values = random_generator(generator).random(_shape(shape), _drawn_in("rand", dtype))
    return _on(device, values.astype(dtype), requires_grad)


def randn(
    *shape: Any,
    generator: Generator | None = None,
    dtype: Any = DEFAULT_DTYPE,
    requires_grad: bool = False,
    device: str | Device = "cpu",
) -> Tensor:
    """Normal with mean 0 and variance 1."""
    values = random_generator(generator).standard_normal(_shape(shape), _drawn_in("randn", dtype))
    return _on(device, values.astype(dtype), requires_grad)


def randint(
    low: int,
    high: Any,
    shape: Any = None,
    *,
    generator: Generator | None = None,
    dtype: DTypeLike = np.int64,
    device: str | Device = "cpu",
) -> Tensor:
    """Integers, uniform in low..high-1; randint(high, shape) has low = 0, as in PyTorch."""
    if shape is None:
        if isinstance(high, (int, np.integer)):
            raise TypeError(f"randint({low}, {high}): give a shape, such as randint({low}, {high}, (2, 3))")
        low, high, shape = 0, low, high
    return _on(device, random_generator(generator).integers(low, high, _shape((shape,)), dtype))


def one_hot(ids: TensorLike, num_classes: int = -1) -> Tensor:
    """int64 vectors of zeros with a 1 at each id: integers (...) in 0 ... num_classes - 1 -> (..., num_classes).

    num_classes: -1 means one more than the largest id. Raises TypeError for others than integers, IndexError for an id
    out of range.
    """
    array = as_array(ids)
    if array.dtype.kind not in "iu":
        raise TypeError(f"one_hot: ids of dtype {array.dtype}: must be integers")
    low, high = (int(array.min()), int(array.max())) if array.size else (0, -1)
    classes = high + 1 if num_classes == -1 else num_classes
    if low < 0 or high >= classes:
        raise IndexError(f"one_hot: ids from {low} to {high}: must lie in 0..{classes - 1}")
    return Tensor((array[..., None] == array_module(array).arange(classes)).astype(np.int64))


def multinomial(
    probabilities: TensorLike, num_samples: int, replacement: bool = False, *, generator: Generator | None = None
) -> Tensor:
    """Draw indices with the given weights, not negative: (V,) -> (num_samples,), or (N, V) -> (N, num_samples).

    Rows need not sum to 1. Raises ValueError for weights of another shape, for a row without enough positive weights,
    and for fewer than 1 sample.
    """
    weights = to_numpy(as_array(probabilities)).astype(np.float64)
    if weights.ndim not in (1, 2):
        raise ValueError(f"multinomial: weights have shape {weights.shape}: must be (V,) or (N, V)")
    if num_samples < 1:
        raise ValueError(f"multinomial: num_samples {num_samples}: must be at least 1")
    rows = np.atleast_2d(weights)
    enough = 1 if replacement else num_samples
    if (rows < 0).any() or not np.isfinite(rows).all() or ((rows > 0).sum(axis=1) < enough).any():
        raise ValueError(f"multinomial: each row needs finite weights >= 0, at least {enough} of them positive")
    uniform = random_generator(generator).random((len(rows), num_samples if replacement else rows.shape[1]))
    if replacement:  # invert the cumulative distribution
        cumulative = (rows / rows.max(axis=1, keepdims=True)).cumsum(axis=1)  # of huge weights, which would overflow
        cumulative /= cumulative[:, -1:]  # ends in exactly 1, above every u
        picks = np.stack([np.searchsorted(c, u, side="right") for c, u in zip(cumulative, uniform, strict=True)])
    else:  # the first arrivals of exponential clocks with these rates (Efraimidis & Spirakis 2006)
        with np.errstate(divide="ignore", invalid="ignore"):
            arrivals = np.log(-np.log1p(-uniform)) - np.log(rows)  # their logarithms: tiny rates must not overflow
            picks = np.argsort(arrivals, axis=1, kind="stable")[:, :num_samples]
    return _on(device_of(as_array(probabilities)), picks.reshape(*weights.shape[:-1], num_samples))


def zeros_like(x: Tensor, dtype: DTypeLike | None = None, requires_grad: bool = False) -> Tensor:
    """Zeros with the shape, dtype and device of x."""
    return zeros(x.shape, dtype=dtype or x.dtype, requires_grad=requires_grad, device=x.device)


def ones_like(x: Tensor, dtype: DTypeLike | None = None, requires_grad: bool = False) -> Tensor:
    """Ones with the shape, dtype and device of x."""
    return ones(x.shape, dtype=dtype or x.dtype, requires_grad=requires_grad, device=x.device)


def full_like(x: Tensor, value: float, dtype: DTypeLike | None = None, requires_grad: bool = False) -> Tensor:
    """`value` everywhere, with the shape, dtype and device of x."""
    return full(x.shape, value, dtype=dtype or x.dtype, requires_grad=requires_grad, device=x.device)


def empty_like(x: Tensor, dtype: DTypeLike | None = None, requires_grad: bool = False) -> Tensor:
    """Whatever the memory held, with the shape, dtype and device of x."""
    return empty(x.shape, dtype=dtype or x.dtype, requires_grad=requires_grad, device=x.device)


def rand_like(x: Tensor, dtype: DTypeLike | None = None, requires_grad: bool = False) -> Tensor:
    """Uniform in [0, 1), with the shape, dtype and device of x."""
    return rand(x.shape, dtype=dtype or x.dtype, requires_grad=requires_grad, device=x.device)


def randn_like(x: Tensor, dtype: DTypeLike | None = None, requires_grad: bool = False) -> Tensor:
    """Normal with mean 0 and variance 1, with the shape, dtype and device of x."""
    return randn(x.shape, dtype=dtype or x.dtype, requires_grad=requires_grad, device=x.device)


def randint_like(x: Tensor, low: int, high: int) -> Tensor:
    """`randint` with the shape and device of x."""
    return randint(low, high, x.shape, device=x.device)


def _on(where: str | Device, array: Array, requires_grad: bool = False) -> Tensor:
    return Tensor(device(where).put(array), requires_grad)


def _shape(shape: tuple) -> tuple[int, ...]:
    """Lengths given as f(2, 3) or f((2, 3)). Raises TypeError for other than integers, ValueError for negative ones."""
    lengths = as_ints("shape", shape)
    if any(n < 0 for n in lengths):
        raise ValueError(f"shape {lengths}: must not be negative")
    return lengths


def _drawn_in(name: str, dtype: Any) -> Any:
    """The dtype in which NumPy draws floats of `dtype`: float32 also for float16."""
    if np.dtype(dtype).kind != "f":
        raise TypeError(f"{name}: dtype {np.dtype(dtype)}: must be floating-point")
    return np.float64 if np.dtype(dtype) == np.float64 else np.float32

"""Makes tensors: from data, constant, in ranges, random.

Floor 3, beside `operators.py`. Floats are float32 unless a dtype is given, integers int64; NumPy arrays keep their
dtype. Random values come from the current key (`random.py`) and are the same on every device.
"""

from __future__ import annotations

import numpy as np

from tinytensor.backend import Device, device, to_numpy
from tinytensor.random import random_generator
from tinytensor.tensor import Tensor

DEFAULT_DTYPE = np.float32


def tensor(data, dtype=None, requires_grad: bool = False, device: str | Device = "cpu") -> Tensor:
    """A copy of `data` (a number, nested lists, an array or a Tensor) as a Tensor.

    dtype: of the data if it is an array; otherwise float32 for floats, int64 for integers, bool for booleans.
    Raises TypeError if requires_grad is asked for anything but floats.
    """
    if isinstance(data, Tensor):
        data = data.data
    keeps_dtype = hasattr(data, "dtype")
    array = np.array(to_numpy(data), dtype=dtype)
    if dtype is None and not keeps_dtype and array.dtype == np.float64:
        array = array.astype(DEFAULT_DTYPE)
    return _on(device, array, requires_grad)


def from_numpy(array: np.ndarray) -> Tensor:
    """A Tensor that shares the memory of `array`."""
    return Tensor(array)


def zeros(*shape, dtype=DEFAULT_DTYPE, requires_grad=False, device="cpu") -> Tensor:
    """A tensor of zeros: zeros(2, 3) or zeros((2, 3))."""
    return _on(device, np.zeros(_shape(shape), dtype), requires_grad)


def ones(*shape, dtype=DEFAULT_DTYPE, requires_grad=False, device="cpu") -> Tensor:
    """A tensor of ones."""
    return _on(device, np.ones(_shape(shape), dtype), requires_grad)


def full(shape, value, dtype=DEFAULT_DTYPE, requires_grad=False, device="cpu") -> Tensor:
    """A tensor filled with `value`."""
    return _on(device, np.full(shape, value, dtype), requires_grad)


def empty(*shape, dtype=DEFAULT_DTYPE, requires_grad=False, device="cpu") -> Tensor:
    """A tensor whose values are whatever the memory held."""
    return _on(device, np.empty(_shape(shape), dtype), requires_grad)


def arange(start, stop=None, step=1, dtype=None, requires_grad=False, device="cpu") -> Tensor:
    """start, start + step, ... below stop; arange(n) is 0..n-1. Integers give int64, floats float32."""
    array = np.arange(start, step=step) if stop is None else np.arange(start, stop, step)
    return _on(device, array.astype(dtype or (DEFAULT_DTYPE if array.dtype.kind == "f" else np.int64)), requires_grad)


def linspace(start, stop, steps, dtype=DEFAULT_DTYPE, requires_grad=False, device="cpu") -> Tensor:
    """`steps` evenly spaced values from start to stop, both included."""
    return _on(device, np.linspace(start, stop, steps, dtype=dtype), requires_grad)


def logspace(start, stop, steps, base=10.0, dtype=DEFAULT_DTYPE, requires_grad=False, device="cpu") -> Tensor:
    """`steps` values from base**start to base**stop, evenly spaced on a log scale."""
    return _on(device, np.logspace(start, stop, steps, base=base, dtype=dtype), requires_grad)


def eye(rows, columns=None, dtype=DEFAULT_DTYPE, requires_grad=False, device="cpu") -> Tensor:
    """Ones on the diagonal, zeros elsewhere."""
    return _on(device, np.eye(rows, columns, dtype=dtype), requires_grad)


def rand(*shape, dtype=DEFAULT_DTYPE, requires_grad=False, device="cpu") -> Tensor:
    """Uniform in [0, 1)."""
    return _on(device, random_generator().random(_shape(shape), dtype), requires_grad)


def randn(*shape, dtype=DEFAULT_DTYPE, requires_grad=False, device="cpu") -> Tensor:
    """Normal with mean 0 and variance 1."""
    return _on(device, random_generator().standard_normal(_shape(shape), dtype), requires_grad)


def randint(low, high, shape, dtype=np.int64, device="cpu") -> Tensor:
    """Integers, uniform in low..high-1."""
    return _on(device, random_generator().integers(low, high, _shape((shape,)), dtype))


def multinomial(probabilities: Tensor, samples: int, replacement: bool = False) -> Tensor:
    """Draw indices with the given weights: probabilities (V,) or (N, V), not negative -> (samples,) or (N, samples).

    Rows need not sum to 1. Raises ValueError for a row without enough positive weights.
    """
    weights = probabilities.numpy().astype(np.float64)
    rows = np.atleast_2d(weights)
    enough = 1 if replacement else samples
    if (rows < 0).any() or not np.isfinite(rows).all() or ((rows > 0).sum(axis=1) < enough).any():
        raise ValueError(f"multinomial: each row needs finite weights >= 0, at least {enough} of them positive")
    uniform = random_generator().random((len(rows), samples if replacement else rows.shape[1]))
    if replacement:  # invert the cumulative distribution
        cumulative = rows.cumsum(axis=1)
        cumulative /= cumulative[:, -1:]  # ends in exactly 1, above every u
        picks = np.stack([np.searchsorted(c, u, side="right") for c, u in zip(cumulative, uniform, strict=True)])
    else:  # the first arrivals of exponential clocks with these rates (Efraimidis & Spirakis 2006)
        with np.errstate(divide="ignore"):
            picks = np.argsort(-np.log1p(-uniform) / rows, axis=1, kind="stable")[:, :samples]
    return _on(probabilities.device, picks.reshape(*weights.shape[:-1], samples))


def _like(create):
    def create_like(x: Tensor, *args, dtype=None, **kwargs) -> Tensor:
        return create(x.shape, *args, dtype=dtype or x.dtype, device=x.device, **kwargs)

    create_like.__doc__ = f"`{create.__name__}` with the shape, dtype and device of x."
    return create_like


zeros_like, ones_like, full_like, empty_like = map(_like, (zeros, ones, full, empty))
rand_like, randn_like = map(_like, (rand, randn))


def randint_like(x: Tensor, low, high) -> Tensor:
    """`randint` with the shape and device of x."""
    return randint(low, high, x.shape, device=x.device)


def _on(where, array, requires_grad=False) -> Tensor:
    return Tensor(device(where).put(array), requires_grad)


def _shape(shape: tuple) -> tuple[int, ...]:
    """Accept f(2, 3) and f((2, 3)) alike."""
    return tuple(shape[0]) if len(shape) == 1 and not isinstance(shape[0], (int, np.integer)) else shape

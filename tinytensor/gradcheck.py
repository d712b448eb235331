"""Checks a VJP against finite differences: the proof that a gradient is right.

For a function f and any direction u, the derivative along u can be had in two ways:

    numeric   (f(x + h u) - f(x - h u)) / 2h . g        analytic   <vjp(g), u>

which must agree for a random g. With few inputs, u runs through all unit vectors; with many, through random ones,
since a wrong gradient is almost surely seen along a random direction. Use it on your own Function:

    gradcheck(lambda x: Square(3.0)(x), np.random.randn(4, 5))
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tinytensor.tensor import Function, Tensor, TensorLike, raw

FULL_SIZE = 64  # inputs of up to this many elements are checked one element at a time
DIRECTIONS = 8


class GradientMismatch(AssertionError):
    """An analytic gradient disagrees with finite differences; the message shows both."""


def gradcheck(
    fn: Callable, *inputs: TensorLike, rtol: float = 1e-5, atol: float = 1e-7, eps: float = 1e-5, seed: int = 0
) -> bool:
    """Raise GradientMismatch unless the gradients of `fn` at `inputs` agree with central differences; returns True.

    fn: takes one Tensor per input and returns one Tensor, of any shape. It is called many times.
    inputs: floating-point arrays, Tensors or lists, checked in float64 whatever their dtype (finite differences need
        it), one after the other or in one tuple; anything else is passed on unchanged, as a constant. Keep them off
        kinks and poles.
    rtol, atol: the bound on |numeric - analytic|, relative to the larger of the two and absolute.
    eps: the h of the central difference, an absolute step; its error is of the order of h^2 + 1e-16 / h.
    Raises ValueError if there is nothing to check, TypeError if `fn` does not return a Tensor or is a Function object.
    """
    if isinstance(fn, Function):
        name = type(fn).__name__
        raise TypeError(f"gradcheck: fn is called many times, a Function applied once: pass lambda x: {name}(...)(x)")
    if len(inputs) == 1 and isinstance(inputs[0], tuple):
        inputs = inputs[0]
    rng = np.random.default_rng(seed)
    arrays = [_checked(x) for x in inputs]
    if not any(map(_is_checked, arrays)):
        raise ValueError("gradcheck: none of the inputs is floating-point, so there is no gradient to check")
    tensors = [Tensor(x, requires_grad=True) if _is_checked(x) else x for x in arrays]
    y = fn(*tensors)
    if not isinstance(y, Tensor):
        raise TypeError(f"gradcheck: {_describe(fn, arrays)} returned a {type(y).__name__}: must be a Tensor")
    g = rng.standard_normal(y.shape)
    try:
        y.backward(g)
    except (RuntimeError, TypeError, ValueError) as error:  # a gradient that is missing, or of the wrong shape
        raise GradientMismatch(f"{_describe(fn, arrays)}: {error}") from error
    for i, x in enumerate(arrays):
        if _is_checked(x):
            grad = tensors[i].grad
            analytic = np.zeros_like(x) if grad is None else grad
            for u in _directions(x, rng):
                numeric = _central_difference(fn, arrays, i, eps * u, g) / eps
                along = float(np.sum(analytic * u))
                if not abs(numeric - along) <= atol + rtol * max(abs(numeric), abs(along)):  # NaN is a mismatch too
                    raise GradientMismatch(
                        f"{_describe(fn, arrays)}: the gradient of input {i} at {_place(u)} is "
                        f"{numeric:.10g} by finite differences but {along:.10g} by backward"
                    )
    return True


def _checked(x):
    """A floating-point input in float64; anything else as it is."""
    x = raw(x)
    x = np.asarray(x) if isinstance(x, (list, float)) else x
    return x.astype(np.float64, copy=False) if isinstance(x, np.ndarray) and x.dtype.kind == "f" else x


def _is_checked(x: object) -> bool:
    return isinstance(x, np.ndarray) and x.dtype == np.float64


def _directions(x, rng):
    """Every unit vector for a small x, some random directions for a large one; shape of x each."""
    if x.size <= FULL_SIZE:
        for index in np.ndindex(x.shape):
            u = np.zeros(x.shape)
            u[index] = 1.0
            yield u
    else:
        for _ in range(DIRECTIONS):
            yield rng.standard_normal(x.shape)


def _central_difference(fn: Callable, arrays: list, i: int, shift: np.ndarray, g: np.ndarray) -> float:
    """<g, f(..., x_i + shift, ...) - f(..., x_i - shift, ...)> / 2."""
    above, below = (
        fn(*[Tensor(x + s) if j == i else _constant(x) for j, x in enumerate(arrays)]).data for s in (shift, -shift)
    )
    return float(np.sum(g * (above - below)) / 2)


def _constant(x):
    return Tensor(x) if _is_checked(x) else x


def _place(u: np.ndarray) -> str:
    """Words for a direction of `_directions`."""
    element = tuple(map(int, np.unravel_index(np.argmax(u), u.shape)))
    return f"element {element}" if u.size <= FULL_SIZE else "a random direction"


def _describe(fn: Callable, arrays: list) -> str:
    shapes = ", ".join(str(getattr(x, "shape", x)) for x in arrays)
    return f"{getattr(fn, '__name__', fn)} of inputs {shapes}"

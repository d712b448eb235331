"""Elementwise operations with NumPy's broadcasting.

Each class is one operation: `forward`, then its VJP, with the formula in the docstring (g = dL/dy, gx = dL/dx). Where
the inputs broadcast, a VJP returns gradients of the result's shape and the engine sums them down, so `Add.vjp` is just
`g, g`. The dtype rules are in `dtypes.py`. The public functions follow at the end of the file. Read `reduce.py` next.
"""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import DTypeLike

from kernels.dtypes import is_floating
from tinytensor.backend import array_module
from tinytensor.ops.arguments import F, as_tensor
from tinytensor.ops.dtypes import boolean, floating, module_of, promoted
from tinytensor.tensor import Function, Tensor, TensorLike, as_array, raw

FLOAT16 = np.dtype(np.float16)


class Add(Function):
    """y = a + b;  ga = g,  gb = g"""

    def forward(self, a, b):
        a, b = promoted(a, b)
        return a + b

    def vjp(self, g):
        return g, g


class Sub(Function):
    """y = a - b;  ga = g,  gb = -g"""

    def forward(self, a, b):
        a, b = promoted(a, b)
        return a - b

    def vjp(self, g):
        return g, (-g if self.needs_grad[1] else None)


class Mul(Function):
    """y = a b;  ga = g b,  gb = g a"""

    def forward(self, a, b):
        a, b = promoted(a, b)
        self.a = self.save(a) if self.needs_grad[1] else None
        self.b = self.save(b) if self.needs_grad[0] else None
        return a * b

    def vjp(self, g):
        return (g * self.b if self.needs_grad[0] else None), (g * self.a if self.needs_grad[1] else None)


class Div(Function):
    """y = a / b;  ga = g / b,  gb = -g y / b"""

    def forward(self, a, b):
        a, b = promoted(a, b)
        y = floating(a) / floating(b)
        self.b, self.y = self.save(b), self.save(y) if self.needs_grad[1] else None
        return y

    def vjp(self, g):
        ga = g / self.b
        return ga, (-ga * self.y if self.needs_grad[1] else None)


class Remainder(Function):
    """y = a - b floor(a / b), which has the sign of b;  ga = g,  gb = -g floor(a / b)"""

    def forward(self, a, b):
        self.a, self.b = self.save(*promoted(a, b))
        return module_of(a, b).remainder(self.a, self.b)

    def vjp(self, g):
        return g, (-g * array_module(g).floor_divide(self.a, self.b) if self.needs_grad[1] else None)


class Pow(Function):
    """y = a^b;  ga = g b a^(b-1),  gb = g y log(a), and 0 where a = 0 (y is constant in b there)"""

    def forward(self, a, b):
        a, b = promoted(a, b)
        self.a, self.b, self.y = self.save(a, b, a**b)
        return self.y

    def vjp(self, g):
        a, b, xp = self.a, self.b, array_module(g)
        # the exponent is b - 1, but 0 for b = 0: a^0 is constant, and 0 a^-1 would be NaN at a = 0
        ga = g * b * a ** (b - (b != 0)) if self.needs_grad[0] else None
        return ga, (g * self.y * xp.log(xp.where(xp.equal(a, 0), 1, a)) if self.needs_grad[1] else None)


class Neg(Function):
    """y = -x;  gx = -g"""

    def forward(self, x):
        return -x

    def vjp(self, g):
        return (-g,)


class Exp(Function):
    """y = exp(x);  gx = g y"""

    def forward(self, x):
        self.y = self.save(array_module(x).exp(floating(x)))
        return self.y

    def vjp(self, g):
        return (g * self.y,)


class Log(Function):
    """y = log(x);  gx = g / x"""

    def forward(self, x):
        self.x = self.save(x)
        return array_module(x).log(floating(x))

    def vjp(self, g):
        return (g / self.x,)


class Sqrt(Function):
    """y = sqrt(x);  gx = g / (2 y)"""

    def forward(self, x):
        self.y = self.save(array_module(x).sqrt(floating(x)))
        return self.y

    def vjp(self, g):
        return (g / (2 * self.y),)


class Sin(Function):
    """y = sin(x);  gx = g cos(x)"""

    def forward(self, x):
        self.x = self.save(floating(x))
        return array_module(x).sin(self.x)

    def vjp(self, g):
        return (g * array_module(g).cos(self.x),)


class Cos(Function):
    """y = cos(x);  gx = -g sin(x)"""

    def forward(self, x):
        self.x = self.save(floating(x))
        return array_module(x).cos(self.x)

    def vjp(self, g):
        return (-g * array_module(g).sin(self.x),)


class Tanh(Function):
    """y = tanh(x);  gx = g (1 - y^2)"""

    def forward(self, x):
        self.y = self.save(array_module(x).tanh(floating(x)))
        return self.y

    def vjp(self, g):
        return (g * (1 - self.y * self.y),)


class Abs(Function):
    """y = |x|;  gx = g sign(x), which is 0 at x = 0"""

    def forward(self, x):
        self.x = self.save(x)
        return array_module(x).abs(x)

    def vjp(self, g):
        return (g * array_module(g).sign(self.x),)


class Maximum(Function):
    """y = max(a, b);  g goes to the larger input, split equally on ties; an input that is NaN makes y NaN, gets g"""

    ufunc = "maximum"

    def forward(self, a, b):
        self.a, self.b = self.save(*promoted(a, b))
        return getattr(module_of(a, b), self.ufunc)(self.a, self.b)

    def _wins(self, a, b):
        """Where y is a. A NaN is the only number that differs from itself."""
        return (a >= b) | (a != a)

    def vjp(self, g):
        a_wins, b_wins, xp = self._wins(self.a, self.b), self._wins(self.b, self.a), array_module(g)
        share, zero = g / (a_wins.astype(g.dtype) + b_wins), g.dtype.type(0)
        return xp.where(a_wins, share, zero), xp.where(b_wins, share, zero)  # not g * 0: g may be infinite


class Minimum(Maximum):
    """y = min(a, b);  g goes to the smaller input, split equally on ties; an input that is NaN makes y NaN, gets g"""

    ufunc = "minimum"

    def _wins(self, a, b):
        return (a <= b) | (a != a)


class Where(Function):
    """y = a where condition else b;  ga = g where condition else 0,  gb = 0 where condition else g"""

    def forward(self, condition, a, b):
        self.condition = self.save(condition)
        y = module_of(condition, a, b).where(condition, *promoted(a, b))
        if not (hasattr(a, "dtype") or hasattr(b, "dtype")):  # a and b are both numbers: `where` would give float64
            y = y.astype(as_array([a, b]).dtype, copy=False)
        return y

    def vjp(self, g):
        xp = array_module(g)
        zero = g.dtype.type(0)
        return None, xp.where(self.condition, g, zero), xp.where(self.condition, zero, g)


class Cast(Function):
    """y = x in another dtype;  gx = g, which the engine casts back"""

    def __init__(self, dtype):
        self.to = dtype

    def forward(self, x):
        return x.astype(self.to)

    def vjp(self, g):
        return (g,)


def add(a: TensorLike, b: TensorLike) -> Tensor:
    """a + b, elementwise."""
    return Add()(a, b)


def sub(a: TensorLike, b: TensorLike) -> Tensor:
    """a - b, elementwise."""
    return Sub()(a, b)


def mul(a: TensorLike, b: TensorLike) -> Tensor:
    """a * b, elementwise."""
    return Mul()(a, b)


def div(a: TensorLike, b: TensorLike) -> Tensor:
    """a / b, elementwise; integers give float32."""
    return Div()(a, b)


def remainder(a: TensorLike, b: TensorLike) -> Tensor:
    """a % b, elementwise: the remainder of a / b, with the sign of b, as in Python."""
    return Remainder()(a, b)


def pow(a: TensorLike, b: TensorLike) -> Tensor:
    """a ** b, elementwise."""
    return Pow()(a, b)


def square(x: TensorLike) -> Tensor:
    """x * x, elementwise."""
    return Mul()(x, x)


def neg(x: TensorLike) -> Tensor:
    """-x, elementwise."""
    return Neg()(x)


def exp(x: TensorLike) -> Tensor:
    """e ** x, elementwise; integers give float32."""
    return Exp()(x)


def log(x: TensorLike) -> Tensor:
    """The natural logarithm, elementwise; integers give float32."""
    return Log()(x)


def sqrt(x: TensorLike) -> Tensor:
    """The square root, elementwise; integers give float32."""
    return Sqrt()(x)


def sin(x: TensorLike) -> Tensor:
    """The sine, elementwise; integers give float32."""
    return Sin()(x)


def cos(x: TensorLike) -> Tensor:
    """The cosine, elementwise; integers give float32."""
    return Cos()(x)


def abs(x: TensorLike) -> Tensor:
    """|x|, elementwise; its gradient at 0 is 0."""
    return Abs()(x)


def tanh(x: TensorLike) -> Tensor:
    """The hyperbolic tangent, elementwise; integers give float32."""
    return Tanh()(x)


def maximum(a: TensorLike, b: TensorLike) -> Tensor:
    """The larger of a and b, elementwise, and NaN where either is; where they are equal, each gets half of g."""
    return Maximum()(a, b)


def minimum(a: TensorLike, b: TensorLike) -> Tensor:
    """The smaller of a and b, elementwise, and NaN where either is; where they are equal, each gets half of g."""
    return Minimum()(a, b)


def where(condition: TensorLike, a: TensorLike, b: TensorLike) -> Tensor:
    """a where `condition` (boolean, broadcast) is true, else b. Raises TypeError for another condition."""
    return Where()(boolean("where", "condition", condition), a, b)


def masked_fill(x: TensorLike, mask: TensorLike, value: TensorLike) -> Tensor:
    """x with `value` where `mask` (boolean, broadcast) is true. Raises TypeError for another mask."""
    return where(boolean("masked_fill", "mask", mask), value, x)


def clip(x: TensorLike, min: TensorLike = None, max: TensorLike = None) -> Tensor:
    """x limited to [min, max], numbers or tensors; None means no limit on that side. NaN stays NaN.

    Where x is beyond a bound, the gradient goes to the bound; on the bound itself it goes to x.
    """
    x = as_tensor(x)
    x = x if min is None else where(x.data < raw(min), min, x)
    return x if max is None else where(x.data > raw(max), max, x)


clamp = clip


def cast(x: TensorLike, dtype: DTypeLike) -> Tensor:
    """A copy of x in another dtype.

    Gradients are cast back to x's dtype. A result that is not floating-point is detached.
    """
    y = Cast(dtype)(x)
    return y if is_floating(y.dtype) else y.detach()


def float16_as_float32(operation: F) -> F:
    """`operation`, which computes in float32 what is float16, its x or a weight: its sums would lose digits."""

    @functools.wraps(operation)
    def call(x, *args, **kwargs):
        if not any(map(_is_float16, (x, *args, *kwargs.values()))):
            return operation(x, *args, **kwargs)
        args = [cast(a, np.float32) if _is_float16(a) else a for a in (x, *args)]
        kwargs = {name: cast(a, np.float32) if _is_float16(a) else a for name, a in kwargs.items()}
        return cast(operation(*args, **kwargs), np.float16)

    return call  # type: ignore[return-value]


def float16_by_kernels(operation: F) -> F:
    """`float16_as_float32` for an operation whose kernels on a GPU take 16 bits, and sum in float32 themselves."""
    in_float32 = float16_as_float32(operation)

    @functools.wraps(operation)
    def call(x, *args, **kwargs):
        return (in_float32 if array_module(raw(x)) is np else operation)(x, *args, **kwargs)

    return call  # type: ignore[return-value]


def _is_float16(x: object) -> bool:
    return getattr(x, "dtype", None) == FLOAT16

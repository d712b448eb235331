"""Activation functions, elementwise: what a network applies between its linear layers.

They follow the pattern and the dtype rules of `elementwise.py`; integers give float32.
"""

from __future__ import annotations

import math
from typing import Any

from tinytensor.backend import array_module, kernels_for
from tinytensor.ops.dtypes import floating
from tinytensor.ops.elementwise import float16_as_float32
from tinytensor.tensor import Function, Tensor, TensorLike


class Sigmoid(Function):
    """y = 1 / (1 + exp(-x));  gx = g y (1 - y)"""

    def forward(self, x):
        self.y = self.save(_sigmoid(floating(x)))
        return self.y

    def vjp(self, g):
        return (g * self.y * (1 - self.y),)


class ReLU(Function):
    """y = max(x, 0);  gx = g where x > 0, else 0"""

    def forward(self, x):
        self.y = self.save(array_module(x).maximum(x, x.dtype.type(0)))
        return self.y

    def vjp(self, g):
        return (array_module(g).where(self.y > 0, g, g.dtype.type(0)),)  # not g * 0: g may be infinite


class SiLU(Function):
    """y = x s, with s = sigmoid(x);  gx = g (s + y (1 - s))"""

    def forward(self, x):
        self.x = self.save(floating(x))
        return self.x * _sigmoid(self.x)

    def vjp(self, g):
        s = _sigmoid(self.x)
        return (g * (s + self.x * s * (1 - s)),)


class Softplus(Function):
    """y = log(1 + exp(x));  gx = g sigmoid(x)"""

    def forward(self, x):
        self.x = self.save(floating(x))
        return array_module(x).logaddexp(self.x, self.x.dtype.type(0))  # log(exp(x) + exp(0)), without overflow

    def vjp(self, g):
        return (g * _sigmoid(self.x),)


class GELU(Function):
    """y = x Phi(x), with Phi approximated by tanh as in GPT-2 (Hendrycks & Gimpel 2016, arXiv:1606.08415)"""

    def forward(self, x):
        self.x = self.save(floating(x))
        return kernels_for(x).gelu_forward(self.x)

    def vjp(self, g):
        return (kernels_for(g).gelu_backward(g, self.x),)


class ExactGELU(Function):
    """y = x Phi(x), with Phi(x) = (1 + erf(x / sqrt(2))) / 2;  gx = g (Phi(x) + x exp(-x^2 / 2) / sqrt(2 pi))"""

    def forward(self, x):
        x = floating(x)
        self.x, self.phi = self.save(x, 0.5 + 0.5 * _erf(x * math.sqrt(0.5)))
        return x * self.phi

    def vjp(self, g):
        density = array_module(g).exp(-0.5 * self.x * self.x) / math.sqrt(2 * math.pi)
        return (g * (self.phi + self.x * density),)


class Erf(Function):
    """y = 2 / sqrt(pi) int_0^x exp(-t^2) dt;  gx = g 2 exp(-x^2) / sqrt(pi)"""

    def forward(self, x):
        self.x = self.save(floating(x))
        return _erf(self.x)

    def vjp(self, g):
        return (g * (2 / math.sqrt(math.pi) * array_module(g).exp(-self.x * self.x)),)


def _sigmoid(x):
    """1 / (1 + exp(-x)), by exponentials that cannot overflow: exp(x) / (1 + exp(x)) for negative x."""
    xp = array_module(x)
    e = xp.exp(-abs(x))
    return xp.where(x < 0, e, x.dtype.type(1)) / (1 + e)


# The error function as a quotient of polynomials, highest powers first: of x^2 near 0, of |x| further out, where it
# gives erfc(|x|) exp(x^2). Coefficients of Cody 1969, "Rational Chebyshev approximations for the error function".
NEAR = 0.46875
NEAR_TOP = (0.185777706184603153, 3.16112374387056560, 113.864154151050156, 377.485237685302021, 3209.37758913846947)
NEAR_BOTTOM = (1.0, 23.6012909523441209, 244.024637934444173, 1282.61652607737228, 2844.23683343917062)
FAR_TOP = (
    *(2.15311535474403846e-8, 0.564188496988670089, 8.88314979438837594, 66.1191906371416295, 298.635138197400131),
    *(881.952221241769090, 1712.04761263407058, 2051.07837782607147, 1230.33935479799725),
)
FAR_BOTTOM = (
    *(1.0, 15.7449261107098347, 117.693950891312499, 537.181101862009858, 1621.38957456669019),
    *(3290.79923573345963, 4362.61909014324716, 3439.36767414372164, 1230.33935480374942),
)


def _erf(x):
    """The error function of floats, to the last digits of float64 (NumPy has none)."""
    xp, size = array_module(x), abs(x)
    square = xp.minimum(size, NEAR) ** 2
    near = x * (_polynomial(NEAR_TOP, square) / _polynomial(NEAR_BOTTOM, square))
    size = xp.minimum(size, 6)  # erf(6) is 1 to within 2e-17
    far = 1 - xp.exp(-size * size) * (_polynomial(FAR_TOP, size) / _polynomial(FAR_BOTTOM, size))
    return xp.where(abs(x) <= NEAR, near, xp.where(x < 0, -far, far))


def _polynomial(coefficients: tuple[float, ...], x: Any):
    """The polynomial with these coefficients, highest power first, by Horner's rule."""
    y = coefficients[0]
    for c in coefficients[1:]:
        y = y * x + c
    return y


def sigmoid(x: TensorLike) -> Tensor:
    """1 / (1 + exp(-x)), elementwise; integers give float32."""
    return Sigmoid()(x)


def relu(x: TensorLike) -> Tensor:
    """max(x, 0), elementwise; its gradient at 0 is 0."""
    return ReLU()(x)


def silu(x: TensorLike) -> Tensor:
    """x sigmoid(x), elementwise, also called swish (Elfwing et al. 2017, arXiv:1702.03118)."""
    return SiLU()(x)


def softplus(x: TensorLike) -> Tensor:
    """log(1 + exp(x)), elementwise, without overflow: a smooth max(x, 0)."""
    return Softplus()(x)


@float16_as_float32
def gelu(x: TensorLike, approximate: str = "tanh") -> Tensor:
    """x Phi(x), elementwise, with Phi the normal distribution function.

    Composed: `composed.gelu`. approximate: "tanh" for GPT-2's approximation of Phi, fused; "none" for Phi itself, which
    is PyTorch's default. Raises ValueError for anything else.
    """
    if approximate not in ("tanh", "none"):
        raise ValueError(f"gelu: approximate {approximate!r}: must be 'tanh' or 'none'")
    return GELU()(x) if approximate == "tanh" else ExactGELU()(x)


@float16_as_float32
def erf(x: TensorLike) -> Tensor:
    """The error function, 2 / sqrt(pi) times the integral of exp(-t^2) from 0 to x, elementwise."""
    return Erf()(x)

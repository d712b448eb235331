"""Elementwise operations with NumPy's broadcasting and dtype rules.

Floor 2, on `tensor.py`. Each class is one operation: `forward`, then its VJP, with the formula in the docstring
(g = dL/dy, gx = dL/dx). Where the inputs broadcast, a VJP returns gradients of the result's shape and the engine
sums them down, so `Add.vjp` is just `g, g`. The public functions follow at the end of the file. Read `reduce.py` next.
"""

from __future__ import annotations

from tinytensor.backend import array_module, kernels_for
from tinytensor.tensor import Function, Tensor, as_function


class Add(Function):
    """y = a + b;  ga = g,  gb = g"""

    def forward(self, a, b):
        return a + b

    def vjp(self, g):
        return g, g


class Sub(Function):
    """y = a - b;  ga = g,  gb = -g"""

    def forward(self, a, b):
        return a - b

    def vjp(self, g):
        return g, -g if self.needs_grad[1] else None


class Mul(Function):
    """y = a b;  ga = g b,  gb = g a"""

    def forward(self, a, b):
        self.a, self.b = a, b
        return a * b

    def vjp(self, g):
        return g * self.b if self.needs_grad[0] else None, g * self.a if self.needs_grad[1] else None


class Div(Function):
    """y = a / b;  ga = g / b,  gb = -g y / b"""

    def forward(self, a, b):
        self.b, self.y = b, a / b
        return self.y

    def vjp(self, g):
        ga = g / self.b
        return ga, -ga * self.y if self.needs_grad[1] else None


class Pow(Function):
    """y = a^b;  ga = g b a^(b-1),  gb = g y log(a), and 0 where a = 0 (y is constant in b there)"""

    def forward(self, a, b):
        self.a, self.b, self.y = a, b, a**b
        return self.y

    def vjp(self, g):
        a, b, xp = self.a, self.b, array_module(g)
        # the exponent is b - 1, but 0 for b = 0: a^0 is constant, and 0 a^-1 would be NaN at a = 0
        ga = g * b * a ** (b - (b != 0)) if self.needs_grad[0] else None
        return ga, g * self.y * xp.log(xp.where(xp.equal(a, 0), 1, a)) if self.needs_grad[1] else None


class Neg(Function):
    """y = -x;  gx = -g"""

    def forward(self, x):
        return -x

    def vjp(self, g):
        return (-g,)


class Exp(Function):
    """y = exp(x);  gx = g y"""

    def forward(self, x):
        self.y = array_module(x).exp(x)
        return self.y

    def vjp(self, g):
        return (g * self.y,)


class Log(Function):
    """y = log(x);  gx = g / x"""

    def forward(self, x):
        self.x = x
        return array_module(x).log(x)

    def vjp(self, g):
        return (g / self.x,)


class Sqrt(Function):
    """y = sqrt(x);  gx = g / (2 y)"""

    def forward(self, x):
        self.y = array_module(x).sqrt(x)
        return self.y

    def vjp(self, g):
        return (g / (2 * self.y),)


class Tanh(Function):
    """y = tanh(x);  gx = g (1 - y^2)"""

    def forward(self, x):
        self.y = array_module(x).tanh(x)
        return self.y

    def vjp(self, g):
        return (g * (1 - self.y * self.y),)


class Sigmoid(Function):
    """y = 1 / (1 + exp(-x));  gx = g y (1 - y)"""

    def forward(self, x):
        # the same function through tanh, which cannot overflow
        self.y = 0.5 + 0.5 * array_module(x).tanh(0.5 * x)
        return self.y

    def vjp(self, g):
        return (g * self.y * (1 - self.y),)


class ReLU(Function):
    """y = max(x, 0);  gx = g where x > 0, else 0"""

    def forward(self, x):
        self.y = array_module(x).maximum(x, 0)
        return self.y

    def vjp(self, g):
        return (g * (self.y > 0),)


class GELU(Function):
    """y = x Phi(x), with Phi approximated by tanh as in GPT-2 (Hendrycks & Gimpel 2016, arXiv:1606.08415)"""

    def forward(self, x):
        self.x = x
        return kernels_for(x).gelu_forward(x)

    def vjp(self, g):
        return (kernels_for(g).gelu_backward(g, self.x),)


class Abs(Function):
    """y = |x|;  gx = g sign(x), which is 0 at x = 0"""

    def forward(self, x):
        self.x = x
        return array_module(x).abs(x)

    def vjp(self, g):
        return (g * array_module(g).sign(self.x),)


class Maximum(Function):
    """y = max(a, b);  g goes to the larger one, half to each where they are equal"""

    def forward(self, a, b):
        self.a, self.b = a, b
        return array_module(a if hasattr(a, "dtype") else b).maximum(a, b)

    def vjp(self, g):
        share = (self.a > self.b) + (self.a == self.b) * g.dtype.type(0.5)
        return g * share, g * (1 - share)


class Where(Function):
    """y = a where condition else b;  ga = g where condition else 0,  gb = 0 where condition else g"""

    def forward(self, condition, a, b):
        self.condition = condition
        return array_module(condition).where(condition, a, b)

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


add, sub, mul, div, pow, neg = map(as_function, (Add, Sub, Mul, Div, Pow, Neg))
exp, log, sqrt, abs, tanh, sigmoid = map(as_function, (Exp, Log, Sqrt, Abs, Tanh, Sigmoid))
relu, gelu, maximum, where = map(as_function, (ReLU, GELU, Maximum, Where))


def minimum(a, b) -> Tensor:
    """The smaller of a and b; where they are equal, each gets half of g."""
    return -maximum(-a, -b)


def masked_fill(x, mask, value) -> Tensor:
    """x with `value` where `mask` (boolean, broadcast) is true."""
    return where(mask, value, x)


def clip(x, low=None, high=None) -> Tensor:
    """x limited to [low, high], with no gradient beyond; None means no limit on that side."""
    x = x if low is None else where(x.data < low, low, x)
    return x if high is None else where(x.data > high, high, x)


def cast(x, dtype) -> Tensor:
    """A copy of x in another dtype; gradients come back in x's own. Anything but floats is a constant."""
    y = Cast(dtype)(x)
    return y if y.dtype.kind == "f" else y.detach()

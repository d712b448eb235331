"""The checker checked: it must see every kind of wrong gradient, and say what it saw."""

import numpy as np
import pytest

import tinytensor as tt

RNG = np.random.default_rng(0)
SMALL, SQUARE, LARGE = RNG.standard_normal((2, 3)), RNG.standard_normal((3, 3)), RNG.standard_normal((20, 20))


class Scale(tt.Function):
    """y = 3 x, with the gradient that `wrong` makes of the right one."""

    def __init__(self, wrong):
        self.wrong = wrong

    def forward(self, x):
        return 3.0 * x

    def vjp(self, g):
        return (self.wrong(3.0 * g),)


class MissingTerm(tt.Function):
    """y = x^2 exp(x), whose gradient has two terms"""

    def forward(self, x):
        self.x = self.save(x)
        return x * x * np.exp(x)

    def vjp(self, g):
        return (g * 2 * self.x * np.exp(self.x),)


class Product(tt.Function):
    """y = a @ b, with the gradient of b untransposed."""

    def forward(self, a, b):
        self.a, self.b = self.save(a, b)
        return a @ b

    def vjp(self, g):
        return g @ self.b.T, self.a @ g


def one_sign(g):
    flipped = g.copy()
    flipped[1, 2] *= -1
    return flipped


def off_diagonal(g):
    return g * (np.eye(len(g)) + (1 - np.eye(len(g))) * 1.001)


def one_nan(g):
    return np.where(np.arange(g.size).reshape(g.shape) == 1, np.nan, g)


WRONG = [
    ("factor", lambda x: Scale(lambda g: 2 * g)(x), SMALL),
    ("factor, slightly", lambda x: Scale(lambda g: 1.0001 * g)(x), SMALL),
    ("missing term", lambda x: MissingTerm()(x), SMALL),
    ("transposed", lambda x: Scale(lambda g: g.T)(x), SQUARE),
    ("transposed, not square", lambda x: Scale(lambda g: g.T)(x), SMALL),
    ("sign of one element", lambda x: Scale(one_sign)(x), SMALL),
    ("off the diagonal", lambda x: Scale(off_diagonal)(x), LARGE),
    ("zero", lambda x: Scale(np.zeros_like)(x), SMALL),
    ("constant", lambda x: Scale(lambda g: g)(x) + tt.Tensor(2 * x.data), SMALL),
    ("NaN", lambda x: Scale(one_nan)(x), SMALL),
    ("None", lambda x: Scale(lambda g: None)(x), SMALL),
    ("too short", lambda x: Scale(lambda g: g[:1, :1])(x), LARGE),
    ("cut off", lambda x: x.detach() * 2, SMALL),
]


@pytest.mark.parametrize(("fn", "x"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG])
def test_wrong_gradients_are_found(fn, x):
    with pytest.raises(tt.GradientMismatch):
        tt.gradcheck(fn, x)


def test_the_second_input_is_checked_too():
    with pytest.raises(tt.GradientMismatch, match="input 1"):
        tt.gradcheck(lambda a, b: Product()(a, b), SQUARE, SQUARE.T.copy())


def test_the_message_tells_all():
    def tripled(x):
        return Scale(lambda g: g / 3)(x)

    with pytest.raises(tt.GradientMismatch) as caught:
        tt.gradcheck(tripled, np.array([[0.5, 0.25]]))
    message = str(caught.value)
    assert "tripled of inputs (1, 2)" in message
    assert "gradient of input 0 at element" in message
    numbers = [float(word) for word in message.split() if word.lstrip("-").replace(".", "").replace("e", "").isdigit()]
    numeric, analytic = numbers[-2:]
    assert numeric == pytest.approx(3 * analytic, rel=1e-6)


@pytest.mark.parametrize("shape", [(), (0,), (1,), (2, 3), (3, 1, 4), (30, 30)], ids=str)
def test_right_gradients_pass(shape):
    x = np.random.default_rng(1).standard_normal(shape)
    tt.gradcheck(lambda x: Scale(lambda g: g)(x), x)
    tt.gradcheck(lambda x: Scale(lambda g: g)(x).sum(), x)


def test_constants_are_passed_on_and_inputs_left_alone():
    ids, weight = np.array([2, 0, 2]), RNG.standard_normal((3, 2))
    before = weight.copy()
    tt.gradcheck(tt.embedding, ids, weight)
    tt.gradcheck(lambda x, c: x * c, weight, 2.0)
    np.testing.assert_array_equal(weight, before)
    np.testing.assert_array_equal(ids, [2, 0, 2])


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("wrap", [np.asarray, tt.Tensor, lambda x: x.tolist()], ids=["array", "Tensor", "list"])
def test_other_floats_are_checked_in_float64(dtype, wrap):
    x = wrap(SMALL.astype(dtype))
    tt.gradcheck(tt.exp, x)
    with pytest.raises(tt.GradientMismatch):
        tt.gradcheck(lambda x: MissingTerm()(x), x)


def test_nothing_to_check_is_an_error():
    with pytest.raises(ValueError, match="none of the inputs is floating-point"):
        tt.gradcheck(tt.exp, np.arange(3))
    with pytest.raises(TypeError, match="returned a ndarray: must be a Tensor"):
        tt.gradcheck(lambda x: x.data, SMALL)


def test_it_is_called_as_pytorchs_is():
    assert tt.gradcheck(tt.mul, (SMALL, SMALL + 1), eps=1e-6)
    with pytest.raises(TypeError, match=r"a Function applied once: pass lambda x: MissingTerm\(\.\.\.\)\(x\)"):
        tt.gradcheck(MissingTerm(), SMALL)

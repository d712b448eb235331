"""What operations do at their edges: defaults, dtypes, 0-d tensors, ties and NaN, masks, ids, messages."""

import builtins
import inspect
import math

import numpy as np
import pytest

import tinytensor as tt
from tests.engine.cases import rotary
from tinytensor.tensor import raw

# ---- every public function and method, without options ---------------------------------------------------------------

RNG = np.random.default_rng(0)
X = RNG.standard_normal((3, 4))
Y = RNG.standard_normal((3, 4))
P = RNG.uniform(0.5, 2, (3, 4))
N = np.array([[3, -5, 7, 0], [2, 2, -1, 9], [4, 4, 4, 1]])
MASK = X > 0
W = RNG.standard_normal((4, 5))
QKV = RNG.standard_normal((3, 2, 2, 4, 3))
ERF = np.vectorize(math.erf)


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def attention(q, k, v, visible):
    return softmax(np.where(visible, q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1]), -np.inf)) @ v


def gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def layer_norm(x):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)


TARGETS = np.array([1, 0, 3])
LOSSES = -np.log(softmax(X))[range(3), TARGETS]
# {name: (arguments, result)}, a list where there are several results
DEFAULTS = {
    "abs": ((X,), np.abs(X)),
    "add": ((X, Y), X + Y),
    "add_layer_norm": ((X, Y, None, P[0]), (X + Y, layer_norm(X + Y) * P[0])),
    "all": ((MASK,), MASK.all()),
    "allclose": ((X, X * (1 + 9e-6)), True),
    "any": ((MASK,), MASK.any()),
    "argmax": ((X,), X.argmax()),
    "argmin": ((X,), X.argmin()),
    "argsort": ((N,), np.argsort(N, -1, kind="stable")),
    "bias_add": ((X, Y), X + Y),
    "bitwise_and": ((N, N.T[:3, :1]), N & N.T[:3, :1]),
    "bitwise_not": ((N,), ~N),
    "bitwise_or": ((N, 5), N | 5),
    "bitwise_xor": ((N, 5), N ^ 5),
    "cast": ((X, np.int64), X.astype(np.int64)),
    "causal_attention": (tuple(QKV), attention(*QKV, np.tri(4, dtype=bool))),
    "chunk": ((X, 2), [X[:2], X[2:]]),
    "clamp": ((X,), X),
    "clip": ((X,), X),
    "concat": (([X, Y],), np.concatenate([X, Y])),
    "contiguous": ((X.T,), X.T),
    "cos": ((X,), np.cos(X)),
    "cross_entropy": ((X, [1, 0, -100]), LOSSES[:2].mean()),
    "cumprod": ((X,), X.cumprod()),
    "cumsum": ((X,), X.cumsum()),
    "div": ((X, P), X / P),
    "dropout": ((X, 0.0), X),
    "einsum": (("ij,kj", X, Y), X @ Y.T),
    "embedding": (([[0, 2]], X), X[[[0, 2]]]),
    "erf": ((X,), ERF(X)),
    "exp": ((X,), np.exp(X)),
    "expand": ((X[:1], 3, -1), np.broadcast_to(X[:1], (3, 4))),
    "flatten": ((QKV,), QKV.reshape(-1)),
    "flip": ((X,), X[::-1, ::-1]),
    "floor_divide": ((X, P), X // P),
    "gather": ((X, 1, np.array([[0, 0], [3, 1]])), np.array([[X[0, 0], X[0, 0]], [X[1, 3], X[1, 1]]])),
    "gelu": ((X,), gelu(X)),
    "gelu_linear": ((X, W), gelu(X) @ W),
    "swiglu_linear": ((X, W[:2]), X[:, :2] / (1 + np.exp(-X[:, :2])) * X[:, 2:] @ W[:2]),
    "getitem": ((X, 1), X[1]),
    "isfinite": ((np.array([1, np.inf, np.nan]),), [True, False, False]),
    "isnan": ((np.array([1, np.inf, np.nan]),), [False, False, True]),
    "layer_norm": ((X, P[0]), layer_norm(X) * P[0]),
    "linear": ((X, W), X @ W),
    "linear_cross_entropy": ((X, np.eye(4), [1, 0, -100]), LOSSES[:2].mean()),
    "log": ((P,), np.log(P)),
    "log_softmax": ((X,), np.log(softmax(X))),
    "logsumexp": ((X,), np.log(np.exp(X).sum())),
    "masked_fill": ((X, MASK, 2.0), np.where(MASK, 2.0, X)),
    "matmul": ((X, W), X @ W),
    "max": ((X,), X.max()),
    "maximum": ((X, Y), np.maximum(X, Y)),
    "mean": ((X,), X.mean()),
    "min": ((X,), X.min()),
    "minimum": ((X, Y), np.minimum(X, Y)),
    "mse_loss": ((X, Y), ((X - Y) ** 2).mean()),
    "mul": ((X, Y), X * Y),
    "neg": ((X,), -X),
    "norm": ((X,), np.linalg.norm(X)),
    "packed_causal_attention": (
        (QKV.transpose(1, 3, 0, 2, 4),),
        attention(*QKV, np.tri(4, dtype=bool)).swapaxes(1, 2),
    ),
    "pad": ((X, [(1, 0), (0, 2)]), np.pad(X, [(1, 0), (0, 2)])),
    "permute": ((X, 1, 0), X.T),
    "pow": ((P, X), P**X),
    "prod": ((X,), X.prod()),
    "relu": ((X,), np.maximum(X, 0)),
    "remainder": ((X, P), X % P),
    "repeat": ((X, 2, 1), np.tile(X, (2, 1))),
    "reshape": ((X, 2, -1), X.reshape(2, -1)),
    "rms_norm": ((X,), X / np.sqrt((X**2).mean(-1, keepdims=True) + 1e-6)),
    "roll": ((X, 1), np.roll(X, 1)),
    "rotary": ((QKV[..., :2],), rotary(QKV[..., :2])),
    "scaled_dot_product_attention": (tuple(QKV), attention(*QKV, True)),
    "sigmoid": ((X,), 1 / (1 + np.exp(-X))),
    "silu": ((X,), X / (1 + np.exp(-X))),
    "sin": ((X,), np.sin(X)),
    "softmax": ((X,), softmax(X)),
    "softplus": ((X,), np.log1p(np.exp(X))),
    "sort": ((N,), [np.sort(N), np.argsort(N, kind="stable")]),
    "split": ((X, 2), [X[:2], X[2:]]),
    "sqrt": ((P,), np.sqrt(P)),
    "square": ((X,), X * X),
    "squeeze": ((X[:1, :1],), X[0, 0]),
    "stack": (([X, Y],), np.stack([X, Y])),
    "std": ((X,), X.std()),
    "sub": ((X, Y), X - Y),
    "sum": ((X,), X.sum()),
    "swapaxes": ((X, 0, 1), X.T),
    "tanh": ((X,), np.tanh(X)),
    "topk": ((X, 2), [-np.sort(-X)[:, :2], np.argsort(-X)[:, :2]]),
    "transpose": ((QKV,), QKV.T),
    "tril": ((X,), np.tril(X)),
    "triu": ((X,), np.triu(X)),
    "unbind": ((X,), list(X)),
    "unsqueeze": ((X, 1), X[:, None]),
    "var": ((X,), X.var()),
    "where": ((MASK, X, Y), np.where(MASK, X, Y)),
}
SAME_METHOD = sorted(name for name in DEFAULTS if inspect.isfunction(getattr(tt.Tensor, name, None)))


def public_functions() -> set[str]:
    names = {name for name in vars(tt) if not name.startswith("_")}
    return {n for n in names if getattr(getattr(tt, n), "__module__", "").startswith("tinytensor.ops")} - {"cat"}


def assert_result(result, expected):
    if isinstance(result, tuple):
        assert len(result) == len(expected)
        for part, other in zip(result, expected, strict=True):
            assert_result(part, other)
    else:
        np.testing.assert_allclose(raw(result), expected, rtol=1e-10, atol=1e-12)
        assert np.shape(raw(result)) == np.shape(expected)


def test_every_public_function_is_here():
    assert public_functions() == DEFAULTS.keys()


@pytest.mark.parametrize("name", DEFAULTS)
def test_a_function_without_options(name):
    arguments, expected = DEFAULTS[name]
    assert_result(getattr(tt, name)(*arguments), expected)


@pytest.mark.parametrize("name", SAME_METHOD)
def test_a_method_without_options(name):
    (x, *rest), expected = DEFAULTS[name]
    assert_result(getattr(tt.Tensor(x), name)(*rest), expected)


@pytest.mark.parametrize("name", SAME_METHOD)
def test_a_method_has_the_parameters_and_defaults_of_its_function(name):
    function, method = (inspect.signature(getattr(owner, name)) for owner in (tt, tt.Tensor))
    ours, theirs = ([(p.kind, p.default) for p in s.parameters.values()][1:] for s in (function, method))
    assert ours == theirs


def test_methods_are_found_where_they_are_written():
    assert str(inspect.signature(tt.add)) == "(a: 'TensorLike', b: 'TensorLike') -> 'Tensor'"
    for name in [*SAME_METHOD, "__mod__", "__and__", "__floordiv__", "__invert__"]:
        assert inspect.getsourcefile(inspect.unwrap(getattr(tt.Tensor, name))).endswith("methods.py")
    assert all(inspect.getdoc(getattr(tt, name)) for name in DEFAULTS)
    assert all(inspect.getdoc(getattr(tt.Tensor, name)) for name in SAME_METHOD)


@pytest.mark.parametrize("name", sorted(DEFAULTS.keys() - {"allclose", "getitem"}))
def test_under_no_grad_nothing_is_recorded(name):
    arguments, _ = DEFAULTS[name]
    with tt.no_grad():
        results = getattr(tt, name)(*map(requiring_grad, arguments))
    assert all(y.function is None for y in (results if isinstance(results, tuple) else (results,)))


def requiring_grad(x):
    return tt.Tensor(x, requires_grad=True) if isinstance(x, np.ndarray) and x.dtype.kind == "f" else x


def test_star_import_hides_no_builtin():
    assert sorted(set(tt.__all__) & set(dir(builtins))) == []
    assert public_functions() - set(tt.__all__) == {"abs", "all", "any", "max", "min", "pow", "sum"}


def test_dtypes_have_names():
    dtypes = (tt.float16, tt.float32, tt.float64, tt.uint8, tt.int32, tt.int64)
    assert [str(tt.zeros(1, dtype=dtype).dtype) for dtype in dtypes] == [
        "float16",
        "float32",
        "float64",
        "uint8",
        "int32",
        "int64",
    ]


# ---- dtypes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fn",
    [
        *(tt.exp, tt.log, tt.sqrt, tt.sin, tt.cos, tt.tanh, tt.sigmoid, tt.silu, tt.softplus, tt.gelu, tt.erf),
        *(tt.mean, tt.var, tt.std, tt.norm, tt.logsumexp, tt.softmax, tt.log_softmax, tt.rms_norm, lambda x: x / 2),
        *(lambda x: x / x, lambda x: 1 / x, lambda x: x + 0.5, lambda x: 0.5 * x, lambda x: x**0.5, lambda x: x % 0.5),
        *(lambda x: x // 0.5, lambda x: x * tt.ones(3), lambda x: tt.ones(3) - x, lambda x: tt.ones(3) @ x),
        *(lambda x: tt.maximum(x, 0.5), lambda x: tt.where(x > 1, x, 0.5), lambda x: tt.where(x > 1, 1.0, 0.0)),
        *(lambda x: tt.where(x > 1, x, tt.ones(3)), lambda x: tt.masked_fill(x, x > 1, 0.5), lambda x: x.clip(0.5, 2)),
        *(
            lambda x: tt.linear(x, tt.ones(3, 2)),
            lambda x: tt.gelu_linear(x, tt.ones(3, 2)),
            lambda x: tt.gelu(x, "none"),
        ),
        *(lambda x: tt.layer_norm(x, tt.ones(3)), lambda x: tt.cross_entropy(x, 1), lambda x: x * np.float64(0.5)),
        *(lambda x: tt.linear_cross_entropy(x, tt.ones(2, 3), 1), lambda x: tt.mse_loss(x, tt.ones(3))),
        lambda x: tt.packed_causal_attention(x.reshape(1, 1, 3, 1, 1)),
    ],
)
@pytest.mark.parametrize("dtype", [np.int64, np.uint8, bool])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_integers_and_booleans_give_float32(fn, dtype):
    x = np.array([1, 0, 3]).astype(dtype)
    y, expected = fn(tt.Tensor(x)), fn(tt.Tensor(x.astype(np.float32)))
    assert y.dtype == np.float32
    np.testing.assert_array_equal(y.data, expected.data)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64, bool])
@pytest.mark.parametrize("fn", [tt.sum, tt.prod, tt.cumsum, tt.cumprod])
def test_sums_and_products_of_integers_are_int64(fn, dtype):
    y = fn(tt.Tensor(np.full(40, 1).astype(dtype)))
    assert y.dtype == np.int64
    assert tt.sum(tt.Tensor(np.full(300, 200, np.uint8))).item() == 60_000


def test_python_numbers_are_operands_of_their_own():
    for y, value, dtype in [
        (tt.add(2.0, 3.0), 5, np.float32),
        (tt.add(2, 3), 5, np.int64),
        (tt.exp(0), 1, np.float32),
        (tt.exp(3), math.exp(3), np.float32),
        (tt.floor_divide(7, 2), 3, np.int64),
        (tt.bitwise_and(6, 3), 2, np.int64),
        (tt.clip(5, 1, 3), 3, np.int64),
        (tt.where(True, 1.0, 2.0), 1, np.float32),
    ]:
        assert isinstance(y.data, np.ndarray)
        assert (y.shape, y.dtype) == ((), dtype)
        assert y.item() == pytest.approx(value, rel=1e-6)


def test_float16_is_added_up_in_float32():
    x = tt.Tensor((np.arange(70_000) % 8).astype(np.float16), requires_grad=True)
    for y, expected in [(x.mean(), 3.5), (x.var(), 5.25), (x.std(), 5.25**0.5), (x.norm(), 1225_000**0.5)]:
        assert y.dtype == np.float16
        assert y.item() == pytest.approx(expected, rel=1e-3)
    x.mean().backward()
    assert x.grad.dtype == np.float16
    np.testing.assert_allclose(x.grad, 1 / 70_000, rtol=0.01)


# ---- extremes, ties, NaN ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "values",
    [np.array([0, 5], np.uint8), np.array([-128, 5], np.int8), np.array([-(2**63), 1]), np.array([True, False])],
    ids=lambda values: str(values.dtype),
)
def test_extremes_of_every_dtype(values):
    x = tt.Tensor(values)
    for y, expected in [(x.min(), values.min()), (x.max(), values.max())]:
        assert (y.dtype, y.item()) == (values.dtype, expected.item())
    for fn, reference in [(tt.minimum, np.minimum), (tt.maximum, np.maximum)]:
        y = fn(x, values[::-1])
        assert y.dtype == values.dtype
        np.testing.assert_array_equal(y.data, reference(values, values[::-1]))


@pytest.mark.parametrize(("fn", "share"), [(tt.maximum, [0.5, 0, 1]), (tt.minimum, [0.5, 1, 0])])
def test_operands_that_are_equal_share_the_gradient(fn, share):
    a, b = tt.tensor([1.0, 2.0, 5.0], requires_grad=True), tt.tensor([1.0, 3.0, 4.0], requires_grad=True)
    fn(a, b).backward(np.ones(3))
    np.testing.assert_array_equal(a.grad, share)
    np.testing.assert_array_equal(b.grad, 1 - np.array(share))


@pytest.mark.parametrize("fn", [tt.max, tt.min])
def test_elements_that_are_equal_share_the_gradient(fn):
    x = tt.tensor([[2.0, 2.0, 2.0], [1.0, 1.0, 3.0]], requires_grad=True)
    fn(x, axis=1).sum().backward()
    np.testing.assert_allclose(x.grad, [[1 / 3] * 3, [0, 0, 1] if fn is tt.max else [0.5, 0.5, 0]])


@pytest.mark.parametrize("fn", [tt.maximum, tt.minimum])
def test_nan_gets_the_gradient_of_the_result_it_makes(fn):
    a = tt.tensor([np.nan, 1.0, np.nan], requires_grad=True)
    b = tt.tensor([1.0, np.nan, np.nan], requires_grad=True)
    y = fn(a, b)
    y.backward(np.ones(3))
    assert np.isnan(y.data).all()
    np.testing.assert_array_equal(a.grad, [1, 0, 0.5])
    np.testing.assert_array_equal(b.grad, [0, 1, 0.5])


def test_max_of_nan_is_nan_and_nan_gets_the_gradient():
    x = tt.tensor([1.0, np.nan, 3.0], requires_grad=True)
    y = x.max()
    y.backward()
    assert np.isnan(y.item())
    np.testing.assert_array_equal(x.grad, [0, 1, 0])


def test_clip_at_the_bounds_and_beyond():
    x = tt.tensor([-2.0, -1.0, 0.0, 1.0, 2.0, np.nan], requires_grad=True)
    low, high = tt.tensor(-1.0, requires_grad=True), tt.tensor(1.0, requires_grad=True)
    y = x.clip(low, high)
    y.backward(np.ones(6))
    np.testing.assert_array_equal(y.data, [-1, -1, 0, 1, 1, np.nan])
    np.testing.assert_array_equal(x.grad, [0, 1, 1, 1, 0, 1])
    assert (low.grad, high.grad) == (1, 1)
    assert tt.clamp(x, min=0).data[0] == x.clamp(max=-3).data[0] + 3 == 0


def test_gradients_at_zero():
    x = tt.zeros(3, requires_grad=True)
    for fn in (tt.abs, tt.relu, tt.norm, lambda x: x.norm(1), lambda x: x**0, lambda x: x.norm(math.inf)):
        x.grad = None
        fn(x).sum().backward()
        np.testing.assert_array_equal(x.grad, 0)


def test_products_of_zeros():
    x = tt.tensor([[2.0, 0.0, 3.0], [0.0, 0.0, 3.0]], requires_grad=True)
    x.prod(axis=1).sum().backward()
    np.testing.assert_array_equal(x.grad, [[0, 6, 0], [0, 0, 0]])
    x.grad = None
    x.cumprod(axis=1).backward(np.array([[1.0, 10, 100], [1, 10, 100]]))
    # y = (a, ab, abc):  ga = 1 + 10 b + 100 bc,  gb = 10 a + 100 ac,  gc = 100 ab
    np.testing.assert_array_equal(x.grad, [[1, 620, 0], [1, 0, 0]])


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_variance_of_too_few():
    assert tt.var(tt.tensor([1.0, 2, 3]), ddof=5).item() == math.inf
    for x, ddof in [([], 0), ([1.0], 1), ([2.0, 2.0], 2)]:
        assert np.isnan(tt.var(tt.tensor(x), ddof=ddof).item())
    assert tt.var(tt.tensor([1.0, 2, 3]), ddof=1).item() == 1


def test_remainder_and_floor_division_follow_python():
    a, b = np.array([7, -7, 7, -7]), np.array([2, 2, -2, -2])
    x = tt.Tensor(a * 1.0, requires_grad=True)
    y = tt.Tensor(b * 1.0, requires_grad=True)
    assert (tt.Tensor(a) % tt.Tensor(b)).tolist() == [m % n for m, n in zip(a.tolist(), b.tolist(), strict=True)]
    assert (tt.Tensor(a) // b).tolist() == [m // n for m, n in zip(a.tolist(), b.tolist(), strict=True)]
    assert ((7 % tt.Tensor(b)).tolist(), (7 // tt.Tensor(b)).tolist()) == ([1, 1, -1, -1], [3, 3, -4, -4])
    (x % y).sum().backward()
    np.testing.assert_array_equal(x.grad, 1)
    np.testing.assert_array_equal(y.grad, [-3, 4, 4, -3])
    assert not (x // y).requires_grad


def test_bits_and_truth_values():
    x, true = tt.tensor([6, 3]), tt.tensor([True, False])
    assert ((x & 3).tolist(), (1 | x).tolist(), (x ^ x).tolist(), (~x).tolist()) == ([2, 3], [7, 3], [0, 0], [-7, -4])
    assert ((true & True).tolist(), (~true).tolist(), (true ^ true).tolist()) == (
        [True, False],
        [False, True],
        [False] * 2,
    )
    for operation in (lambda y: y & 1, lambda y: 1 | y, lambda y: y ^ y, lambda y: ~y):
        with pytest.raises(
            TypeError, match=r"^bitwise_\w+: operands of dtype (int and )?float32.*must be integers or bool"
        ):
            operation(tt.ones(2))


def test_allclose_is_a_bool_on_every_device(device):
    x = tt.ones(3, device=device)
    assert tt.allclose(x, 1.0) is True
    assert x.allclose(x + 1e-3) is False
    assert x.allclose(x + 1e-3, atol=1e-2)
    nan = tt.full(3, np.nan, device=device)
    assert not nan.allclose(nan)
    assert nan.allclose(nan, equal_nan=True)


def test_erf_is_exact_to_the_last_digits_of_float64():
    x = np.concatenate([np.linspace(-7, 7, 20_001), [0, 1e-300, -1e-10, 0.46875, 40, -np.inf, np.inf]])
    np.testing.assert_allclose(tt.erf(x).data, ERF(x), rtol=1e-15, atol=0)
    assert np.isnan(tt.erf(tt.tensor(np.nan)).item())


def test_activations_do_not_overflow():
    x = tt.tensor([-1e4, -100.0, 100.0, 1e4], requires_grad=True)
    for fn, values, slopes in [
        (tt.softplus, [0, 0, 100, 1e4], [0, 0, 1, 1]),
        (tt.silu, [0, 0, 100, 1e4], [0, 0, 1, 1]),
        (tt.sigmoid, [0, 0, 1, 1], [0, 0, 0, 0]),
        (lambda x: tt.gelu(x, approximate="none"), [0, 0, 100, 1e4], [0, 0, 1, 1]),
    ]:
        x.grad = None
        y = fn(x)
        y.sum().backward()
        np.testing.assert_allclose(y.data, values, atol=1e-30)
        np.testing.assert_allclose(x.grad, slopes, atol=1e-30)


def test_sorting_is_stable_in_both_directions_and_puts_nan_at_the_large_end():
    x = tt.tensor([2.0, np.nan, 1.0, 2.0, 3.0])
    assert x.sort().indices.tolist() == x.argsort().tolist() == [2, 0, 3, 4, 1]
    assert x.sort(descending=True).indices.tolist() == x.argsort(descending=True).tolist() == [1, 4, 0, 3, 2]
    assert x.topk(3, largest=False).indices.tolist() == [2, 0, 3]
    assert x.topk(4).values.tolist()[1:] == [3, 2, 2]


# ---- 0-d tensors -----------------------------------------------------------------------------------------------------

OF_A_SCALAR = {
    **{fn.__name__: fn for fn in (tt.sum, tt.mean, tt.max, tt.min, tt.prod, tt.norm, tt.logsumexp, tt.cumsum, tt.flip)},
    **{fn.__name__: fn for fn in (tt.softmax, tt.log_softmax, tt.var, tt.cumprod)},
    "sort": lambda x, axis: tt.sort(x, axis).values,
    "topk": lambda x, axis: tt.topk(x, 1, axis).values,
    "gather": lambda x, axis: tt.gather(x, axis, 0),
    "roll": lambda x, axis: tt.roll(x, 1, axis),
    "transpose": lambda x, axis: tt.transpose(x, axis, axis),
    "swapaxes": lambda x, axis: tt.swapaxes(x, axis, axis),
    "all axes": lambda x, axis: x.transpose(),
}


@pytest.mark.parametrize("axis", [0, -1])
@pytest.mark.parametrize("name", OF_A_SCALAR)
def test_a_0d_tensor_has_an_axis_0(name, axis):
    x = tt.tensor(2.0, requires_grad=True)
    y = OF_A_SCALAR[name](x, axis=axis)
    y.backward()
    value, slope = {"softmax": (1, 0), "log_softmax": (0, 0), "var": (0, 0)}.get(name, (2, 1))
    assert (y.shape, y.item()) == ((), value)
    assert (x.grad.shape, x.grad) == ((), slope)


@pytest.mark.parametrize("name", [name for name in OF_A_SCALAR if name != "all axes"])
def test_a_0d_tensor_has_no_axis_1(name):
    with pytest.raises(IndexError, match=r"axis 1 is out of range for a tensor with 0 axes"):
        OF_A_SCALAR[name](tt.tensor(2.0), axis=1)


def test_positions_in_a_0d_tensor():
    x = tt.tensor(2.0)
    for y in (x.argmax(0), x.argmin(-1), x.argsort(0), x.sort().indices):
        assert (y.shape, y.item()) == ((), 0)
    assert x.all(axis=0).item() is x.any(axis=0).item() is True


def test_a_new_axis_of_a_0d_parameter():
    p = tt.nn.Parameter(np.array(2.0))
    for y in (p[None], p[..., None], p[None, None], p.unsqueeze(0), p[...]):
        p.grad = None
        y.sum().backward()
        assert (type(p.grad), p.grad.shape, p.grad) == (np.ndarray, (), 1)


# ---- ids, targets, masks ---------------------------------------------------------------------------------------------

FORMS = [np.asarray, tt.tensor, list, lambda ids: tt.tensor(ids, device="cpu").to("int32")]


@pytest.mark.parametrize("form", FORMS, ids=["array", "Tensor", "list", "int32"])
def test_ids_on_the_host_are_checked_before_they_reach_the_device(device, form):
    weight = tt.ones(5, 2, requires_grad=True, device=device)
    y = tt.embedding(form([0, 4, 4]), weight)
    y.sum().backward()
    assert tt.to_numpy(weight.grad)[:, 0].tolist() == [1, 0, 0, 0, 2]
    for bad in ([5, 0], [0, -1]):
        with pytest.raises(IndexError, match=r"^embedding: ids from -?\d to \d: must lie in 0\.\.4$"):
            tt.embedding(form(bad), weight)


def test_ids_on_the_device_are_checked_too(device):
    weight = tt.zeros(5, 2, device=device)
    for ids in ([5], [-1]):
        for given in (tt.tensor(ids, device=device), device.put(np.array(ids))):
            with pytest.raises(IndexError, match="embedding: ids from"):
                tt.embedding(given, weight)
            with pytest.raises(IndexError, match="cross_entropy: targets from"):
                tt.cross_entropy(tt.zeros(1, 5, device=device), given)
            with pytest.raises(IndexError, match="gather: index from"):
                tt.gather(tt.zeros(5, device=device), 0, given)


@pytest.mark.parametrize(
    ("ids", "weight", "error"),
    [
        ([True, False], (5, 2), "embedding: ids of dtype bool: must be integers"),
        ([1.0], (5, 2), "embedding: ids of dtype float32: must be integers"),
        ([0], (5,), r"embedding: weight has shape \(5,\): must be \(vocabulary, width\)"),
        ([0], (5, 2, 2), r"embedding: weight has shape \(5, 2, 2\): must be \(vocabulary, width\)"),
    ],
)
def test_what_is_no_lookup_is_refused(ids, weight, error):
    with pytest.raises((TypeError, ValueError), match=f"^{error}$"):
        tt.embedding(ids, tt.zeros(*weight))


def test_no_ids_give_no_rows():
    assert tt.embedding([], tt.zeros(5, 2)).shape == (0, 2)
    assert tt.embedding([[1, 2]], tt.zeros(5, 2)).shape == (1, 2, 2)
    assert tt.embedding(3, tt.zeros(5, 2)).shape == (2,)


LOSSES_OF_TARGETS = {
    "cross_entropy": lambda targets: tt.cross_entropy(tt.zeros(2, 5), targets),
    "linear_cross_entropy": lambda targets: tt.linear_cross_entropy(tt.zeros(2, 3), tt.zeros(5, 3), targets),
}


@pytest.mark.parametrize(
    ("targets", "error"),
    [
        ([1, 2, 3], r"targets have shape \(3,\): must be \(2,\), one for each row of logits"),
        ([1], r"targets have shape \(1,\): must be \(2,\)"),
        ([[1, 2]], r"targets have shape \(1, 2\): must be \(2,\)"),
        ([1.0, 2.0], "targets of dtype float32: must be integers"),
        ([True, False], "targets of dtype bool: must be integers"),
        ([0, 5], r"targets from 0 to 5: must lie in 0\.\.4"),
        ([-1, 0], r"targets from -1 to 0: must lie in 0\.\.4"),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", LOSSES_OF_TARGETS)
@pytest.mark.parametrize("form", [list, tt.tensor])
def test_wrong_targets_are_named(name, targets, error, form):
    with pytest.raises((IndexError, TypeError, ValueError), match=f"^{name}: {error}"):
        LOSSES_OF_TARGETS[name](form(targets))


@pytest.mark.parametrize("name", LOSSES_OF_TARGETS)
def test_right_targets_in_every_form(name):
    for targets in ([1, -100], np.array([4, 0], np.uint8), tt.tensor([3, 3]), (0, 1)):
        assert LOSSES_OF_TARGETS[name](targets).item() == pytest.approx(math.log(5))


@pytest.mark.parametrize("mask", [[1.0, 0.0], np.array([1, 0]), tt.tensor([0.5, 0.0]), 1, None], ids=str)
def test_a_mask_is_boolean(mask):
    with pytest.raises(TypeError, match=r"^masked_fill: mask of dtype \w+: must be boolean, such as x > 0$"):
        tt.zeros(2).masked_fill(mask, 1.0)
    with pytest.raises(TypeError, match=r"^where: condition of dtype \w+: must be boolean, such as x > 0$"):
        tt.where(mask, 1.0, tt.zeros(2))


def test_masks_in_every_form():
    for mask in ([True, False], np.array([True, False]), tt.tensor([1.0, -1.0]) > 0):
        assert tt.zeros(2).masked_fill(mask, 7).tolist() == tt.where(mask, 7, tt.zeros(2)).tolist() == [7, 0]
    assert tt.zeros(2).masked_fill(True, 7).tolist() == [7, 7]


def test_one_hot(device):
    ids = tt.tensor([[0, 2]], device=device)
    y = tt.one_hot(ids)
    assert (y.tolist(), y.dtype, y.device) == ([[[1, 0, 0], [0, 0, 1]]], np.int64, device.name)
    assert tt.one_hot(1, num_classes=3).tolist() == [0, 1, 0]
    for bad, error in [([3], IndexError), ([-1], IndexError), ([1.0], TypeError)]:
        with pytest.raises(error, match=r"^one_hot: ids "):
            tt.one_hot(bad, num_classes=3)


# ---- shapes and indices ----------------------------------------------------------------------------------------------


def test_numpy_integers_are_lengths_and_axes():
    two, three, x = np.int64(2), np.int32(3), tt.ones(6)
    assert x.reshape(two, three).shape == x.reshape(np.array([2, 3])).shape == (2, 3)
    assert tt.ones(1, 3).expand(two, -1).shape == (2, 3)
    assert [piece.shape for piece in x.split(np.int64(4))] == [piece.shape for piece in x.split(np.array([4, 2]))]
    assert [piece.shape for piece in x.chunk(two)] == [(3,), (3,)]
    assert x.repeat(two).shape == (12,)
    assert tt.ones(2, 3).sum(axis=np.int64(1)).shape == tt.ones(2, 3).mean(axis=np.array([1])).shape == (2,)
    assert tt.ones(2, 3).transpose(np.int64(0), np.int64(1)).shape == (3, 2)


def test_slices_with_tensor_bounds():
    x = tt.arange(6)
    assert x[tt.tensor(1) : tt.tensor(5) : tt.tensor(2)].tolist() == [1, 3]
    assert x[tt.tensor(2)].item() == 2
    with pytest.raises(TypeError, match=r"a tensor of shape \(\) and dtype float32 is not an integer"):
        x[: tt.tensor(1.0)]


def test_expand_keeps_lengths_of_minus_one():
    x = tt.ones(2, 1, requires_grad=True)
    y = x.expand(4, -1, 3)
    assert y.shape == (4, 2, 3)
    y.sum().backward()
    np.testing.assert_array_equal(x.grad, np.full((2, 1), 12))


def test_contiguous_copies_only_what_is_not():
    x = tt.ones(2, 3, requires_grad=True)
    assert x.contiguous() is x
    y = x.T.contiguous()
    assert y.data.flags.c_contiguous
    (y * tt.arange(3).reshape(3, 1)).sum().backward()
    np.testing.assert_array_equal(x.grad, [[0, 1, 2], [0, 1, 2]])


AXIS_ERRORS = {
    **{fn.__name__: fn for fn in (tt.sum, tt.mean, tt.max, tt.min, tt.var, tt.prod, tt.norm, tt.logsumexp, tt.all)},
    **{fn.__name__: fn for fn in (tt.softmax, tt.log_softmax, tt.argmax, tt.argsort, tt.cumsum, tt.flip, tt.squeeze)},
    **{fn.__name__: fn for fn in (tt.sort, tt.unbind)},
    "swapaxes": lambda x, axis: tt.swapaxes(x, 0, axis),
    "transpose": lambda x, axis: tt.transpose(x, axis, 0),
    "concat": lambda x, axis: tt.concat([x, x], axis),
    "stack": lambda x, axis: tt.stack([x, x], axis + (1 if axis > 0 else -1)),
    "split": lambda x, axis: tt.split(x, 1, axis),
    "chunk": lambda x, axis: tt.chunk(x, 1, axis),
    "topk": lambda x, axis: tt.topk(x, 1, axis),
    "roll": lambda x, axis: tt.roll(x, 1, axis),
    "gather": lambda x, axis: tt.gather(x, axis, [[0]]),
    "flatten": lambda x, axis: tt.flatten(x, 0, axis),
    "permute": lambda x, axis: tt.permute(x, 0, axis),
}


@pytest.mark.parametrize("axis", [2, -3])
@pytest.mark.parametrize("name", AXIS_ERRORS)
def test_an_axis_out_of_range_is_named_with_its_function(name, axis):
    with pytest.raises(IndexError, match=rf"^{name}: axis -?\d is out of range for a tensor with \d axes$"):
        AXIS_ERRORS[name](tt.ones(2, 2), axis=axis)


@pytest.mark.parametrize("name", ["sum", "softmax", "argmax", "cumsum", "sort"])
def test_an_axis_is_an_integer(name):
    for axis in (1.0, "rows"):
        with pytest.raises(TypeError, match=rf"^{name}: axis '?{axis}'?: must be an integer$"):
            getattr(tt, name)(tt.ones(2, 2), axis=axis)


REFUSED = [
    (lambda x: tt.pad(x, (1, 1, 2, 2)), ValueError, r"pad: pad_width \(1, 1, 2, 2\): must be a pair"),
    (lambda x: tt.pad(x, [(0, 0), (0, -1)]), ValueError, "pad: pad_width .*: must not be negative; slice x instead"),
    (lambda x: x.repeat(2), ValueError, r"repeat: counts \(2,\): must be at least one for each axis"),
    (lambda x: x.chunk(0), ValueError, "chunk: chunks 0: must be at least 1"),
    (lambda x: x.sum().chunk(2), ValueError, "chunk: a 0-d tensor has no axis to be split along"),
    (lambda x: x.split(2.5), TypeError, r"split: \(2.5,\): must be integers"),
    (lambda x: tt.tensor(1.0).unbind(), ValueError, "unbind: a 0-d tensor has no axis"),
    (lambda x: tt.roll(x, (1, 2), 0), ValueError, r"roll: shift \(1, 2\) and axis 0: must be as many"),
    (lambda x: x.topk(4), ValueError, r"topk: k 4: must be from 0 to 3, the length of axis 1 of \(2, 3\)"),
    (lambda x: x.norm(3), ValueError, "norm: p 3: must be 1, 2 or math.inf"),
    (lambda x: x.gather(1, [0, 1]), ValueError, r"gather: index has shape \(2,\): must have the 2 axes of x"),
    (
        lambda x: x.gather(1, [[0]] * 3),
        ValueError,
        r"gather: index has shape \(3, 1\): .*none of them longer but axis 1",
    ),
    (lambda x: tt.stack([]), ValueError, "stack: no tensors given; it needs at least one"),
    (lambda x: tt.max(x, x), TypeError, r"max: axis is a tensor of shape \(2, 3\): must .*two tensors use maximum"),
    (lambda x: tt.min(x[0, 0], x[0, 0]), TypeError, "min: axis is a tensor .*two tensors use minimum"),
    (lambda x: x @ x, ValueError, "the last axis of a, 3, must equal the second-last axis of b, 2"),
    (lambda x: x @ tt.ones(2), ValueError, "the last axis of a, 3, must equal the only axis of b, 2"),
    (lambda x: x @ 2, ValueError, "each must have at least one axis"),
    (
        lambda x: tt.ones(2, 3, 4) @ tt.ones(3, 4, 5),
        ValueError,
        r"of \(2, 3, 4\) float32 and \(3, 4, 5\) float32: the leading axes of a, \(2,\), and b, \(3,\), must broadcast",
    ),
    (
        lambda x: tt.cross_entropy(tt.zeros(2, 10, 5), np.full((2, 5), 9)),
        ValueError,
        r"cross_entropy: targets have shape \(2, 5\): must be \(2, 10\), .*classes are the last axis",
    ),
    (lambda x: tt.tril(x[0]), ValueError, r"tril: a tensor of shape \(3,\): needs at least 2 axes"),
    (lambda x: x.gather(1, [[0.0]]), TypeError, "gather: index of dtype float32: must be integers"),
    (lambda x: tt.gelu(x, "exact"), ValueError, "gelu: approximate 'exact': must be 'tanh' or 'none'"),
    (lambda x: tt.mse_loss(x, tt.ones(3)), ValueError, r"mse_loss: x has shape \(2, 3\) and targets \(3,\)"),
    (
        lambda x: tt.mse_loss(x, x, "average"),
        ValueError,
        "mse_loss: reduction 'average': must be 'mean', 'sum' or 'none'",
    ),
    (lambda x: tt.cross_entropy(x, [0, 1], reduction="no"), ValueError, "cross_entropy: reduction 'no': must be"),
    (lambda x: tt.cross_entropy(x, [0, 1], label_smoothing=2), ValueError, "label_smoothing 2: must be from 0 to 1"),
    (lambda x: tt.cross_entropy(x, [0, 1], weight=tt.ones(2)), ValueError, r"weight has shape \(2,\): must be \(3,\)"),
    (lambda x: tt.einsum("ij,jk", x), ValueError, "einsum: 'ij,jk' has 2 operands, 1 were given"),
    (lambda x: tt.einsum("ijk->i", x), ValueError, "einsum: 'ijk->i': operand 0 is 'ijk' and has 2 axes"),
    (lambda x: tt.einsum("ij->k", x), ValueError, "einsum: 'ij->k': each label of the result must be there once"),
    (lambda x: tt.einsum("ij,ji->i", x, x), ValueError, "einsum: 'ij,ji->i': '[ij]' has the lengths [23] and [23]"),
    (lambda x: tt.einsum("i1", x), ValueError, "einsum: 'i1': must be letters"),
    (lambda x: x.sum(dim=0, axis=0), TypeError, "sum: dim and axis are the same; give one of them"),
    (lambda x: tt.randint(5, 3), TypeError, r"randint\(5, 3\): give a shape, such as randint\(5, 3, \(2, 3\)\)"),
]


@pytest.mark.parametrize(("use", "error", "words"), REFUSED, ids=[words for _, _, words in REFUSED])
def test_a_refusal_names_the_argument_its_value_and_what_is_expected(use, error, words):
    with pytest.raises(error, match=words):
        use(tt.ones(2, 3))


# ---- attention -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["causal_attention", "scaled_dot_product_attention"])
@pytest.mark.parametrize(
    ("shape", "dropout", "words"),
    [
        ((1, 1, 2, 2), 1.0, "probability 1.0: must be at least 0 and less than 1"),
        ((1, 1, 2, 0), 0.0, r"q \(1, 1, 2, 0\), k .*must"),
        ((2,), 0.0, r"q \(2,\), k .*must"),
    ],
)
def test_attention_of_wrong_shapes_or_with_everything_dropped_is_refused(name, shape, dropout, words):
    q = tt.zeros(*shape)
    with pytest.raises(ValueError, match=f"^{name}.*{words}"):
        getattr(tt, name)(q, q, q, **{"dropout_p" if name.startswith("scaled") else "dropout": dropout})


def test_causal_attention_is_of_four_axes():
    q = tt.zeros(1, 2, 2)
    with pytest.raises(ValueError, match=r"^causal_attention: .* must have one shape \(B, H, T, D\)"):
        tt.causal_attention(q, q, q)
    assert tt.scaled_dot_product_attention(q, q, q, is_causal=True).shape == (1, 2, 2)


def test_causal_attention_is_the_fused_one_where_it_can_be():
    q = [tt.Tensor(x, requires_grad=True) for x in QKV]
    y = tt.scaled_dot_product_attention(*q, is_causal=True)
    np.testing.assert_array_equal(y.data, tt.causal_attention(*q).data)
    mask = np.tri(4, dtype=bool)
    np.testing.assert_allclose(tt.scaled_dot_product_attention(*q, attn_mask=mask).data, y.data, rtol=1e-12)


def test_a_mask_of_minus_infinity_hides_as_false_does(device):
    q, k, v = (tt.tensor(x, dtype=np.float32, requires_grad=True, device=device) for x in QKV)
    visible = np.array([[True, True, False, False]] * 3 + [[False] * 4])
    added = np.where(visible, 0, -np.inf).astype(np.float32)
    results = []
    for mask in (visible, added, tt.tensor(added, device=device)):
        q.grad = None
        y = tt.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        y.sum().backward()
        results.append((y.numpy(), tt.to_numpy(q.grad)))
        assert (y.numpy()[:, :, 3] == 0).all()
        assert (results[-1][1][:, :, 3] == 0).all()
    for y, grad in results[1:]:
        np.testing.assert_allclose(y, results[0][0], atol=1e-6)
        np.testing.assert_allclose(grad, results[0][1], atol=1e-6)


def test_attention_masks_of_other_kinds_are_refused():
    q = tt.zeros(2, 2)
    with pytest.raises(TypeError, match="attn_mask of dtype int64: must be booleans or floats"):
        tt.scaled_dot_product_attention(q, q, q, attn_mask=[[1, 0], [0, 1]])
    with pytest.raises(ValueError, match="attn_mask and is_causal are both given"):
        tt.scaled_dot_product_attention(q, q, q, attn_mask=[[True, False]], is_causal=True)


def test_attention_drops_probabilities():
    q, k, v = tt.zeros(1, 1, 200, 2), tt.zeros(1, 1, 300, 2), tt.ones(1, 1, 300, 1)
    y = tt.scaled_dot_product_attention(q, k, v, dropout_p=0.5).data
    assert abs(y.mean() - 1) < 0.02
    assert y.std() > 0.01


# ---- spellings -------------------------------------------------------------------------------------------------------


# arguments before `axis`, which is 0
BEFORE_AXIS = {"chunk": (2,), "concat": (), "gather": (), "roll": (1,), "split": (2,), "stack": (), "topk": (1,)}
WITH_AXIS = [
    (owner, name)
    for owner, names in ((tt, DEFAULTS), (tt.Tensor, SAME_METHOD))
    for name in names
    if "axis" in inspect.signature(getattr(owner, name)).parameters
]


@pytest.mark.parametrize(("owner", "name"), WITH_AXIS, ids=lambda value: getattr(value, "__name__", value))
def test_dim_and_keepdim_are_axis_and_keepdims(owner, name):
    function = getattr(owner, name)
    x = [tt.ones(1, 3)] * 2 if name in ("concat", "stack") else tt.ones(1, 3)
    ours, theirs = {"axis": 0}, {"dim": 0}
    if "keepdims" in inspect.signature(function).parameters:
        ours["keepdims"], theirs["keepdim"] = True, True
    if name == "gather":
        ours["index"] = theirs["index"] = [[0, 0, 0]]
    arguments = (x, *BEFORE_AXIS.get(name, ()))
    assert_result(*[_raw(function(*arguments, **options)) for options in (ours, theirs)])


def _raw(result):
    return tuple(map(raw, result)) if isinstance(result, tuple) else raw(result)


def test_numpys_functions_keep_the_gradient():
    x = tt.Tensor(X, requires_grad=True)
    for y, expected in [
        (np.sum(x), X.sum()),
        (np.mean(x, axis=0), X.mean(axis=0)),
        (np.max(x, axis=1, keepdims=True), X.max(axis=1, keepdims=True)),
        (np.clip(x, -0.5, 0.5), np.clip(X, -0.5, 0.5)),
        (np.cumsum(x, axis=0), np.cumsum(X, axis=0)),
        (np.prod(x), X.prod()),
        (np.roll(x, 1, axis=0), np.roll(X, 1, axis=0)),
        (np.var(x, ddof=1), X.var(ddof=1)),
    ]:
        assert isinstance(y, tt.Tensor)
        assert y.requires_grad
        np.testing.assert_allclose(y.data, expected)
    assert isinstance(np.concatenate([x.detach(), x.detach()]), np.ndarray)  # the values alone


def test_in_place_operators():
    x = tt.ones(2)
    before = x.data
    x += 1
    x *= tt.tensor([2.0, 3.0])
    x -= 1
    x /= 2
    assert x.data is before
    assert x.tolist() == [1.5, 2.5]
    leaf = tt.ones(2, requires_grad=True)
    with pytest.raises(RuntimeError, match="in-place change of a leaf that requires a gradient"):
        leaf += 1
    y = leaf * 1
    y *= 3  # recorded, out of place
    y.sum().backward()
    np.testing.assert_array_equal(leaf.grad, 3)
    integers = tt.arange(3)
    integers //= 2
    integers |= 4
    assert integers.tolist() == [4, 4, 5]


def test_randint_and_multinomial_take_pytorchs_spelling():
    with tt.seeded(0):
        x = tt.randint(5, (3, 2))
    with tt.seeded(0):
        y = tt.randint(0, 5, (3, 2))
    assert x.shape == (3, 2)
    np.testing.assert_array_equal(x.data, y.data)
    assert tt.multinomial(tt.ones(3), num_samples=2).shape == (2,)
    with pytest.raises(ValueError, match="multinomial: num_samples 0: must be at least 1"):
        tt.multinomial(tt.ones(3), num_samples=0)


def test_functions_take_lists():
    assert tt.sum([[1.0, 2.0], [3.0, 4.0]], axis=0).tolist() == [4, 6]
    assert tt.concat([[1, 2], [3]]).tolist() == tt.flip([3, 2, 1]).tolist() == [1, 2, 3]
    assert tt.softmax([0.0, 0.0]).tolist() == [0.5, 0.5]


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((2, 3), {}, r"rotary: x has shape \(2, 3\): must be \(\.\.\., T, H, D\)"),
        ((2, 3, 5), {}, "rotary: head size 5: must be even"),
        ((2, 3, 4), {"first_position": -1}, "rotary: first_position -1: must be at least 0"),
        ((2, 3, 4), {"theta": 0.0}, "rotary: theta 0.0: must be positive"),
    ],
)
def test_rotary_refuses(shape, options, message):
    with pytest.raises(ValueError, match=message):
        tt.rotary(np.ones(shape), **options)


def test_attention_refuses_to_rotate_heads_of_an_odd_size():
    with pytest.raises(ValueError, match="packed_causal_attention: head size 3: must be even"):
        tt.packed_causal_attention(QKV.transpose(1, 3, 0, 2, 4), rotary_theta=10000.0)


def test_products_of_rotated_vectors_depend_on_their_distance_alone():
    q, k = np.random.default_rng(0).standard_normal((2, 1, 1, 64))
    products = [np.vdot(tt.rotary(q, 7 + shift).numpy(), tt.rotary(k, 4 + shift).numpy()) for shift in (0, 1, 50, 5000)]
    np.testing.assert_allclose(products, products[0], rtol=1e-9)
    assert products[0] != pytest.approx(np.vdot(q, k), rel=1e-3)


def test_rotary_angles_are_exact_far_from_the_beginning():
    """An angle of 100,000 in float32 would be off by 4e-3."""
    x = np.random.default_rng(0).standard_normal((1, 2, 8))
    for first in (0, 1000, 1023, 1024, 100_000, 10**9):
        y = tt.rotary(x.astype(np.float32), first).numpy()
        np.testing.assert_allclose(y, rotary(x, first), atol=1e-6)


# ---- float16, infinite gradients, extremes --------------------------------------------------------------------------

WIDE = np.array([[300.0, -300.0, 600.0, 0.0]], np.float16)
ONES4 = np.ones(4, np.float16)
HALF = {
    "erf": lambda x: tt.erf(x * 0.01),
    "exact gelu": lambda x: tt.gelu(x * 0.01, "none"),
    "layer_norm": lambda x: tt.layer_norm(x, ONES4.astype(x.dtype)),
    "rms_norm": lambda x: tt.rms_norm(x),
    "rotary": lambda x: tt.rotary(x[None] * 0.01, 3),
    "softmax": lambda x: tt.softmax(x * 0.01),
    "logsumexp": lambda x: tt.logsumexp(tt.zeros(70_000, 1, dtype=x.dtype) + x[0, :1] * 0, 0),
    "cross_entropy": lambda x: tt.cross_entropy(
        tt.zeros(70_000, 2, dtype=x.dtype) + x[:, :2] * 0, np.zeros(70_000, int)
    ),
    "sum": lambda x: (tt.full((100_000, 4), 0.1, dtype=x.dtype) + x * 0).sum(0),
    "linear": lambda x: tt.linear(x, tt.ones(4, 2, dtype=x.dtype)),
}


@pytest.mark.parametrize("operation", HALF.values(), ids=HALF)
def test_float16_is_computed_in_float32(operation):
    results = []
    for dtype in (np.float16, np.float64):
        x = tt.Tensor(WIDE.astype(dtype), requires_grad=True)
        y = operation(x)
        (y * 0.5).sum().backward()
        assert y.dtype == x.grad.dtype == dtype
        results.append((y.numpy().astype(np.float64), x.grad.astype(np.float64)))
    for half, double in zip(*results, strict=True):
        np.testing.assert_allclose(half, double, rtol=4e-3, atol=2e-3)


def test_the_norm_of_float16_gradients_does_not_overflow():
    p = tt.nn.Parameter(np.zeros(4, np.float16))
    p.grad = np.full(4, 300, np.float16)
    assert tt.clip_grad_norm_(p, 1.0) == pytest.approx(600)
    np.testing.assert_allclose(p.grad, 0.5, rtol=1e-3)


@pytest.mark.parametrize(
    "function",
    [tt.relu, lambda x: tt.maximum(x, 0.0), lambda x: -tt.minimum(-x, 0.0), lambda x: tt.clip(x, 0.0)],
)
def test_an_infinite_gradient_does_not_pass_where_none_does(function):
    x = tt.tensor([-1.0, 4.0], requires_grad=True)
    with np.errstate(divide="ignore"):
        function(x).sqrt().sum().backward()
    np.testing.assert_allclose(x.grad, [0, 0.25])
    y = tt.tensor([-1.0, 0.0], requires_grad=True)
    with np.errstate(divide="ignore"):
        y.max().sqrt().backward()
    assert y.grad.tolist() == [0, np.inf]


def test_the_gradient_of_a_product_with_zeros_among_huge_numbers():
    for values, expected in ([0, 0, 1e30, 1e30], [0, 0, 0, 0]), ([0.0, 1e30, 1e30], [np.inf, 0, 0]):
        x = tt.tensor(values, dtype=np.float32, requires_grad=True)
        with np.errstate(over="ignore"):
            x.prod().backward()
        assert x.grad.tolist() == expected


def test_sigmoid_keeps_its_digits_where_it_is_tiny():
    x = tt.tensor([-20.0, -80.0, 0.0, 20.0], requires_grad=True)
    y = tt.sigmoid(x)
    np.testing.assert_allclose(y.numpy(), 1 / (1 + np.exp(-x.numpy().astype(np.float64))), rtol=1e-6)
    y.log()[:2].sum().backward()
    np.testing.assert_allclose(x.grad, [1, 1, 0, 0], rtol=1e-5)


def test_the_gradient_of_a_standard_deviation_of_0_is_0():
    x = tt.ones(3, requires_grad=True)
    x.std().backward()
    assert x.grad.tolist() == [0, 0, 0]


@pytest.mark.parametrize("weights", [[0.0, 1e-320, 1.0], [0.0, 1e-200, 1e200], [0.0, 1e300, 1e308]])
def test_multinomial_draws_tiny_weights_before_none(weights):
    for seed in range(20):
        tt.manual_seed(seed)
        assert sorted(tt.multinomial(np.array(weights), 2).tolist()) == [1, 2]


@pytest.mark.parametrize(
    ("weights", "samples", "words"),
    [
        ([0.5, 0.5], -1, "num_samples -1: must be at least 1"),
        (np.ones((2, 2, 2)), 1, r"weights have shape \(2, 2, 2\)"),
        ([0.5, np.inf], 1, "needs finite weights"),
        ([0.0, 1.0], 2, "at least 2 of them positive"),
    ],
)
def test_multinomial_refuses(weights, samples, words):
    with pytest.raises(ValueError, match=words):
        tt.multinomial(weights, samples)


def test_integers_joined_with_floats_take_their_dtype():
    assert tt.concat([tt.ones(2), tt.arange(2)]).dtype == np.float32
    assert tt.stack([tt.arange(2), tt.ones(2)]).dtype == np.float32


def test_the_dropout_of_a_vector_is_keyed_by_its_rows():
    with tt.seeded("mask"):
        whole = tt.dropout(tt.ones(8), 0.5)
    with tt.seeded("mask"), tt.batch_rows(4):
        np.testing.assert_array_equal(tt.dropout(tt.ones(4), 0.5).numpy(), whole.numpy()[4:])


@pytest.mark.parametrize("make", [lambda: tt.zeros(-1), lambda: tt.randn((2, -3)), lambda: tt.empty(2.5)])
def test_impossible_shapes_are_named(make):
    with pytest.raises((ValueError, TypeError), match=r"^shape.*must (not )?be"):
        make()


def test_random_floats_of_every_dtype():
    assert tt.randn(3, dtype=np.float16).dtype == np.float16
    assert tt.rand(3, dtype=np.float64).dtype == np.float64
    with pytest.raises(TypeError, match="rand: dtype int64: must be floating-point"):
        tt.rand(3, dtype=np.int64)

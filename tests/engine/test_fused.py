"""The fused operations against their composition from elementary ones, and at the edges of float32."""

import inspect

import numpy as np
import pytest

import tinytensor as tt
from tinytensor.ops import composed

RNG = np.random.default_rng(0)

X, W, B = RNG.standard_normal((7, 12)), RNG.standard_normal((12, 12)), RNG.standard_normal(12)
QKV = RNG.standard_normal((3, 2, 4, 9, 8))
TARGETS = np.array([3, 0, -100, 11, 3, -100, 7])
PAIRS = [
    (tt.softmax, composed.softmax, (X,)),
    (tt.log_softmax, composed.log_softmax, (X,)),
    (tt.layer_norm, composed.layer_norm, (X, W[0], B)),
    (tt.rms_norm, composed.rms_norm, (X, W[0])),
    (tt.bias_add, composed.bias_add, (X, X[::-1], B)),
    (tt.add_layer_norm, composed.add_layer_norm, (X, X[::-1], B, W[0], W[1])),
    (tt.gelu, composed.gelu, (X,)),
    (tt.linear, composed.linear, (X, W, B)),
    (tt.gelu_linear, composed.gelu_linear, (X, W, B)),
    (tt.gelu_linear, composed.gelu_linear, (X, W, B, W[0])),
    (tt.swiglu_linear, composed.swiglu_linear, (np.hstack([X, X[::-1]]), W, B)),
    (tt.embedding, composed.embedding, (np.array([[1, 5], [5, 0]]), X)),
    (tt.causal_attention, composed.causal_attention, tuple(QKV)),
    (tt.packed_causal_attention, composed.packed_causal_attention, (QKV.transpose(1, 3, 0, 2, 4),)),
    (tt.rotary, composed.rotary, (QKV[0].swapaxes(1, 2),)),
    (tt.cross_entropy, composed.cross_entropy, (X, TARGETS)),
    (tt.linear_cross_entropy, composed.linear_cross_entropy, (X, W, TARGETS)),
]


TWINS = [
    pytest.param(getattr(tt, name), plain, id=name)
    for name, plain in vars(composed).items()
    if inspect.isfunction(plain) and plain.__module__ == composed.__name__ and not name.startswith("_")
]


@pytest.mark.parametrize(("fused", "plain"), TWINS)
def test_twins_take_the_same_arguments_and_point_to_each_other(fused, plain):
    parameters = list(inspect.signature(plain).parameters.values())
    assert list(inspect.signature(fused).parameters.values())[: len(parameters)] == parameters
    assert f"Composed: `composed.{plain.__name__}`" in fused.__doc__
    assert f"{fused.__module__.rpartition('.')[2]}.{fused.__name__}`" in plain.__doc__


def test_every_twin_is_held_against_the_other():
    compared = {plain.__name__ for _, plain, _ in PAIRS}
    assert compared == {param.id for param in TWINS} - {"dropout"}  # whose masks differ


@pytest.mark.parametrize("drop", [tt.dropout, composed.dropout])
def test_dropout_scales_what_it_keeps(drop):
    x = tt.Tensor(X, requires_grad=True)
    y = drop(x, 0.4)
    y.backward(np.ones(y.shape))
    mask = np.where(y.data == 0, 0, 1 / 0.6)
    assert 0 < (mask == 0).sum() < X.size
    np.testing.assert_allclose(y.data, X * mask)
    np.testing.assert_allclose(x.grad, mask)


def values_and_gradients(fn, arrays, dtype=np.float64):
    """[y, dL/d each float input] for a fixed random dL/dy."""
    inputs = [tt.Tensor(a.astype(dtype), requires_grad=True) if a.dtype.kind == "f" else a for a in arrays]
    y = fn(*inputs)
    y = tt.stack(y) if isinstance(y, tuple) else y
    y.backward(np.random.default_rng(1).standard_normal(y.shape))
    return [y.data, *(x.grad for x in inputs if isinstance(x, tt.Tensor))]


@pytest.mark.parametrize(("fused", "plain", "arrays"), PAIRS, ids=[pair[0].__name__ for pair in PAIRS])
def test_fused_is_what_it_is_composed_of(fused, plain, arrays):
    results = zip(values_and_gradients(fused, arrays), values_and_gradients(plain, arrays), strict=True)
    for result, reference in results:
        np.testing.assert_allclose(result, reference, rtol=1e-9, atol=1e-12)


def test_composed_runs_on_every_device(device):
    qkv = [tt.tensor(a, dtype=np.float32, device=device) for a in QKV]
    x = tt.tensor(X, dtype=np.float32, device=device)
    results = [composed.causal_attention(*qkv, dropout=0.1), composed.cross_entropy(x, TARGETS), composed.softmax(x)]
    results.append(composed.rotary(qkv[0]))
    assert all(y.device == device.name for y in results)


OTHER_FORMS = {
    "softmax of axis 0": lambda ops: ops.softmax(tt.Tensor(X), axis=0),
    "log_softmax of axis 0": lambda ops: ops.log_softmax(tt.Tensor(X), axis=0),
    "layer_norm without a bias": lambda ops: ops.layer_norm(tt.Tensor(X), W[0], eps=0.1),
    "rms_norm without a weight": lambda ops: ops.rms_norm(tt.Tensor(X), eps=0.1),
    "rotary from a later position": lambda ops: ops.rotary(tt.Tensor(QKV[0]), 7, theta=50.0),
    "attention with rotary positions": lambda ops: ops.packed_causal_attention(
        tt.Tensor(QKV.transpose(1, 3, 0, 2, 4)), rotary_theta=50.0
    ),
    "rotary of a part of each head": lambda ops: ops.rotary(tt.Tensor(QKV[0]), 7, frequencies=(0.5, 0.1)),
    "attention of grouped queries": lambda ops: ops.packed_causal_attention(
        tt.Tensor(QKV[0].swapaxes(1, 2).repeat(2, 2)), frequencies=(0.5, 0.1), kv_heads=2, scale=0.1
    ),
    "linear without a bias": lambda ops: ops.linear(tt.Tensor(X), tt.Tensor(W)),
    "bias_add without a bias": lambda ops: ops.bias_add(tt.Tensor(X), X[::-1]),
    "add_layer_norm without biases": lambda ops: ops.add_layer_norm(tt.Tensor(X), X[::-1], None, W[0], eps=0.1)[1],
    "gelu_linear without a bias": lambda ops: ops.gelu_linear(tt.Tensor(X), tt.Tensor(W)),
    "cross_entropy of a batch": lambda ops: ops.cross_entropy(
        tt.Tensor(X[:6].reshape(2, 3, 12)), [[0, 1, 2], [3, 4, 5]]
    ),
    "cross_entropy, another index ignored": lambda ops: ops.cross_entropy(tt.Tensor(X), TARGETS % 12, ignore_index=3),
}


@pytest.mark.parametrize("form", OTHER_FORMS.values(), ids=OTHER_FORMS)
def test_other_forms_agree_too(form):
    np.testing.assert_allclose(form(tt).data, form(composed).data, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("fused", "plain", "arrays"), PAIRS, ids=[pair[0].__name__ for pair in PAIRS])
def test_fused_is_as_accurate_in_float32_as_composed(fused, plain, arrays):
    exact = values_and_gradients(plain, arrays)
    rounded = values_and_gradients(plain, arrays, np.float32)
    results = values_and_gradients(fused, arrays, np.float32)
    for y, p, e in zip(results, rounded, exact, strict=True):
        floor = 4 * np.finfo(np.float32).eps * (1 + np.abs(e).max())  # a few roundings of the largest value
        assert np.abs(y - e).max() <= 2 * np.abs(p - e).max() + floor


HUGE = np.array([[1e4, -1e4, 0.0], [1e4, 1e4, 1e4], [-1e4, -1e4, -2e4]], np.float32)


def test_softmax_of_huge_logits():
    y = tt.softmax(tt.Tensor(HUGE, requires_grad=True))
    np.testing.assert_allclose(y.data, [[1, 0, 0], [1 / 3] * 3, [0.5, 0.5, 0]], rtol=1e-6)
    y.backward(np.ones((3, 3)))


def test_log_softmax_of_huge_logits_is_exact():
    y = tt.log_softmax(tt.Tensor(HUGE))
    np.testing.assert_allclose(y.data[0], [0, -2e4, -1e4], rtol=1e-6)
    np.testing.assert_allclose(y.data[1], -np.log(3), rtol=1e-6)


@pytest.mark.parametrize("loss", [tt.cross_entropy, lambda x, t: tt.linear_cross_entropy(x, tt.eye(3), t)])
def test_cross_entropy_of_huge_logits(loss):
    x = tt.Tensor(HUGE, requires_grad=True)
    y = loss(x, np.array([1, 0, 2]))
    y.backward()
    assert y.item() == pytest.approx((2e4 + np.log(3) + 1e4 + np.log(2)) / 3, rel=1e-6)
    expected = np.array([[1, -1, 0], [-2 / 3, 1 / 3, 1 / 3], [0.5, 0.5, -1]]) / 3
    np.testing.assert_allclose(x.grad, expected, atol=1e-3)  # float32 rounds a log-sum-exp of 1e4 by 5e-4


def test_masked_logits_have_probability_and_gradient_zero():
    x = tt.Tensor(np.array([[0.0, -np.inf, 1.0, -np.inf]]), requires_grad=True)
    for fn in (tt.softmax, lambda x: tt.log_softmax(x)[:, ::2], tt.logsumexp):
        x.grad = None
        y = fn(x)
        y.backward(np.full(y.shape, 2.0))
        assert np.isfinite(x.grad).all()
        np.testing.assert_array_equal(x.grad[:, 1::2], 0)
    np.testing.assert_array_equal(tt.softmax(x).data[:, 1::2], 0)
    loss = tt.cross_entropy(x, np.array([2]))
    assert loss.item() == pytest.approx(np.log(1 + np.exp(-1)))


def test_layer_norm_of_constant_rows_is_the_bias():
    x = tt.Tensor(np.full((2, 8), 123.456, np.float32), requires_grad=True)
    y = tt.layer_norm(x, tt.ones(8), tt.full(8, 0.5))
    np.testing.assert_allclose(y.data, 0.5, atol=1e-2)  # float32 rounds the mean by 1e-5, which rstd = 316 magnifies
    y.backward(RNG.standard_normal((2, 8)))
    assert np.isfinite(x.grad).all()


def test_layer_norm_far_from_zero_keeps_its_digits():
    x = RNG.standard_normal((4, 256)) + 1000
    exact = composed.layer_norm(tt.Tensor(x.astype(np.float32).astype(np.float64)), 1.0, 0.0).data
    y = tt.layer_norm(tt.Tensor(x.astype(np.float32)), tt.ones(256))
    np.testing.assert_allclose(y.data, exact, atol=2e-4)  # inputs are rounded to 6e-5


def test_attention_of_huge_scores_picks_the_largest():
    q = tt.Tensor(np.full((1, 1, 3, 2), 1e2, np.float32), requires_grad=True)
    k = tt.Tensor(np.array([[[[1e2, 0], [-1e2, 0], [2e2, 0]]]], np.float32), requires_grad=True)
    v = tt.Tensor(np.array([[[[1.0, 2], [3, 4], [5, 6]]]], np.float32), requires_grad=True)
    y = tt.causal_attention(q, k, v)
    np.testing.assert_allclose(y.data[0, 0], [[1, 2], [1, 2], [5, 6]])
    y.backward(np.ones(y.shape))
    assert all(np.isfinite(x.grad).all() for x in (q, k, v))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("loss", [tt.cross_entropy, lambda x, t: tt.linear_cross_entropy(x, tt.eye(3), t)])
def test_a_batch_without_targets_has_loss_nan_and_no_gradient(loss):
    x = tt.zeros(2, 3, requires_grad=True)
    y = loss(x, np.array([-100, -100]))
    assert np.isnan(y.item())


@pytest.mark.parametrize("loss", [tt.cross_entropy, lambda x, t: tt.linear_cross_entropy(x, tt.eye(3), t)])
@pytest.mark.parametrize("target", [3, -1])
def test_a_target_that_is_no_class_is_refused(loss, target):
    with pytest.raises(IndexError, match=r"must lie in 0\.\.2"):
        loss(tt.zeros(2, 3), np.array([0, target]))


@pytest.mark.parametrize("index", [5, -6])
def test_an_id_that_is_no_row_is_refused(index):
    with pytest.raises(IndexError, match=str(index)):
        tt.embedding(np.array([0, index]), tt.zeros(5, 2))


@pytest.mark.parametrize("p", [-0.1, 1.0, 1.5, float("nan")])
def test_a_dropout_probability_out_of_range_is_refused(p):
    with pytest.raises(ValueError, match=f"dropout probability {p}: must be at least 0 and less than 1"):
        tt.dropout(tt.zeros(2), p)


def test_dropout_keeps_the_mean_and_the_share():
    tt.manual_seed(0)
    y = tt.dropout(tt.ones(400, 500), 0.3).data
    assert set(np.unique(y)) == {np.float32(0), np.float32(1 / 0.7)}
    assert abs((y == 0).mean() - 0.3) < 5 * (0.3 * 0.7 / y.size) ** 0.5
    for axis in (0, 1):  # no row or column stands out
        share = (y == 0).mean(axis)
        assert np.abs(share - 0.3).max() < 6 * (0.3 * 0.7 / y.shape[axis]) ** 0.5


def test_dropout_masks_differ_from_call_to_call_and_repeat_under_a_key():
    x = tt.ones(100)
    with tt.seeded(1, "dropout"):
        a, b = tt.dropout(x, 0.5).data, tt.dropout(x, 0.5).data
    with tt.seeded(1, "dropout"):
        again = tt.dropout(x, 0.5).data
    assert (a != b).any()
    np.testing.assert_array_equal(a, again)

"""Results that are computed again for the VJP instead of kept: same gradients to the bit, and no wrong ones."""

import sys

import numpy as np
import pytest

import tinytensor as tt

ENGINE = sys.modules["tinytensor.tensor"]  # `tt.tensor` is the function


@pytest.fixture(autouse=True)
def forget_everything(monkeypatch):
    monkeypatch.setattr(ENGINE, "FORGET_BYTES", 0)


def loss(x, weight):
    h = tt.layer_norm(x, weight, weight)
    for _ in range(3):
        h = tt.gelu(tt.linear(h, x) + h)
        h = tt.layer_norm(h * h, weight)
    return (h * h.tanh()).sum()


def test_gradients_are_those_of_kept_results(monkeypatch):
    def gradients():
        rng = np.random.default_rng(0)
        x, weight = (tt.Tensor(rng.standard_normal(s), requires_grad=True) for s in ((4, 4), 4))
        loss(x, weight).backward()
        return x.grad, weight.grad

    again = gradients()
    monkeypatch.setattr(ENGINE, "FORGET_BYTES", 2**60)
    for a, b in zip(again, gradients(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_they_agree_with_finite_differences():
    rng = np.random.default_rng(1)
    tt.gradcheck(loss, rng.standard_normal((4, 4)), rng.standard_normal(4), rtol=1e-4)


def test_a_result_whose_graph_was_freed_says_so():
    x = tt.ones(3, requires_grad=True)
    h = tt.gelu(x)
    h.sum().backward()
    y = (h * 2).sum()
    with pytest.raises(RuntimeError, match="GELU was freed by an earlier backward"):
        y.backward()


def test_a_changed_input_of_what_must_be_computed_again_is_noticed():
    x = tt.ones(3, requires_grad=True)
    h = tt.gelu(x)
    y = (h * h).sum()
    x.data += 1
    with pytest.raises(RuntimeError, match=r"GELU.*changed in place"):
        y.backward()


def double_in_place(h):
    h.data *= 2


def exchange(h):
    h.data = h.data * 2


@pytest.mark.parametrize("change", [double_in_place, exchange])
def test_a_result_changed_before_its_use_is_kept_as_it_is(change):
    x = tt.ones(3, requires_grad=True)
    h = tt.gelu(x)
    change(h)  # on purpose, before anything has used it
    (h * h).sum().backward()
    slope = tt.ones(3, requires_grad=True)
    tt.gelu(slope).sum().backward()
    np.testing.assert_allclose(x.grad, 2 * h.data * slope.grad, rtol=1e-6)

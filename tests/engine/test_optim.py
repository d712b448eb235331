"""Optimizers against their formulas, clipping, the schedule, and state that resumes to the bit."""

import math

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

import tinytensor as tt
from tinytensor.nn import Parameter
from tinytensor.optim import SCHEDULES, SGD, AdamW, decay_groups, linear_schedule

RNG = np.random.default_rng(0)


def parameters(*shapes, dtype=np.float64):
    return [Parameter(np.random.default_rng(i).standard_normal(s).astype(dtype)) for i, s in enumerate(shapes)]


def run(optimizer, params, steps, first=0):
    """`steps` updates by gradients that depend on the step."""
    for step in range(first, first + steps):
        for i, p in enumerate(params):
            p.grad = np.random.default_rng((step, i)).standard_normal(p.shape).astype(p.dtype)
        optimizer.step(0.5)


def test_sgd_with_momentum_is_the_formula():
    (p,) = parameters((3, 4))
    x, v = p.data.copy(), np.zeros((3, 4))
    run(SGD([p], lr=0.1, momentum=0.9, weight_decay=0.01), [p], 20)
    for step in range(20):
        g = 0.5 * np.random.default_rng((step, 0)).standard_normal((3, 4))
        v = 0.9 * v + g + 0.01 * x
        x = x - 0.1 * v
    np.testing.assert_allclose(p.data, x, rtol=1e-12)


@pytest.mark.parametrize(("dtype", "rtol"), [(np.float64, 1e-11), (np.float32, 1e-4)])
def test_adamw_is_the_formula_for_20_steps(dtype, rtol):
    p, q = params = parameters((3, 4), (5,), dtype=dtype)
    references = [(t.data.astype(np.float64), decay) for t, decay in ((p, 0.1), (q, 0.0))]
    run(AdamW(decay_groups(params, 0.1), lr=1e-2, betas=(0.9, 0.95), eps=1e-8), params, 20)
    for i, (x, decay) in enumerate(references):
        m, v = np.zeros(x.shape), np.zeros(x.shape)
        for t in range(1, 21):
            g = 0.5 * np.random.default_rng((t - 1, i)).standard_normal(x.shape).astype(dtype)
            m = 0.9 * m + 0.1 * g
            v = 0.95 * v + 0.05 * g**2
            x = x - 1e-2 * (m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.95**t)) + 1e-8) + decay * x)
        np.testing.assert_allclose(params[i].data, x, rtol=rtol, atol=rtol)
        assert params[i].dtype == dtype


def test_decay_groups_split_matrices_from_vectors():
    params = parameters((2, 3), (3,), (4, 2, 2), ())
    matrices, vectors = decay_groups(params, 0.1)
    assert [p.ndim for p in matrices["params"]] == [2, 3]
    assert [p.ndim for p in vectors["params"]] == [1, 0]
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.1, 0.0)


@pytest.mark.parametrize("kind", [SGD, AdamW])
def test_parameters_without_gradients_and_of_any_shape(kind):
    p, q, r, empty = params = parameters((2, 3), (3,), (), (0, 2))
    before = q.data.copy()
    optimizer = kind(params, lr=0.1)
    p.grad, r.grad, empty.grad = np.ones((2, 3)), np.ones(()), np.ones((0, 2))
    value = r.data.copy()
    optimizer.step()
    np.testing.assert_array_equal(q.data, before)
    assert r.data < value
    optimizer.zero_grad()
    assert all(x.grad is None for x in params)


@pytest.mark.parametrize("kind", [lambda ps: SGD(ps, 0.1, momentum=0.9), lambda ps: AdamW(decay_groups(ps, 0.1), 1e-2)])
def test_state_round_trip_continues_to_the_bit(kind):
    shapes = (3, 4), (5,)
    straight = parameters(*shapes, dtype=np.float32)
    run(kind(straight), straight, 10)

    params = parameters(*shapes, dtype=np.float32)
    optimizer = kind(params)
    run(optimizer, params, 6)
    state = {name: np.array(array) for name, array in optimizer.state_dict().items()}
    resumed = kind(copies := [Parameter(p.data.copy()) for p in params])
    resumed.load_state_dict(state)
    assert resumed.steps == [6, 6]
    run(resumed, copies, 4, first=6)
    for p, q in zip(straight, copies, strict=True):
        np.testing.assert_array_equal(p.data, q.data)


@pytest.mark.parametrize("wrong", ["missing", "unexpected", "misshaped"])
def test_a_state_that_does_not_fit_is_refused(wrong):
    optimizer = AdamW(parameters((2, 3)))
    state = {name: np.array(array) for name, array in optimizer.state_dict().items()}
    if wrong == "missing":
        name, _ = "m.0", state.pop("m.0")
    else:
        name = "v.0" if wrong == "misshaped" else "v.1"
        state[name] = np.zeros((3, 2))
    with pytest.raises(ValueError, match=f"optimizer state does not fit.*{name}"):
        optimizer.load_state_dict(state)
    assert optimizer.steps == [0]


def test_clipping_limits_the_global_norm():
    params = parameters((2, 3), (4,))
    for p in params:
        p.grad = 10 * p.data
    norm = tt.grad_norm(params)
    assert norm == pytest.approx(math.sqrt(sum((p.grad**2).sum() for p in params)))
    for p in params:
        p.grad = p.grad * tt.clip_scale(norm, 1.0)
    assert tt.grad_norm(params) == pytest.approx(1.0, rel=1e-5)
    assert tt.clip_scale(np.float64(0.5), 1.0) == 1.0
    assert tt.clip_scale(np.float64(0.0), 1.0) == 1.0


def test_the_schedule_at_its_corners():
    lr = [tt.cosine_schedule(step, 100, 10, 1e-3, 1e-4) for step in range(103)]
    assert lr[0] == pytest.approx(1e-3 / 11)  # not 0: the first step counts
    assert lr[9] == pytest.approx(1e-3 * 10 / 11)
    assert lr[10] == 1e-3
    assert lr[55] == pytest.approx((1e-3 + 1e-4) / 2)
    assert lr[100] == lr[102] == 1e-4
    assert lr[:10] == sorted(lr[:10])
    assert lr[10:] == sorted(lr[10:], reverse=True)


def test_the_linear_schedule_is_a_line_after_the_warm_up():
    lr = [linear_schedule(step, 100, 10, 1e-3, 1e-4) for step in range(103)]
    assert lr[:11] == [tt.cosine_schedule(step, 100, 10, 1e-3, 1e-4) for step in range(11)]
    np.testing.assert_allclose(lr[10:101], np.linspace(1e-3, 1e-4, 91))
    assert lr[100:] == [1e-4] * 3


@pytest.mark.parametrize("schedule", SCHEDULES.values())
@hypothesis.given(st.integers(0, 50), st.integers(1, 30), st.integers(0, 40))
def test_the_schedule_stays_within_its_bounds(schedule, step, steps, warmup):
    assert 0 < schedule(step, steps, warmup, 1e-2, 1e-3) <= 1e-2 * (1 + 1e-12)
    assert schedule(step, steps, 0, 1e-2, 1e-3) >= 1e-3 * (1 - 1e-12)


def test_the_defaults_are_those_of_the_papers_as_in_pytorch():
    (group,) = AdamW(parameters((2,))).param_groups
    assert {name: value for name, value in group.items() if name != "params"} == {
        "lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01,
    }  # fmt: skip


@pytest.mark.parametrize("optimizer", [SGD, AdamW])
def test_a_graph_from_before_a_step_is_stale(optimizer):
    (p,) = parameters((3,))
    y = (p * p).sum()
    p.grad = np.ones(3)
    optimizer([p], lr=0.1).step()
    with pytest.raises(RuntimeError, match="was changed in place"):
        y.backward()


def test_the_rate_that_was_set_can_be_read():
    optimizer = SGD(parameters((2,)), lr=0.1)
    assert optimizer.lr == 0.1
    optimizer.lr = 0.2
    assert optimizer.lr == optimizer.param_groups[0]["lr"] == 0.2


def test_the_rate_can_be_changed_between_steps():
    (p,) = parameters((2,))
    optimizer = SGD([p], lr=0.0)
    before = p.data.copy()
    p.grad = np.ones(2)
    optimizer.step()
    np.testing.assert_array_equal(p.data, before)
    optimizer.lr = 1.0
    optimizer.step()
    np.testing.assert_allclose(p.data, before - 1)


def test_sgd_finds_a_minimum():
    x = Parameter(np.array([3.0, -2.0]))
    optimizer = SGD([x], lr=0.1, momentum=0.5)
    for _ in range(100):
        optimizer.zero_grad()
        ((x - np.array([1.0, 5.0])) ** 2).sum().backward()
        optimizer.step()
    np.testing.assert_allclose(x.data, [1, 5], atol=1e-6)


# Groups


def test_a_group_may_have_its_own_learning_rate():
    p, q = parameters((2,), (3,))
    before = p.data.copy(), q.data.copy()
    optimizer = SGD([{"params": [p], "lr": 0.5}, {"params": [q]}], lr=0.1)
    optimizer.lr = 0.2
    p.grad, q.grad = np.ones(2), np.ones(3)
    optimizer.step()
    np.testing.assert_allclose(p.data, before[0] - 0.5)
    np.testing.assert_allclose(q.data, before[1] - 0.2)
    for group in optimizer.param_groups:  # as PyTorch's schedulers do
        group["lr"] = 0.0
    optimizer.step()
    np.testing.assert_allclose(q.data, before[1] - 0.2)


@pytest.mark.parametrize("kind", [SGD, AdamW])
def test_a_misspelt_group_option_is_refused(kind):
    with pytest.raises(ValueError, match=r"no group option 'weight_deacy' \(did you mean weight_decay"):
        kind([{"params": parameters((2,)), "weight_deacy": 0.1}], lr=0.1)
    with pytest.raises(ValueError, match=r"no group option 'xyz'; it has .*lr.*weight_decay"):
        kind([{"params": parameters((2,)), "xyz": 0.1}], lr=0.1)


@pytest.mark.parametrize("lr", [-1.0, float("nan"), float("inf")])
def test_an_impossible_learning_rate_is_refused(lr):
    with pytest.raises(ValueError, match=f"learning rate {lr}: must be at least 0 and finite"):
        SGD(parameters((2,)), lr=lr)
    with pytest.raises(ValueError, match=f"learning rate {lr}"):
        SGD([{"params": parameters((2,)), "lr": lr}], lr=0.1)


def test_a_parameter_given_twice_is_refused():
    (p,) = parameters((2,))
    with pytest.raises(ValueError, match="given twice"):
        SGD([{"params": [p]}, {"params": [p]}], lr=0.1)


def test_adamws_bias_correction_counts_each_parameters_own_updates():
    """A parameter that gets its first gradient late starts like one of an optimizer of its own, as in PyTorch."""
    p, late, alone = parameters((2,), (3,), (3,))
    alone.data = late.data.copy()
    optimizer, reference = AdamW([p, late], lr=0.1), AdamW([alone], lr=0.1)
    for step in range(6):
        p.grad = np.ones(2)
        late.grad = alone.grad = None
        if step >= 3:
            late.grad, alone.grad = np.full(3, 0.5), np.full(3, 0.5)
            reference.step()
        optimizer.step()
    np.testing.assert_array_equal(late.data, alone.data)
    assert optimizer.steps == [6, 3]


def test_a_step_count_for_all_parameters_is_still_read():
    params = parameters((2,), (3,))
    optimizer = AdamW(params)
    optimizer.load_state_dict({**optimizer.state_dict(), "step": np.asarray(7)})
    assert optimizer.steps == [7, 7]


def test_weight_decay_defaults_are_pytorchs():
    assert AdamW(parameters((2,))).param_groups[0]["weight_decay"] == 0.01
    assert SGD(parameters((2,)), lr=0.1).param_groups[0]["weight_decay"] == 0.0


def test_clip_grad_norm_scales_in_place_and_returns_the_norm():
    params = parameters((2, 3), (4,))
    for p in params:
        p.grad = 10 * p.data
    params.append(Parameter(np.ones(2)))  # without a gradient
    before, grads = float(tt.grad_norm(params)), [p.grad for p in params]
    assert float(tt.clip_grad_norm_(params, 1.0)) == before
    assert tt.grad_norm(params) == pytest.approx(1.0, rel=1e-5)
    assert all(p.grad is grad for p, grad in zip(params, grads, strict=True))
    tt.clip_grad_norm_(params, 100.0)
    assert tt.grad_norm(params) == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ([], "params holds nothing: must be Parameters"),
        ([np.zeros(3)], "params holds ndarray: must be Parameters"),
        (tt.nn.ReLU(), "params is a ReLU: pass its parameters"),
        (Parameter(np.ones((2, 2))), "params is a Parameter: pass a list of Parameters"),
        ([Parameter(np.ones(2)) * 2], "params holds Tensor: must be Parameters, or other leaves"),
        (tt.nn.Linear(2, 2).named_parameters(), "params holds tuple: must be Parameters"),
    ],
)
def test_what_is_no_parameter_is_refused(params, words):
    with pytest.raises(TypeError, match=f"AdamW: {words}"):
        AdamW(params)


def test_a_group_may_hold_one_parameter():
    (p,) = parameters((2,))
    assert SGD([{"params": p}], lr=0.1).parameters()[0] is p
    with pytest.raises(ValueError, match='AdamW: a group without "params"'):
        AdamW([{"lr": 1.0}])
    with pytest.raises(ValueError, match="learning rate 1e-3: must be at least 0"):
        AdamW([p], lr="1e-3")


@pytest.mark.parametrize("chained", [False, True])
def test_zero_grad_takes_pytorchs_argument(chained):
    p, q = (tt.nn.Parameter(np.ones(2, np.float32)) for _ in range(2))
    optimizer = tt.optim.Chained(sgd=tt.optim.SGD([p, q], lr=1.0)) if chained else tt.optim.SGD([p, q], lr=1.0)
    (p * 2).sum().backward()
    optimizer.zero_grad(set_to_none=False)
    np.testing.assert_array_equal(p.grad, [0, 0])
    assert q.grad is None
    optimizer.zero_grad(set_to_none=True)
    assert p.grad is None

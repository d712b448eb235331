"""Muon against its formula and the exact polar factor, on every device; and optimizers chained together."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

import tinytensor as tt
from kernels.newton_schulz import POLYNOMIALS, newton_schulz, normalized, split_blocks, update_scale
from tinytensor.backend import device_of
from tinytensor.nn import Parameter
from tinytensor.optim import AdamW, Chained, Muon, decay_groups

SIDES = st.sampled_from([1, 2, 3, 8, 17, 40])


def polar(x):
    """The exact polar factor of one matrix, without the directions that it maps to 0."""
    u, s, vt = np.linalg.svd(x.astype(np.float64), full_matrices=False)
    kept = s > 1e-6 * s[:1]
    return u[:, kept] @ vt[kept]


def iterated(x):
    """What `newton_schulz` computes of one matrix, by its singular values in float64."""
    u, s, vt = np.linalg.svd(x.astype(np.float64), full_matrices=False)
    s = s / max((s**4).sum() ** 0.25, 1e-300)
    for coefficients in POLYNOMIALS:
        s = sum(c * s ** (2 * i + 1) for i, c in enumerate(coefficients))
    return (u * s) @ vt


def matrix(rows, columns, rank, seed, scale=1.0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, rank)) @ rng.standard_normal((rank, columns))
    return (x / np.abs(x).max() * scale).astype(dtype)


@hypothesis.given(SIDES, SIDES, st.integers(1, 40), st.integers(0, 2**32 - 1), st.sampled_from([1e-30, 1.0, 1e30]))
def test_newton_schulz_is_its_polynomial_of_the_singular_values(rows, columns, rank, seed, scale):
    x = matrix(rows, columns, min(rank, rows, columns), seed, scale)
    expected = iterated(x.astype(np.float64) / scale)
    result = newton_schulz(normalized(x))
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected, atol=3e-3)
    np.testing.assert_allclose(newton_schulz(normalized(x.astype(np.float64))), expected, atol=1e-9)


@hypothesis.given(SIDES, SIDES, st.integers(0, 2**32 - 1))
def test_it_is_close_to_the_polar_factor_of_a_well_conditioned_matrix(rows, columns, seed):
    rng = np.random.default_rng(seed)
    x = polar(rng.standard_normal((rows, columns)))
    u, s, vt = np.linalg.svd(x, full_matrices=False)
    x = (u * rng.uniform(0.2, 1, len(s))) @ vt
    assert np.linalg.norm(newton_schulz(x) - polar(x), 2) < 0.25


def test_a_zero_matrix_stays_zero_among_others(device):
    x = np.stack([np.zeros((4, 6)), matrix(4, 6, 4, 0)]).astype(np.float32)
    y = tt.to_numpy(newton_schulz(normalized(device.put(x))))
    np.testing.assert_array_equal(y[0], 0)
    np.testing.assert_allclose(y[1], iterated(x[1]), atol=3e-3)


def test_blocks_are_a_view_in_the_order_of_the_grid():
    x = np.arange(24).reshape(4, 6)
    blocks = split_blocks(x, (2, 3))
    assert np.shares_memory(x, blocks)
    np.testing.assert_array_equal(blocks[1, 2], x[2:, 4:])


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (6, 6)])
@pytest.mark.parametrize("blocks", [(1, 1), (1, 2), (2, 1), (2, 2)])
def test_updates_in_blocks_have_at_most_the_norm_of_whole_ones(shape, blocks):
    """Which gives the entries of whole matrices a root mean square of 1 / sqrt(in)."""
    whole = update_scale(shape, (1, 1)) * polar(x := np.random.default_rng(0).standard_normal(shape))
    assert np.sqrt((whole**2).mean()) == pytest.approx(shape[0] ** -0.5)
    y = x.copy()
    for row in split_blocks(y, blocks):
        for block in row:
            block[...] = polar(block)
    norms = [np.linalg.norm(z, 2) for z in (update_scale(shape, blocks) * y, whole)]
    assert norms[0] <= norms[1] * (1 + 1e-12)


def parameters(device, *shapes, dtype=np.float32):
    arrays = [np.random.default_rng(i).standard_normal(shape).astype(dtype) for i, shape in enumerate(shapes)]
    return [Parameter(device.put(array)) for array in arrays]


def run(optimizer, params, steps, first=0):
    """`steps` updates by gradients that depend on the step."""
    for step in range(first, first + steps):
        for i, p in enumerate(params):
            grad = np.random.default_rng((step, i)).standard_normal(p.shape).astype(p.dtype)
            p.grad = device_of(p.data).put(grad)
        optimizer.step(0.5)


SHAPES = (4, 6), (4, 6), (6, 4), (6, 6)
GROUPS = [0, 1, 3], [2]


def muon(params):
    groups = [{"params": [params[i] for i in group]} for group in GROUPS]
    groups[0] |= {"blocks": (1, 3)}
    return Muon(groups, lr=0.1, momentum=0.9, weight_decay=0.01)


def test_muon_is_the_formula(device):
    params = parameters(device, *SHAPES)
    references = [tt.to_numpy(p.data).astype(np.float64) for p in params]
    run(muon(params), params, 5)
    for i, x in enumerate(references):
        m = np.zeros_like(x)
        for step in range(5):
            g = 0.5 * np.random.default_rng((step, i)).standard_normal(x.shape).astype(np.float32)
            m = 0.9 * m + g
            count = 3 if i in GROUPS[0] else 1
            y = np.concatenate([iterated(part) for part in np.split(0.9 * m + g, count, axis=1)], axis=1)
            x = x - 0.1 * (update_scale(x.shape, (1, count)) * y + 0.01 * x)
        np.testing.assert_allclose(tt.to_numpy(params[i].data), x, atol=1e-3)  # each update has 0.1 y


def test_the_same_bits_on_repeat_and_after_loading_the_state(device):
    straight = parameters(device, *SHAPES)
    run(muon(straight), straight, 6)
    params = parameters(device, *SHAPES)
    run(optimizer := muon(params), params, 4)
    state = {name: tt.to_numpy(array).copy() for name, array in optimizer.state_dict().items()}
    resumed = muon(copies := [Parameter(device.put(tt.to_numpy(p.data).copy())) for p in params])
    resumed.load_state_dict(state)
    run(resumed, copies, 2, first=4)
    for p, q in zip(straight, copies, strict=True):
        np.testing.assert_array_equal(tt.to_numpy(p.data), tt.to_numpy(q.data))


def test_parameters_without_gradients_and_empty_ones_stay(device):
    params = parameters(device, (3, 4), (3, 4), (0, 4))
    before = [tt.to_numpy(p.data).copy() for p in params]
    optimizer = Muon(params, lr=0.1)
    optimizer.step()
    params[1].grad, params[2].grad = params[1].data, params[2].data
    optimizer.step()
    assert [tt.to_numpy(p.data == device.put(b)).all() for p, b in zip(params, before, strict=True)] == [1, 0, 1]
    assert optimizer.steps == [0, 1, 1]


def test_what_is_no_matrix_or_does_not_fit_the_blocks_is_refused():
    (vector,), (matrix,) = parameters(tt.device("cpu"), (3,)), parameters(tt.device("cpu"), (4, 6))
    with pytest.raises(ValueError, match=r"Muon: a parameter has shape \(3,\): must be a matrix; leave it to AdamW"):
        Muon([vector])
    with pytest.raises(ValueError, match=r"has shape \(4, 6\): must be a multiple of blocks \(1, 4\)"):
        Muon([matrix], blocks=(1, 4))


# Several optimizers as one


def chained(params):
    return Chained(adamw=AdamW(decay_groups(params[2:], 0.1), lr=0.01), muon=Muon(params[:2], lr=0.2))


def test_chained_optimizers_do_what_each_does_alone(device):
    shapes = (4, 6), (6, 4), (5, 3), (7,)
    together, apart = parameters(device, *shapes), parameters(device, *shapes)
    run(chained(together), together, 3)
    for optimizer in chained(apart).optimizers.values():
        run(optimizer, apart, 3)
    for p, q, start in zip(together, apart, parameters(device, *shapes), strict=True):
        np.testing.assert_array_equal(tt.to_numpy(p.data), tt.to_numpy(q.data))
        assert (tt.to_numpy(p.data) != tt.to_numpy(start.data)).any()


def test_one_learning_rate_drives_all_in_proportion():
    optimizer = chained(params := parameters(tt.device("cpu"), (4, 6), (6, 4), (5, 3), (7,)))
    assert optimizer.lr == 0.01
    optimizer.lr = 0.001
    assert [o.lr for o in optimizer.optimizers.values()] == [0.001, pytest.approx(0.02)]
    optimizer.lr = 0.0
    optimizer.lr = 0.01
    assert optimizer.optimizers["muon"].param_groups[0]["lr"] == pytest.approx(0.2)
    assert {id(p) for p in optimizer.parameters()} == {id(p) for p in params}
    run(optimizer, params, 1)
    optimizer.zero_grad()
    assert all(p.grad is None for p in params)


def test_the_state_of_chained_optimizers_is_loaded_into_each():
    shapes = (4, 6), (6, 4), (5, 3), (7,)
    params = parameters(tt.device("cpu"), *shapes)
    run(optimizer := chained(params), params, 3)
    state = {name: np.array(array) for name, array in optimizer.state_dict().items()}
    assert {"adamw.m.0", "adamw.step", "muon.momentum.1", "muon.step"} <= state.keys()
    again = chained(parameters(tt.device("cpu"), *shapes))
    again.load_state_dict(state)
    for name, array in again.state_dict().items():
        np.testing.assert_array_equal(array, state[name])
    with pytest.raises(ValueError, match=r"does not fit: unexpected m\.0, sgd\.v\.0"):
        again.load_state_dict(state | {"m.0": np.zeros(3), "sgd.v.0": np.zeros(3)})
    state.pop("muon.momentum.1")
    with pytest.raises(ValueError, match=r"does not fit: missing, unexpected or misshaped momentum\.1"):
        again.load_state_dict(state)


def test_chained_optimizers_share_no_parameter_and_have_a_rate_to_scale():
    (p,) = parameters(tt.device("cpu"), (3, 3))
    with pytest.raises(ValueError, match="a parameter belongs to two optimizers"):
        Chained(adamw=AdamW([p]), muon=Muon([p]))
    with pytest.raises(ValueError, match="the first learning rate is 0: must be above 0"):
        Chained(adamw=AdamW([p], lr=0.0), muon=Muon([p]))

"""Options of the primitives: refused where they make no sense, and the same dropout mask however a batch is split."""

import numpy as np
import pytest

import tinytensor as tt
from kernels.cpu import compiled
from kernels.options import AdamWOptions, DropoutOptions, MuonOptions

SEED = 0x0123_4567_89AB_CDEF
FIRST_ROWS = (0, 5, 2**32 - 3, 2**32 + 7)  # row numbers are taken modulo 2^32


@pytest.fixture(params=["numpy", "loops"])
def passes(request, monkeypatch):
    """The CPU's NumPy passes, and its compiled loops where there are any."""
    if request.param == "numpy":
        monkeypatch.setattr(compiled, "_loops", lambda: None)
    elif compiled._loops() is None:
        pytest.skip("needs numba")


def normal(*shape):
    return np.random.default_rng(len(shape)).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("first_row", FIRST_ROWS)
@pytest.mark.usefixtures("passes")
def test_a_part_of_a_batch_has_the_dropout_of_its_rows_in_the_whole(device, first_row):
    k, x = tt.kernels_for(device.put(normal(1))), normal(6, 5, 37)
    whole = tt.to_numpy(k.dropout(device.put(x), DropoutOptions(0.5, SEED, first_row)))
    for start in (0, 1, 4):
        part = k.dropout(device.put(x[start:]), DropoutOptions(0.5, SEED, first_row + 5 * start))
        np.testing.assert_array_equal(tt.to_numpy(part), whole[start:])
    other = tt.to_numpy(k.dropout(device.put(x), DropoutOptions(0.5, SEED, first_row + 1)))
    assert ((other == 0) != (whole == 0)).mean() > 0.4


@pytest.mark.parametrize("first_row", FIRST_ROWS)
@pytest.mark.usefixtures("passes")
def test_a_part_of_a_batch_has_the_attention_of_its_rows_in_the_whole(device, first_row):
    batch, time, heads, size = 4, 9, 2, 8
    k = tt.kernels_for(device.put(normal(1)))
    qkv, g = normal(batch, time, 3, heads, size), normal(batch, time, heads, size)

    def both_ways(start, first_row):
        options = DropoutOptions(0.5, SEED, first_row)
        own_qkv, own_g = device.put(qkv[start:]), device.put(g[start:])
        y, lse = k.attention_forward(own_qkv, 0.3, options)
        return [tt.to_numpy(a) for a in (y, k.attention_backward(own_g, own_qkv, y, lse, 0.3, options))]

    whole, other = both_ways(0, first_row), both_ways(0, first_row + 1)
    assert not np.allclose(whole[0], other[0], atol=0.1)
    for start in (1, 3):
        for part, all_rows in zip(both_ways(start, first_row + start * heads * time), whole, strict=True):
            np.testing.assert_allclose(part, all_rows[start:], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("p", [-0.1, 1.0, 1.5, float("nan")])
def test_a_probability_out_of_range_is_refused(p):
    with pytest.raises(ValueError, match=f"p is {p}: must be at least 0 and less than 1"):
        DropoutOptions(p)


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_of_more_than_64_bits_is_refused(seed):
    with pytest.raises(ValueError, match=f"seed is {seed}: must be an unsigned integer of 64 bits"):
        DropoutOptions(0.5, seed)


@pytest.mark.parametrize(("name", "value"), [("step", 0), ("beta1", 1.0), ("beta2", -0.1), ("beta2", 1.5)])
def test_adamw_options_out_of_range_are_refused(name, value):
    numbers = {"lr": 0.1, "beta1": 0.9, "beta2": 0.99, "eps": 1e-8, "weight_decay": 0.0, "step": 1}
    with pytest.raises(ValueError, match=f"{name} is {value}: must be at least"):
        AdamWOptions(**numbers | {name: value})


@pytest.mark.parametrize("beta", [-0.1, 1.0])
def test_a_momentum_out_of_range_is_refused(beta):
    with pytest.raises(ValueError, match=f"beta is {beta}: must be at least 0 and less than 1"):
        MuonOptions(0.1, beta, 0.0)

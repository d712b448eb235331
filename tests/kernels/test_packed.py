"""Packed weights: bfloat16 bit by bit, int8 within half a step, and products with both."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels.cpu import compiled, threads
from kernels.cpu.packed import Packed, from_bfloat16, pack, packed_linear, to_bfloat16, to_int8, unpack

KINDS = ["float32", "bfloat16", "int8"]
FLOATS = st.integers(0, 2**32 - 1).map(lambda bits: np.uint32(bits).view(np.float32))


def normal(*shape):
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


@given(st.lists(FLOATS, min_size=1, max_size=50))
def test_bfloat16_is_the_nearest_and_of_two_the_even_one(values):
    x = np.array(values, np.float32)
    bits = to_bfloat16(x)
    assert bits.dtype == np.uint16
    np.testing.assert_array_equal(np.isnan(from_bfloat16(bits)), np.isnan(x))
    for value, got in zip(x, bits, strict=True):
        if np.isnan(value):
            continue
        # the two bfloat16 around |x|: infinity stands for 2^128, the next value of its last exponent
        below = int(abs(value).view(np.uint32)) >> 16
        distances = [abs(exact(bits) - exact_of(abs(value))) for bits in (below, below + 1)]
        nearest = below + (distances[1] < distances[0] or (distances[1] == distances[0] and below % 2 == 1))
        assert int(got) == nearest | (0x8000 if np.signbit(value) else 0)


def exact(bits: int) -> float:
    """The value of a positive bfloat16, with 2^128 for infinity."""
    return 2.0**128 if bits >= 0x7F80 else float(from_bfloat16(np.array([bits], np.uint16))[0])


def exact_of(value: np.float32) -> float:
    return 2.0**128 if np.isinf(value) else float(value)


def test_every_bfloat16_is_kept():
    bits = np.arange(2**16, dtype=np.uint16)
    numbers = ~np.isnan(from_bfloat16(bits))
    np.testing.assert_array_equal(to_bfloat16(from_bfloat16(bits))[numbers], bits[numbers])


def test_int8_is_within_half_a_step_of_its_row():
    weight = normal(20, 50) * np.logspace(-30, 30, 20, dtype=np.float32)[:, None]
    weight[3], weight[4] = 0, 1e-42
    values, scale = to_int8(weight)
    assert (values.dtype, scale.dtype) == (np.int8, np.float32)
    np.testing.assert_allclose(scale[5:], abs(weight).max(axis=1)[5:] / 127, rtol=1e-6)
    error = abs(values * scale[:, None].astype(np.float64) - weight)
    assert (error <= 0.501 * np.maximum(scale, 1e-37)[:, None]).all()
    assert not values[3].any()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_makes_its_output_nan_and_no_other(value):
    weight = normal(3, 4)
    weight[1, 2] = value
    y = packed_linear(normal(1, 4), pack(weight, "int8"), None)
    assert np.isnan(y).tolist() == [[False, True, False]]


@pytest.mark.parametrize("loops", [True, False])
@pytest.mark.parametrize("rows", [1, 3, 4, 7, 16, 17, 40])
@pytest.mark.parametrize("inputs", [33, 48])  # whole vectors of the processor, or not
@pytest.mark.parametrize("kind", KINDS)
def test_a_product_is_that_of_the_unpacked_weights(monkeypatch, kind, rows, inputs, loops):
    if not loops:
        monkeypatch.setattr(compiled, "_loops", lambda: None)
    monkeypatch.setattr("kernels.cpu.packed.PARALLEL_BYTES", 1000)
    monkeypatch.setattr("kernels.cpu.packed.UNPACKED_BYTES", 5000)
    x, weight, bias = normal(rows, 2, inputs)[:, 0], normal(inputs, 70).T, normal(70)
    packed = pack(weight, kind)
    expected = x.astype(np.float64) @ unpack(packed).T.astype(np.float64) + bias
    before = threads.get_num_threads()
    threads.set_num_threads(2)
    try:
        y = packed_linear(x, packed, bias)
    finally:
        threads.set_num_threads(before)
    np.testing.assert_allclose(y, expected, atol=2e-5)
    np.testing.assert_allclose(unpack(packed), weight, atol={"float32": 0, "bfloat16": 0.02, "int8": 0.02}[kind])


def test_other_kinds_and_arrays_that_do_not_fit_are_refused():
    x, weight = normal(2, 5), normal(3, 5)
    with pytest.raises(ValueError, match="pack: kind is 'int4': must be one of float32, bfloat16, int8"):
        pack(weight, "int4")
    faults = [
        (x, Packed(normal(3, 4)), None, r"weight has shape \(3, 4\): x of shape \(2, 5\) needs \(outputs, 5\)"),
        (x, Packed(weight.astype(np.int32)), None, "weight has dtype int32: must be float32, uint16"),
        (x, Packed(weight.astype(np.int8)), None, "scale must be given for int8 values"),
        (x, Packed(weight, normal(3)), None, "scale must be given for int8 values"),
        (x, Packed(weight.astype(np.int8), normal(2)), None, r"scale has shape \(2,\)"),
        (x, Packed(weight), normal(4), r"bias has shape \(4,\)"),
        (x.astype(np.int64), Packed(weight), None, "x has dtype int64"),
    ]
    for *arguments, message in faults:
        with pytest.raises((ValueError, TypeError), match=f"packed_linear: {message}"):
            packed_linear(*arguments)

"""Kernels that do several things in one pass, or one thing to many tensors: against their formulas, and bit for bit
against the passes that they replace."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import kernels.cuda as k
import tinytensor as tt
from kernels.cuda import cross_entropy, layer_norm, norm
from kernels.cuda import tensors as tensors_of_kernels
from kernels.emulator import OutOfBounds, UninitializedRead, checked
from kernels.options import AdamWOptions
from tests.kernels import test_cuda_kernels
from tests.kernels.test_cuda_kernels import adamw, assert_accurate, check, gelu, gelu_backward, in_double, normal
from tests.kernels.test_cuda_kernels import layer_norm as layer_norm_formula

xp = test_cuda_kernels.xp  # the device under test

SIXTEEN_BITS = np.float16


def host(xp, *arrays):
    return [xp.asnumpy(a) for a in arrays]


def same_bits(xp, results, others):
    for one, other in zip(host(xp, *results), host(xp, *others), strict=True):
        np.testing.assert_array_equal(one, other)


# ---- many tensors -------------------------------------------------------------------------------------------------

SIZES = (1, 4096, 4097, 3, 20_000, 0, 16_385)


def tensors(xp, seed, sizes=SIZES):
    rng = np.random.default_rng(seed)
    return [xp.asarray(normal(rng, size)) for size in sizes]


def test_adamw_of_many_parameters_is_that_of_each(xp):
    params, grads, ms, vs = (tensors(xp, seed) for seed in range(4))
    vs = [v * v for v in vs]
    before = [host(xp, *arrays) for arrays in zip(params, grads, ms, vs, strict=True)]
    k.adamw_update(params, grads, ms, vs, AdamWOptions(0.1, 0.9, 0.99, 1e-8, 0.1, 3, xp.asarray(np.float32(0.5))))
    for arrays, *results in zip(before, params, ms, vs, strict=True):
        settings = (0.1, 0.9, 0.99, 1e-8, 0.1, 3, 0.5)
        if arrays[0].size:
            reference, plain = adamw(*map(in_double, arrays), *settings), adamw(*arrays, *settings)
            for got, want, usual in zip(host(xp, *results), reference, plain, strict=True):
                assert_accurate(got, want, usual)


@pytest.mark.parametrize("chunk", [16_384, 1 << 20])
def test_the_norm_of_many_gradients(xp, chunk):
    gradients = [g.reshape(2, -1) if g.size == 20_000 else g for g in tensors(xp, 5)]
    squares, norm = host(xp, *k.gradient_norm(gradients, chunk))
    parts = [g.reshape(-1)[i : i + chunk] for g in host(xp, *gradients) for i in range(0, g.size, chunk)]
    np.testing.assert_allclose(squares, [(part.astype(np.float64) ** 2).sum() for part in parts], rtol=1e-6)
    in_order = np.float32(0)
    for square in squares:
        in_order += square
    assert norm == np.sqrt(in_order)


def test_the_norm_of_a_part_has_the_chunks_of_the_whole(xp):
    gradients = tensors(xp, 6)
    squares = host(xp, k.gradient_norm(gradients, 16_384)[0])[0]
    (part,) = host(xp, k.gradient_norm([gradients[4][16_384:], gradients[-1]], 16_384)[0])
    np.testing.assert_array_equal(part, squares[-3:])


def test_an_overflow_shows_in_the_norm(xp):
    gradients = tensors(xp, 7)
    gradients[3][1] = np.float32(np.inf)
    assert np.isinf(host(xp, k.gradient_norm(gradients, 1 << 20)[1])[0])
    assert host(xp, k.gradient_norm([gradients[5]], 1 << 20)[1])[0] == 0  # which is empty


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_copies_are_rounded_to_nearest_even(xp, dtype):
    dtype = np.dtype(getattr(pytest.importorskip("ml_dtypes"), dtype) if dtype == "bfloat16" else dtype)
    params = tensors(xp, 8)
    copies = [xp.empty(p.shape, dtype=dtype) for p in params]
    k.round_tensors(params, copies)
    for param, copy in zip(host(xp, *params), host(xp, *copies), strict=True):
        np.testing.assert_array_equal(copy, param.astype(dtype))


def test_what_a_table_leads_to_is_watched():
    emulated = tt.device("emulated").xp
    with checked() as launches:
        g = emulated.empty(100, dtype=np.float32)
        with pytest.raises(UninitializedRead, match=r"kernel norm_parts.*reads tensors\[0\]"):
            k.gradient_norm([g], 16_384)
        g[...] = 1
        _, norm = k.gradient_norm([g], 16_384)
    assert norm.item() == 10
    assert launches[0].unique_bytes_read > g.nbytes


def test_beyond_a_tensor_of_a_table_nothing_may_be_read(monkeypatch):
    emulated = tt.device("emulated").xp
    g = emulated.ones(100, dtype=np.float32)

    def too_long(lists, block_values):
        table = tensors_of_kernels.make_table(lists, block_values)
        table.sizes[...] = 101
        return table

    monkeypatch.setattr(norm, "make_table", too_long)
    with checked(), pytest.raises(OutOfBounds, match=r"kernel norm_parts"):
        k.gradient_norm([g], 16_384)


# ---- several things in one pass -------------------------------------------------------------------------------------


@given(st.integers(1, 150), st.sampled_from([1, 5, 128, 256, 257, 700, 1024, 1025]), st.integers(0, 2**32))
def test_layer_norm_of_a_sum(xp, rows, columns, seed):
    rng = np.random.default_rng(seed)
    x, added, g, other = (xp.asarray(normal(rng, rows, columns)) for _ in range(4))
    weight, bias, added_bias = (xp.asarray(normal(rng, columns)) for _ in range(3))
    total, y, saved = k.add_layer_norm_forward(x, added, added_bias, weight, bias, 1e-5)
    apart = x + (added + added_bias)
    y_apart, saved_apart = k.layer_norm_forward(apart, weight, bias, 1e-5)
    same_bits(xp, [total, y, *saved], [apart, y_apart, *saved_apart])
    gx, *vectors = k.layer_norm_backward(g, weight, saved, other)
    gx_apart, *vectors_apart = k.layer_norm_backward(g, weight, saved_apart)
    same_bits(xp, vectors, vectors_apart)
    # a GPU contracts the last product and the sum to one operation, which rounds once
    within = 2e-6 if xp.__name__ == "cupy" else 0
    np.testing.assert_allclose(*host(xp, gx, other + gx_apart), rtol=0, atol=within)
    assert host(xp, saved[-1])[0] == 0


@given(st.integers(1, 700), st.sampled_from([1, 31, 256, 300, 1024]), st.integers(0, 2**32))
def test_backward_of_layer_norm_in_one_launch_has_the_bits_of_three(xp, rows, columns, seed):
    rng = np.random.default_rng(seed)
    x, g = (xp.asarray(normal(rng, rows, columns)) for _ in range(2))
    weight = xp.asarray(normal(rng, columns))
    _, saved = k.layer_norm_forward(x, weight, None, 1e-5)
    in_one = k.layer_norm_backward(g, weight, saved)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layer_norm, "IN_REGISTERS", 0)
        same_bits(xp, in_one, k.layer_norm_backward(g, weight, saved))


def test_layer_norm_of_a_sum_is_the_formula(xp):
    rng = np.random.default_rng(0)
    arrays = [normal(rng, 9, 40), normal(rng, 9, 40), *(normal(rng, 40) for _ in range(3))]

    def by_kernel(*arrays):
        return k.add_layer_norm_forward(*arrays, 1e-5)[:2]

    def formula(x, added, added_bias, weight, bias):
        total = x + added + added_bias
        return total, layer_norm_formula(total, weight, bias, 1e-5)[0]

    check(xp, by_kernel, formula, arrays)


@given(st.integers(1, 60), st.sampled_from([1, 8, 255, 257, 600]), st.integers(0, 2**32))
def test_gelu_linear(xp, rows, columns, seed):
    rng = np.random.default_rng(seed)
    x, x_bias, weight, bias = normal(rng, rows, columns), normal(rng, columns), normal(rng, columns, 3), normal(rng, 3)
    check(
        xp, lambda *a: k.gelu_linear_forward(*a)[0], lambda x, c, w, b: gelu(x + c) @ w + b, [x, x_bias, weight, bias]
    )

    def by_kernels(g, x, x_bias, weight):
        saved = k.gelu_linear_forward(x, x_bias, weight, None)[1]
        return k.gelu_linear_backward(g, x, x_bias, weight, saved, True)

    def formula(g, x, x_bias, weight):
        gx = gelu_backward(g @ weight.T, x + x_bias)
        return gx, gx.sum(0), gelu(x + x_bias).T @ g, g.sum(0)

    check(xp, by_kernels, formula, [normal(rng, rows, 3), x, x_bias, weight], size=float(rows + columns))


def test_a_bias_before_gelu_has_the_bits_of_one_added_first(xp):
    rng = np.random.default_rng(1)
    x, x_bias, weight, g = (xp.asarray(normal(rng, *s)) for s in ((70, 300), (300,), (300, 5), (70, 5)))
    y, saved = k.gelu_linear_forward(x, x_bias, weight, None)
    y_apart, none = k.gelu_linear_forward(x + x_bias, None, weight, None)
    assert none is None
    gx, gx_bias, *rest = k.gelu_linear_backward(g, x, x_bias, weight, saved, False)
    gx_apart, _, *rest_apart = k.gelu_linear_backward(g, x + x_bias, None, weight, None, False)
    same_bits(xp, [y, gx, gx_bias, rest[0]], [y_apart, gx_apart, k.sum_rows(gx_apart), rest_apart[0]])


def test_sixteen_bit_sums_of_columns_are_float32(xp):
    rng = np.random.default_rng(2)
    shapes = ((1000, 300), (300,), (300, 5), (1000, 5))
    x, x_bias, weight, g = (xp.asarray(normal(rng, *s).astype(SIXTEEN_BITS)) for s in shapes)
    saved = k.gelu_linear_forward(x, x_bias, weight, None)[1]
    for _ in range(2):  # the count of finished blocks is 0 again
        gx, gx_bias, gweight, gbias = k.gelu_linear_backward(g, x, x_bias, weight, saved, True)
        assert [str(a.dtype) for a in (gx, gx_bias, gweight, gbias)] == ["float16", *["float32"] * 3]
        gx, gx_bias = host(xp, gx, gx_bias)
        np.testing.assert_allclose(gx_bias, gx.astype(np.float64).sum(0), atol=0.05)


def test_bias_add(xp):
    rng = np.random.default_rng(3)
    arrays = [normal(rng, 3, 40, 300), normal(rng, 3, 40, 300), normal(rng, 300)]
    check(xp, k.bias_add, lambda x, added, bias: x + (added + bias), arrays)


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (70, 300), (9000, 257)])
def test_the_gradient_of_a_sixteen_bit_branch(xp, rows, columns):
    """Rounded once; the bias's is the sum before that. Of float32 it is the same array, and the sum is `sum_rows`."""
    rng = np.random.default_rng(5)
    g, dtype = xp.asarray(normal(rng, rows, columns)), np.dtype(SIXTEEN_BITS)
    gadded, gbias = k.bias_add_backward(g, dtype, True)
    same_bits(xp, [gadded], [g.astype(dtype)])
    exact, usual = host(xp, g)[0].astype(np.float64).sum(0), host(xp, k.sum_rows(g))[0]
    assert_accurate(host(xp, gbias)[0], exact, usual)
    gadded, none = k.bias_add_backward(g, dtype, False)
    assert (gadded.dtype, none) == (dtype, None)
    gadded, gbias = k.bias_add_backward(g, g.dtype, True)
    same_bits(xp, [gadded, gbias], [g, k.sum_rows(g)])


@pytest.mark.parametrize("classes", [7, 128, 300])
def test_linear_cross_entropy_in_sixteen_bits_pads_the_classes(xp, monkeypatch, classes):
    monkeypatch.setattr(cross_entropy, "SIXTEEN_BIT_LOGITS_BYTES", 1)  # several blocks of 128 rows
    rng = np.random.default_rng(4)
    x, weight = (normal(rng, *shape).astype(SIXTEEN_BITS) for shape in ((300, 16), (classes, 16)))
    targets = rng.integers(-1, classes, 300)
    device = [xp.asarray(a) for a in (x, weight, targets)]
    results = k.linear_cross_entropy(*device, -1, True)
    wide = [a.astype(np.float32) for a in (x, weight)]
    expected = k.linear_cross_entropy(*(xp.asarray(a) for a in (*wide, targets)), -1, True)
    for got, want in zip(host(xp, *results), host(xp, *expected), strict=True):
        assert got.shape == want.shape
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, want, atol=0.01 * np.abs(want).max())
    assert results[2].flags.c_contiguous

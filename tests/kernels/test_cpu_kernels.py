"""The NumPy primitives where the operations do not take them: several blocks, several threads, and their contract."""

import inspect
import tracemalloc

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

import kernels.cpu as k
from kernels.cpu import attention, cross_entropy, linear
from kernels.cpu.blocks import row_blocks
from kernels.cpu.dropout import keep_mask
from kernels.cpu.threads import set_num_threads
from kernels.options import AdamWOptions, DropoutOptions
from tests.engine import cases
from tinytensor.gradcheck import gradcheck
from tinytensor.ops.attention import CausalAttention
from tinytensor.ops.losses import LinearCrossEntropy
from tinytensor.tensor import Tensor

RNG = np.random.default_rng(0)


def normal(*shape, dtype=np.float64):
    return RNG.standard_normal(shape).astype(dtype)


# Blocks


@hypothesis.given(st.integers(0, 1000), st.integers(0, 10**6), st.integers(1, 10**6), st.integers(1, 5))
def test_blocks_cover_all_rows_once_and_in_order(rows, row_bytes, block_bytes, multiple):
    blocks = row_blocks(rows, row_bytes, block_bytes, multiple)
    assert len(blocks) % multiple == 0 or len(blocks) == rows
    assert [i for block in blocks for i in range(block.start, block.stop)] == list(range(rows))
    assert all(b.stop - b.start == 1 or (b.stop - b.start) * row_bytes <= block_bytes for b in blocks)


# Softmax with the options that only kernels have


@hypothesis.given(st.integers(1, 6), st.integers(0, 6), st.floats(0.1, 3), st.integers(0, 3))
def test_causal_softmax_sees_up_to_the_diagonal(rows, more, scale, leading):
    x = np.random.default_rng(rows).standard_normal((leading, rows, rows + more))
    visible = np.tri(rows, rows + more, more, dtype=bool)
    expected = cases.softmax(np.where(visible, scale * x, -np.inf)) if x.size else x
    np.testing.assert_allclose(k.softmax_forward(x, scale, causal=True), expected, rtol=1e-12)


def test_softmax_backward_counts_the_scale():
    x, g = normal(3, 4), normal(3, 4)
    y = k.softmax_forward(x, 0.7)
    np.testing.assert_allclose(k.softmax_backward(g, y, 0.7), 0.7 * y * (g - (g * y).sum(-1, keepdims=True)))


# More rows than fit in one block. Blocks hold 1 MiB: 8000 rows of 100 float64 make 7 of them.

MANY = normal(8000, 100)


def in_pieces(fn, *arrays):
    """fn of some rows at a time, so few that each piece is one block."""
    pieces = [fn(*(a[i : i + 100] for a in arrays)) for i in range(0, len(arrays[0]), 100)]
    return [np.concatenate(parts) for parts in zip(*pieces, strict=True)]


WEIGHT, BIAS = normal(100), normal(100)
ROW_WISE = {
    "softmax": lambda x, g: (y := k.softmax_forward(x), k.softmax_backward(g, y)),
    "log_softmax": lambda x, g: (y := k.log_softmax_forward(x), k.log_softmax_backward(g, y)),
    "gelu": lambda x, g: (k.gelu_forward(x), k.gelu_backward(g, x)),
    "layer_norm": lambda x, g: (
        (forward := k.layer_norm_forward(x, WEIGHT, BIAS, 1e-5))[0],
        *forward[1][:2],
        k.layer_norm_backward(g, WEIGHT, forward[1])[0],
    ),
    "rms_norm": lambda x, g: (
        (forward := k.rms_norm_forward(x, WEIGHT, 1e-5))[0],
        forward[1][1],
        k.rms_norm_backward(g, WEIGHT, forward[1])[0],
    ),
    "swiglu": lambda x, g: (k.swiglu_forward(x), k.swiglu_backward(g[:, ::2], x)),
    "cross_entropy": lambda x, g: (
        *(forward := k.cross_entropy_forward(x, (targets := (x[:, 0] > 0).astype(int)), 1)),
        k.cross_entropy_backward(np.asarray(0.5), x, targets, forward[1], 1),
    ),
}


@pytest.mark.parametrize("name", ROW_WISE)
def test_many_blocks_give_what_one_gives(name):
    g = normal(8000, 100)
    results = ROW_WISE[name](MANY, g)
    for result, reference in zip(results, in_pieces(ROW_WISE[name], MANY, g), strict=True):
        np.testing.assert_allclose(result, reference, rtol=1e-12, atol=1e-13)


def test_layer_norm_sums_its_parameters_gradients_over_blocks():
    g = normal(8000, 100)
    _, saved = k.layer_norm_forward(MANY, WEIGHT, None, 1e-5)
    _, gweight, gbias = k.layer_norm_backward(g, WEIGHT, saved)
    rstd = saved[1]
    np.testing.assert_allclose(gweight, (g * (MANY - MANY.mean(1, keepdims=True)) * rstd).sum(0), rtol=1e-9)
    np.testing.assert_allclose(gbias, g.sum(0), rtol=1e-9)


def test_rms_norm_sums_its_weights_gradient_over_blocks():
    g = normal(8000, 100)
    _, (x, rstd) = k.rms_norm_forward(MANY, WEIGHT, 1e-5)
    _, gweight = k.rms_norm_backward(g, WEIGHT, (x, rstd))
    np.testing.assert_allclose(gweight, (g * MANY * rstd).sum(0), rtol=1e-9)


def test_dropout_counts_rows_across_blocks():
    x = np.ones((3, 50_000, 7), np.float32)
    rows = np.array([0, 49_999, 50_000, 149_999])
    options = DropoutOptions(0.5, 12345)
    y = k.dropout(x, options).reshape(-1, 7)
    np.testing.assert_array_equal(y[rows] != 0, keep_mask(options, rows, np.arange(7)))


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1, 2**32, 2**64 - 1, 0x0123456789ABCDEF])
@pytest.mark.parametrize("p", [0.1, 0.5, 0.999999])
def test_the_mask_is_the_agreed_hash(seed, p):
    mask = keep_mask(DropoutOptions(p, seed), np.arange(9), np.arange(11))
    np.testing.assert_array_equal(mask, cases.keep_mask(seed, 9, 11, p))


def test_mask_bits_show_no_pattern():
    kept, other_seed = (keep_mask(DropoutOptions(0.5, seed), *[np.arange(1000)] * 2) - 0.5 for seed in (7, 8))
    for other in (np.roll(kept, 1, 0), np.roll(kept, 1, 1), np.roll(kept, (1, 1), (0, 1)), kept.T):
        assert abs((kept * other).mean() * 4) < 5e-3  # 5 standard deviations of a million fair coins
    assert abs((kept * other_seed).mean() * 4) < 5e-3


# Attention over several blocks of queries and of batches


@pytest.fixture(params=[(1, 10**6), (2, 200), (4, 1), (5, 10**6)], ids=str)
def small_blocks(request, monkeypatch):
    monkeypatch.setattr(attention, "BLOCK", request.param[0])
    monkeypatch.setattr(attention, "SCORES_BYTES", request.param[1])


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("time", [1, 4, 9])
def test_attention_in_blocks(time, dropout):
    qkv = normal(3, time, 3, 2, 4)
    seed = cases.tt.fold(*cases.KEY, 1)
    y, lse = k.attention_forward(qkv, 0.5, DropoutOptions(dropout, seed))
    np.testing.assert_allclose(y, cases.packed_attention(qkv, dropout), rtol=1e-10, atol=1e-12)
    q, keys, _ = qkv.transpose(2, 0, 3, 1, 4)
    scores = np.where(np.tri(time, dtype=bool), q @ keys.swapaxes(-1, -2) * 0.5, -np.inf)
    np.testing.assert_allclose(lse, np.log(np.exp(scores).sum(-1)), rtol=1e-10)
    gradcheck(lambda qkv: CausalAttention(dropout, seed, 0)(qkv), qkv)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("time", [1, 4, 9])
@pytest.mark.parametrize(("heads", "groups"), [(4, 2), (6, 2), (3, 1)])
def test_attention_of_grouped_queries_is_that_of_repeated_keys(heads, groups, time, dropout):
    qkv, g = normal(3, time, heads + 2 * groups, 4), normal(3, time, heads, 4)
    repeated = np.repeat(qkv[:, :, heads:].reshape(3, time, 2, groups, 4), heads // groups, axis=3)
    full = np.concatenate([qkv[:, :, None, :heads], repeated], axis=2)
    options = DropoutOptions(dropout, 5, first_row=7)
    y, lse = k.attention_forward(qkv, 0.5, options, groups)
    expected, expected_lse = k.attention_forward(full, 0.5, options)
    np.testing.assert_allclose(y, expected, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(lse, expected_lse, rtol=1e-10)
    gqkv = k.attention_backward(g, qkv, y, lse, 0.5, options, groups)
    gfull = k.attention_backward(g, full, y, lse, 0.5, options)
    summed = gfull[:, :, 1:].reshape(3, time, 2 * groups, -1, 4).sum(3)
    np.testing.assert_allclose(gqkv, np.concatenate([gfull[:, :, 0], summed], axis=2), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("smallest", [1.0, 1e-5, 1e-7, 0.0])
def test_layer_norm_keeps_its_own_result_unless_the_weight_is_too_small_to_divide_by(smallest, dtype):
    x, weight, g = normal(5, 6, dtype=dtype), 1 + normal(6, dtype=dtype) ** 2, normal(5, 6, dtype=dtype)
    weight[2] = smallest
    y, saved = k.layer_norm_forward(x, weight, None, 1e-5)
    assert (saved[0] is y) == (smallest > 1e-6)
    with_bias, kept = k.layer_norm_forward(x, weight, np.zeros_like(weight), 1e-5)
    np.testing.assert_array_equal(y, with_bias)
    assert kept[0] is not with_bias
    gradients = [k.layer_norm_backward(g, weight, each) for each in (saved, kept)]
    for ours, usual in zip(*gradients, strict=True):
        np.testing.assert_allclose(ours, usual, rtol=0, atol=50 * np.finfo(dtype).eps)


@pytest.mark.parametrize(
    ("dtype", "length", "opposed", "fits"),
    [
        *[(np.float64, length, False, length == 3) for length in (3, 30, 300)],
        *[(np.float32, length, False, length == 1) for length in (1, 30, 300)],
        *[(dtype, 30, True, False) for dtype in (np.float64, np.float32)],
    ],
)
def test_attention_where_exp_fits_and_where_it_would_not(dtype, length, opposed, fits):
    qkv = normal(1, 40, 3, 2, 4)
    qkv[:, :, :2] *= length  # scores of the size of length^2: exp overflows float64 above 709, float32 above 88
    if opposed:
        qkv[:, :, 0] = -length * abs(qkv[:, :, 0])
        qkv[:, :, 1] = length * (1 + abs(qkv[:, :, 1]))  # all scores far below zero: every exp would vanish
    y, lse = k.attention_forward(qkv.astype(dtype), 0.5)
    q, keys, values = qkv.astype(dtype).astype(np.float64).transpose(2, 0, 3, 1, 4)
    scores = q @ keys.swapaxes(-1, -2) * 0.5
    assert attention._exp_fits(scores.astype(dtype)) == fits
    scores = np.where(np.tri(40, dtype=bool), scores, -np.inf)
    expected = np.logaddexp.reduce(scores, axis=-1)
    exact = np.exp(scores - expected[..., None]) @ values
    if dtype == np.float64:
        np.testing.assert_allclose(lse, expected, rtol=1e-10)
        np.testing.assert_allclose(y.swapaxes(1, 2), exact, rtol=1e-9, atol=1e-12)
    else:  # a score's rounding error, in proportion to what it is the sum of, is a relative error of its exponential
        atol = 10 * np.finfo(dtype).eps * (1 + (abs(q) @ abs(keys).swapaxes(-1, -2)).max())
        np.testing.assert_allclose(lse, expected, rtol=0, atol=atol)
        np.testing.assert_allclose(y.swapaxes(1, 2), exact, rtol=0, atol=atol)


@pytest.mark.parametrize("time", [31, 32, 33, 300])
def test_attention_around_the_real_block(time):
    qkv = normal(2, time, 3, 2, 8, dtype=np.float32)
    exact = cases.packed_attention(qkv.astype(np.float64), 0.0)
    np.testing.assert_allclose(k.attention_forward(qkv, 8**-0.5)[0], exact, atol=1e-5)


@pytest.mark.parametrize(("batch", "groups"), [(1, 4), (3, 2)])
@pytest.mark.parametrize(("time", "earlier"), [(1, 20), (3, 20), (30, 20), (30, 0)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_cached_attention_is_that_of_the_newest_tokens(monkeypatch, batch, groups, time, earlier, dtype):
    monkeypatch.setattr("kernels.cpu.cached_attention.PARALLEL_BYTES", 1)
    end, heads = time + earlier, 2 * groups
    qkv = normal(batch, end, heads + 2 * groups, 8, dtype=dtype)
    keys, values = (normal(batch, groups, end + 5, 8, dtype=dtype) for _ in range(2))
    keys[:, :, :end], values[:, :, :end] = np.split(qkv[:, :, heads:].swapaxes(1, 2), 2, axis=1)
    expected = k.attention_forward(qkv, 0.3, kv_heads=groups)[0][:, earlier:]
    y = k.cached_attention_forward(qkv[:, earlier:, :heads], keys, values, np.full(batch, end), 0.3)
    np.testing.assert_allclose(y, expected, atol=1e-5 if dtype == np.float32 else 1e-12)


@pytest.mark.parametrize("loops", [True, False])
@pytest.mark.parametrize("time", [1, 3, 12])
def test_cached_attention_of_a_text_does_not_depend_on_the_others(monkeypatch, time, loops):
    """To the bit, whatever the others' lengths are and whatever lies behind a text's own end."""
    if not loops:
        monkeypatch.setattr("kernels.cpu.compiled._loops", lambda: None)
    q, ends = normal(3, time, 4, 8, dtype=np.float32), np.array([20, time, 31])
    keys, values = normal(3, 2, 40, 8, dtype=np.float32), normal(3, 2, 40, 8, dtype=np.float32)
    for b, end in enumerate(ends):
        keys[b, :, end:], values[b, :, end:] = np.nan, np.inf
    together = k.cached_attention_forward(q, keys, values, ends, 0.3)
    alone = [k.cached_attention_forward(*(x[b : b + 1] for x in (q, keys, values, ends)), 0.3) for b in (0, 2)]
    np.testing.assert_array_equal(together[[0, 2]], np.concatenate(alone))
    qkv = np.concatenate([q[1:2], *(x[1:2, :, :time].swapaxes(1, 2) for x in (keys, values))], axis=2)
    np.testing.assert_allclose(together[1:2], k.attention_forward(qkv, 0.3, kv_heads=2)[0], atol=1e-5)


def attention_memory(time, dtype):
    """Bytes that attention takes at its peak besides its input, forward and backward, for one sequence of 2 heads.

    The scratch arrays of loops are not counted, those of NumPy's passes are.
    """
    qkv = normal(1, time, 3, 2, 16, dtype=dtype)
    tracemalloc.start()
    y, lse = k.attention_forward(qkv, 0.25)
    k.attention_backward(y, qkv, y, lse, 0.25)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_attention_memory_grows_with_time_and_not_with_its_square(dtype):
    set_num_threads(1)  # with more, how many temporary arrays there are at once is a matter of timing
    attention_memory(1, dtype)  # whatever is loaded on first use
    assert attention_memory(4096, dtype) <= 4.5 * attention_memory(1024, dtype)


# Rotary positions over several blocks of rows


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("in_place", [False, True])
def test_rotary_knows_the_position_of_each_row_of_a_block(dtype, in_place):
    x = normal(3, 1000, 6, 64, dtype=dtype)  # blocks that begin within a text
    angles = np.arange(1000)[:, None] / 10000 ** (np.arange(32) / 32)
    table = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(dtype)
    given = x.copy()
    y = k.rotary(given, table, 4, in_place)
    assert (y is given) == in_place
    np.testing.assert_array_equal(given, y if in_place else x)
    np.testing.assert_allclose(y[:, :, :4], cases.rotary(x[:, :, :4]), atol=50 * np.finfo(dtype).eps)
    np.testing.assert_array_equal(y[:, :, 4:], x[:, :, 4:])


# Cross-entropy over chunks of logits


def test_linear_cross_entropy_of_no_rows_has_a_gradient_of_zeros():
    with np.errstate(invalid="ignore", divide="ignore"):
        loss, gx, gweight = k.linear_cross_entropy(normal(0, 3), normal(5, 3), np.zeros(0, int), -100, True)
    assert np.isnan(loss)
    assert gx.shape == (0, 3)
    np.testing.assert_array_equal(gweight, np.zeros((5, 3)))


@pytest.mark.parametrize("chunk_bytes", [1, 200, 10**6])
def test_linear_cross_entropy_in_chunks(monkeypatch, chunk_bytes):
    monkeypatch.setattr(cross_entropy, "LOGITS_BYTES", chunk_bytes)
    x, weight, targets = normal(11, 3), normal(5, 3), np.array([0, 4, -100, 2, 2, 1, -100, 3, 0, 4, 4])
    loss, gx, gweight = k.linear_cross_entropy(x, weight, targets, -100, True)
    np.testing.assert_allclose(loss, cases.linear_cross_entropy(x, weight, targets, -100), rtol=1e-12)
    assert k.linear_cross_entropy(x, weight, targets, -100, False)[1:] == (None, None)
    same, gx_alone, none = k.linear_cross_entropy(x, weight, targets, -100, True, False)  # of a frozen weight
    assert (same, none) == (loss, None)
    np.testing.assert_array_equal(gx_alone, gx)
    assert loss.shape == ()
    gradcheck(lambda x, w: LinearCrossEntropy(-100)(x, w, targets), x, weight)
    np.testing.assert_array_equal(gx[targets == -100], 0)
    assert gweight.shape == weight.shape


# Look-ups


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.int64])
def test_embedding_gradients_of_any_integers(dtype):
    rows = 2 ** (8 * np.dtype(dtype).itemsize) if np.dtype(dtype).itemsize < 4 else 1000
    ids, g = np.array([[3, 3], [rows - 1, 0]], dtype), normal(2, 2, 4)
    gweight = normal(rows, 4)
    expected = gweight.copy()
    np.add.at(expected, ids, g)
    k.embedding_backward(g, ids, gweight)
    np.testing.assert_allclose(gweight, expected)


@hypothesis.given(st.integers(0, 300), st.integers(1, 20), st.integers(0, 2**32 - 1))
def test_embedding_gradients_add_up_in_one_order(count, rows, seed):
    rng = np.random.default_rng(seed)
    ids, g = rng.integers(-rows, rows, count), rng.standard_normal((count, 3)).astype(np.float32)
    before = rng.standard_normal((rows, 3)).astype(np.float32)
    expected, result, again = before.astype(np.float64), before.copy(), before.copy()
    np.add.at(expected, ids, g)
    k.embedding_backward(g, ids, result)
    k.embedding_backward(g, ids, again)
    np.testing.assert_allclose(result, expected, atol=1e-4)
    np.testing.assert_array_equal(result, again)


# AdamW


def test_adamw_over_blocks_is_the_formula():
    param, grad, m, v = normal(200_000), normal(200_000), normal(200_000), normal(200_000) ** 2
    p, gradient, first, second = param.copy(), grad.copy(), m.copy(), v.copy()
    k.adamw_update([param], [grad], [m], [v], AdamWOptions(0.1, 0.9, 0.99, 1e-8, 0.01, 3, 0.5))
    first = 0.9 * first + 0.1 * 0.5 * gradient
    second = 0.99 * second + 0.01 * (0.5 * gradient) ** 2
    p -= 0.1 * (first / (1 - 0.9**3) / (np.sqrt(second / (1 - 0.99**3)) + 1e-8) + 0.01 * p)
    for result, expected in ((param, p), (m, first), (v, second), (grad, gradient)):
        np.testing.assert_allclose(result, expected, rtol=1e-9, atol=1e-12)


# The contract of the package


def test_every_primitive_is_public_and_documented():
    functions = {name: value for name, value in vars(k).items() if inspect.isfunction(value)}
    assert sorted(functions) == sorted(k.__all__)
    assert all(inspect.getdoc(function) for function in functions.values())


def test_results_are_plain_arrays_of_the_inputs_dtype():
    x = normal(4, 6, dtype=np.float32)
    for result in (k.softmax_forward(x), k.layer_norm_forward(x, x[0], None, 1e-5)[0], k.gelu_forward(x)):
        assert isinstance(result, np.ndarray)
        assert not isinstance(result, Tensor)
        assert result.dtype == np.float32


# Products divided among threads, and the product with a single row, as in generation


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize(("rows", "inputs", "outputs"), [(50, 3, 2), (2, 3, 50), (2, 50, 3), (7, 1, 7), (2, 1, 2)])
def test_products_divided_among_threads(monkeypatch, threads, rows, inputs, outputs):
    monkeypatch.setattr(linear, "PARALLEL_FLOPS", 0)
    x, weight, g = normal(rows, inputs), normal(inputs, outputs), normal(rows, outputs)
    set_num_threads(threads)
    try:
        y, (gx, gweight, gbias) = k.linear_forward(x, weight, None), k.linear_backward(g, x, weight, True)
    finally:
        set_num_threads(1)
    for result, expected in ((y, x @ weight), (gx, g @ weight.T), (gweight, x.T @ g), (gbias, g.sum(0))):
        np.testing.assert_allclose(result, expected, rtol=1e-12, atol=1e-13)
    assert k.linear_backward(g, x, weight, False)[2] is None


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_single_row_times_a_large_matrix(monkeypatch, threads, transposed, dtype):
    monkeypatch.setattr(linear, "VECTOR_BYTES", 0)
    monkeypatch.setattr(linear, "READ_BYTES", 0)
    for size in ((1, 1), (7, 5), (300, 129)):
        x, bias = normal(1, 1, size[0], dtype=dtype), normal(size[1], dtype=dtype)
        weight = normal(*size[::-1], dtype=dtype).T if transposed else normal(*size, dtype=dtype)
        set_num_threads(threads)
        try:
            y = k.linear_forward(x, weight, bias)
        finally:
            set_num_threads(1)
        assert (y.dtype, y.shape) == (dtype, (1, 1, size[1]))
        x, weight, bias = (a.astype(np.float64) for a in (x, weight, bias))
        # what rounding can add up to in a sum of size[0] products, in whatever order (Higham 2002, section 3.1)
        bound = (size[0] + 1) * np.finfo(dtype).eps * (abs(x) @ abs(weight) + abs(bias))
        assert (abs(y - (x @ weight + bias)) <= bound).all()


@pytest.mark.parametrize("layout", [lambda w: w, lambda w: np.asfortranarray(w), lambda w: np.repeat(w, 2, 1)[:, ::2]])
@pytest.mark.parametrize("rows", [1, 5, 300])
def test_linear_cross_entropy_of_any_layout_of_the_weight(layout, rows):
    """BLAS writes rows: a gradient in the layout of a transposed weight would be left unwritten."""
    rng = np.random.default_rng(0)
    x, weight = rng.standard_normal((rows, 6), np.float32), rng.standard_normal((70, 6), np.float32)
    targets = rng.integers(0, 70, rows)
    loss, gx, gweight = k.linear_cross_entropy(x, weight, targets, -100, True)
    other = k.linear_cross_entropy(x, layout(weight), targets, -100, True)
    for a, b in zip((loss, gx, gweight), other, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "view",
    [
        lambda a: a[:, :, :, :1, :][:, :1],  # one token and one head of larger arrays
        lambda a: a[:, 2][:, None],
        lambda a: a[:, 0].copy()[:, None],  # one token, stride 0
        lambda a: a[..., :1].copy()[..., ::2],  # heads of size 1, stride 8
        lambda a: np.broadcast_to(a[:1], (1, *a.shape[1:])),
        lambda a: a[:, ::-1],
    ],
)
def test_attention_of_arrays_with_odd_strides(view):
    rng = np.random.default_rng(0)
    qkv = view(rng.standard_normal((2, 5, 3, 2, 8), np.float32))
    g = rng.standard_normal((*qkv.shape[:2], *qkv.shape[3:]), np.float32)
    (y, lse), (same, same_lse) = (k.attention_forward(a, 0.5) for a in (qkv, qkv.copy()))
    np.testing.assert_array_equal(y, same)
    np.testing.assert_array_equal(lse, same_lse)
    strided = np.stack([g, g], axis=1)[:, 0]
    np.testing.assert_array_equal(
        k.attention_backward(strided, qkv, y, lse, 0.5), k.attention_backward(g, qkv.copy(), y, lse, 0.5)
    )

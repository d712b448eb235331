"""Every CUDA kernel against its formula in NumPy: values, gradients, dropout, odd shapes, extreme numbers, same bits.

The formulas below follow the dtype of their arguments. In float64 they are the reference; in float32 they show what
accuracy float32 can give, and a kernel's error may be at most twice that, plus 1e-6 of the largest value.
Each test runs on the emulator, and on a GPU where there is one (`pytest -m gpu`).
"""

import inspect
from contextlib import nullcontext

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import kernels.cpu
import kernels.cuda as k
import tinytensor as tt
from kernels.cuda.launch import KernelArgumentError, shared_memory
from kernels.emulator import checks, gpu_rounding
from kernels.emulator.cuda_like import compute_capability
from kernels.options import AdamWOptions, DropoutOptions

SEED = 0x0123_4567_89AB_CDEF  # both halves of a dropout seed matter


@pytest.fixture(scope="module", params=["emulated", "rounded", pytest.param("cuda", marks=pytest.mark.gpu)])
def xp(request):
    """The array namespace of the device under test; "rounded": emulated, with a GPU's rounding (with --thorough)."""
    if request.param == "rounded" and not request.config.getoption("--thorough"):
        pytest.skip("with --thorough")
    try:
        device = tt.device("emulated" if request.param == "rounded" else request.param)
    except tt.DeviceError as error:
        pytest.skip(str(error))
    with gpu_rounding() if request.param == "rounded" else nullcontext():
        yield device.xp


# ---- formulas ------------------------------------------------------------------------------------------------------


def softmax(x, scale, causal):
    z = x * x.dtype.type(scale)
    if causal:
        z = np.where(np.tri(*x.shape[-2:], k=x.shape[-1] - x.shape[-2], dtype=bool), z, -np.inf)
    p = np.exp(z - z.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


def softmax_backward(g, y, scale):
    return y.dtype.type(scale) * y * (g - (g * y).sum(-1, keepdims=True))


def log_softmax(x):
    z = x - x.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def log_softmax_backward(g, y):
    return g - np.exp(y) * g.sum(-1, keepdims=True)


def ungrouped(qkv, groups):
    """qkv (B, T, H + 2 G, D) in the layout (B, T, 3, H, D), each head of keys and values for every query it serves."""
    heads = qkv.shape[2] - 2 * groups
    kv = qkv[:, :, heads:].reshape(*qkv.shape[:2], 2, groups, 1, -1)
    kv = np.broadcast_to(kv, (*kv.shape[:4], heads // groups, kv.shape[-1]))
    return np.concatenate([qkv[:, :, None, :heads], kv.reshape(*kv.shape[:3], heads, -1)], axis=2)


def attention_scores(qkv, scale):
    q, key, v = (qkv[:, :, i].swapaxes(1, 2) for i in range(3))  # (B, H, T, D)
    s = qkv.dtype.type(scale) * (q @ key.mT)
    return q, key, v, np.where(np.tri(s.shape[-1], dtype=bool), s, -np.inf)


def attention(qkv, scale, mask):
    *_, v, s = attention_scores(qkv, scale)
    top = s.max(-1, keepdims=True)
    p = np.exp(s - top)
    total = p.sum(-1, keepdims=True)
    return (p / total * mask.astype(v.dtype) @ v).swapaxes(1, 2), (top + np.log(total))[..., 0]


def attention_backward(g, qkv, y, lse, scale, mask):
    q, key, v, s = attention_scores(qkv, scale)
    g, y, mask = g.swapaxes(1, 2), y.swapaxes(1, 2), mask.astype(v.dtype)
    p = np.exp(s - lse[..., None])
    ds = p * (g @ v.mT * mask - (g * y).sum(-1, keepdims=True)) * qkv.dtype.type(scale)
    return np.stack([a.swapaxes(1, 2) for a in (ds @ key, ds.mT @ q, (p * mask).mT @ g)], axis=2)


def attention_gradient(g, qkv, scale, mask):
    """Forward and backward together: each must use the other's rounding, not the reference's."""
    y, lse = attention(qkv, scale, mask)
    return attention_backward(g, qkv, y, lse, scale, mask)


def attention_gradient_by_kernels(g, qkv, *extra):
    y, lse = k.attention_forward(qkv, *extra)
    return k.attention_backward(g, qkv, y, lse, *extra)


def layer_norm(x, weight, bias, eps):
    mean = x.mean(-1, keepdims=True)
    rstd = 1 / np.sqrt(((x - mean) ** 2).mean(-1, keepdims=True) + x.dtype.type(eps))
    return (x - mean) * rstd * weight + bias, mean, rstd


def layer_norm_by_kernel(x, weight, bias, eps):
    y, (_, mean, rstd, _) = k.layer_norm_forward(x, weight, bias, eps)
    return y, mean, rstd


def layer_norm_backward(g, weight, x, mean, rstd):
    n, h = (x - mean) * rstd, g * weight
    gx = rstd * (h - h.mean(-1, keepdims=True) - n * (h * n).mean(-1, keepdims=True))
    return gx, (g * n).sum(0), g.sum(0)


def gelu(x):
    a, b = x.dtype.type(np.sqrt(2 / np.pi)), x.dtype.type(0.044715)
    return x / 2 * (1 + np.tanh(a * (x + b * x**3)))


def rms_norm(x, weight, eps):
    rstd = 1 / np.sqrt((x**2).mean(-1, keepdims=True) + x.dtype.type(eps))
    return x * rstd * weight, rstd


def rms_norm_by_kernel(x, weight, eps):
    y, (_, rstd) = k.rms_norm_forward(x, weight, eps)
    return y, rstd


def rms_norm_backward(g, weight, x, rstd):
    n, h = x * rstd, g * weight
    return rstd * (h - n * (h * n).mean(-1, keepdims=True)), (g * n).sum(0)


def swiglu(x):
    a, b = np.split(x, 2, axis=-1)
    return a / (1 + np.exp(-a)) * b


def swiglu_backward(g, x):
    a, b = np.split(x, 2, axis=-1)
    s = 1 / (1 + np.exp(-a))
    return np.concatenate([g * b * s * (1 + a * (1 - s)), g * a * s], axis=-1)


def gelu_backward(g, x):
    a, b = x.dtype.type(np.sqrt(2 / np.pi)), x.dtype.type(0.044715)
    t = np.tanh(a * (x + b * x**3))
    return g * ((1 + t) / 2 + x / 2 * (1 - t**2) * a * (1 + 3 * b * x**2))


def cross_entropy(logits, targets, ignored):
    y = log_softmax(logits)
    picked = np.take_along_axis(y, np.where(targets == ignored, 0, targets)[:, None], 1)[:, 0]
    lse = (logits.max(-1) - y.max(-1)).astype(logits.dtype)
    return np.where(targets == ignored, 0, -picked).astype(logits.dtype), lse


def cross_entropy_backward(g, logits, targets, lse, ignored):
    p = np.exp(logits - lse[:, None])
    hot = np.arange(logits.shape[1]) == targets[:, None]
    return np.where((targets == ignored)[:, None], 0, g * (p - hot)).astype(logits.dtype)


def cached_attention(q, keys, values, ends, scale):
    q = q.swapaxes(1, 2)  # (B, H, T, D)
    k, v = (np.repeat(x, q.shape[1] // x.shape[1], axis=1) for x in (keys, values))
    scores = scale * (q @ k.swapaxes(-1, -2))
    newest = ends[:, None] - q.shape[2] + np.arange(q.shape[2])
    scores = np.where(np.arange(k.shape[2]) > newest[:, None, :, None], -np.inf, scores)
    p = np.exp(scores - scores.max(-1, keepdims=True))
    return (p / p.sum(-1, keepdims=True) @ v).swapaxes(1, 2)


def rotary(x, table, count):
    half = table.shape[2]
    cos, sin = table.swapaxes(0, 1)[:, None, :, None]  # (1, T, 1, D/2) each
    x1, x2, rest = np.split(x[:, :, :count], [half, 2 * half], axis=-1)
    rotated = np.concatenate([x1 * cos - x2 * sin, x2 * cos + x1 * sin, rest], axis=-1)
    return np.concatenate([rotated, x[:, :, count:]], axis=2)


def adamw(param, grad, m, v, lr, beta1, beta2, eps, decay, step, scale):
    one = param.dtype.type
    g = one(scale) * grad
    m = one(beta1) * m + one(1 - beta1) * g
    v = one(beta2) * v + one(1 - beta2) * g * g
    rate, v_scale = one(lr / (1 - beta1**step)), one(1 / np.sqrt(1 - beta2**step))
    return one(1 - lr * decay) * param - rate * m / (np.sqrt(v) * v_scale + one(eps)), m, v


def mix(h):
    h = h ^ h >> np.uint32(16)
    h = h * np.uint32(0x21F0AAAD)
    h = h ^ h >> np.uint32(15)
    h = h * np.uint32(0xD35A2D97)
    return h ^ h >> np.uint32(15)


def dropout_mask(seed, rows, columns, p):
    """(rows, columns) of 0 and 1 / (1 - p), in float64."""
    row, column = np.arange(rows, dtype=np.uint32)[:, None], np.arange(columns, dtype=np.uint32)
    key = mix(mix(np.uint32(seed & 0xFFFFFFFF) ^ row) + np.uint32(seed >> 32))
    return (mix(key + column * np.uint32(0x9E3779B9)) >= np.uint32(p * 2**32)) / (1 - p)


def attention_mask(B, T, H, p):
    return dropout_mask(SEED, B * H * T, T, p).reshape(B, H, T, T)


# ---- comparing -----------------------------------------------------------------------------------------------------


def as_tuple(result):
    return result if isinstance(result, tuple) else (result,)


def to_device(xp, value):
    return xp.asarray(value) if isinstance(value, np.ndarray) else value


def in_double(value):
    return value.astype(np.float64) if isinstance(value, np.ndarray) and value.dtype == np.float32 else value


def check(xp, kernel, formula, args, extra=(), formula_extra=None, size=1.0):
    """Compare kernel(*args, *extra) with formula(*args, *formula_extra); returns the reference in float32.

    size: of the terms that the results are sums of, where these nearly cancel.
    """
    formula_extra = extra if formula_extra is None else formula_extra
    with np.errstate(all="ignore"):
        reference = as_tuple(formula(*map(in_double, args), *formula_extra))
        plain = as_tuple(formula(*args, *formula_extra))
    inputs = [to_device(xp, arg) for arg in args]
    results = as_tuple(kernel(*inputs, *extra))
    for before, after in zip(args, inputs, strict=True):
        if isinstance(before, np.ndarray):
            np.testing.assert_array_equal(xp.asnumpy(after), before, "an input was changed")
    for got, want, usual in zip(results, reference, plain, strict=True):
        assert_accurate(xp.asnumpy(got), want, usual, size)
    return [np.ascontiguousarray(want, np.float32) for want in reference]


def assert_accurate(got, want, usual, size=1.0):
    assert (got.dtype, usual.dtype, got.shape) == (np.float32, np.float32, want.shape)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
    infinite = np.isinf(want)
    np.testing.assert_array_equal(got[infinite], want[infinite])
    finite = np.isfinite(want)
    if finite.any():
        want, error = want[finite], np.abs(got[finite] - want[finite]).max()
        usual_error = np.abs(usual[finite] - want).max()
        assert error <= 2 * usual_error + 1e-6 * max(size, np.abs(want).max()), (error, usual_error)


# ---- values --------------------------------------------------------------------------------------------------------

KINDS = ("normal", "large", "constant", "one hot", "masked")
LENGTHS = st.integers(1, 70) | st.sampled_from([127, 128, 255, 256, 257, 1023, 1024, 1025, 2049, 4097])


def numbers(kind, rng, *shape):
    """float32 logits: of size 1, of size 1e4, all equal, one large per row, or with -inf in places."""
    x = rng.standard_normal(shape)
    if kind == "large":
        x = rng.uniform(-1e4, 1e4, shape)
    elif kind == "constant":
        x = np.full(shape, 7.25)
    elif kind == "one hot":
        x = 1e4 * (np.arange(shape[-1]) == rng.integers(shape[-1]) + np.zeros(shape, int))
    elif kind == "masked":
        x[rng.random(shape) < 0.5] = -np.inf
        x[..., 0] = 0.5  # causal or not, each row sees one number
    return x.astype(np.float32)


def normal(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


row_cases = given(st.sampled_from(KINDS), st.integers(1, 6), LENGTHS, st.integers(0, 2**32))


@row_cases
def test_softmax(xp, kind, rows, columns, seed):
    rng = np.random.default_rng(seed)
    scale = float(rng.choice([1.0, 0.125, 0.3]))
    (y,) = check(xp, k.softmax_forward, softmax, [numbers(kind, rng, rows, columns)], (scale, False))
    check(xp, k.softmax_backward, softmax_backward, [normal(rng, rows, columns), y], (scale,))


@given(st.sampled_from(KINDS), st.integers(1, 40), st.integers(0, 300), st.integers(0, 2**32))
def test_causal_softmax(xp, kind, queries, earlier, seed):
    x = numbers(kind, np.random.default_rng(seed), 2, 2, queries, queries + earlier)
    (y,) = check(xp, k.softmax_forward, softmax, [x], (0.5, True))
    assert not np.triu(y, earlier + 1).any()


def test_rows_that_see_nothing_are_zero(xp):
    y = xp.asnumpy(k.softmax_forward(xp.ones((3, 2), dtype=np.float32), causal=True))
    np.testing.assert_array_equal(y, [[0, 0], [1, 0], [0.5, 0.5]])


@pytest.mark.parametrize("columns", [65_535, 65_536, 70_001])
def test_longest_rows(xp, columns):
    rng = np.random.default_rng(columns)
    (y,) = check(xp, k.softmax_forward, softmax, [numbers("large", rng, 2, columns)], (1e-3, False))
    check(xp, k.softmax_backward, softmax_backward, [normal(rng, 2, columns), y], (1e-3,))
    (y,) = check(xp, k.log_softmax_forward, log_softmax, [normal(rng, 2, columns)])
    check(xp, k.log_softmax_backward, log_softmax_backward, [normal(rng, 2, columns), y])


def test_softmax_of_minus_infinity_and_nan_is_nan(xp):
    x = np.array([[-np.inf, -np.inf], [np.nan, 0], [np.inf, 0]], np.float32)
    assert np.isnan(xp.asnumpy(k.softmax_forward(xp.asarray(x)))[:, 0]).all()


@row_cases
def test_log_softmax(xp, kind, rows, columns, seed):
    rng = np.random.default_rng(seed)
    (y,) = check(xp, k.log_softmax_forward, log_softmax, [numbers(kind, rng, rows, columns)])
    check(xp, k.log_softmax_backward, log_softmax_backward, [normal(rng, rows, columns), y])


def attention_input(kind, rng, B, T, H, D):
    """qkv and a scale that make the scores as `kind` says; those of size 1e4 have so few digits that they are exact."""
    qkv = normal(rng, B, T, 3, H, D)
    if kind == "large":
        qkv[:, :, :2] = rng.integers(-8, 9, qkv[:, :, :2].shape)
        return qkv, 2.0 ** int(np.log2(1e4 / 64 / D))
    if kind == "constant":
        qkv[:, :, :2] = 0.5
    if kind == "one hot":  # every query prefers its own position by far
        qkv[:, :, 1] = qkv[:, :, 0]
        return qkv, 30.0
    return qkv, D**-0.5


@given(
    st.sampled_from(KINDS[:4]),
    st.tuples(st.integers(1, 2), st.integers(1, 140), st.integers(1, 3)),
    st.integers(1, 128) | st.sampled_from([32, 64, 96, 128]),
    st.sampled_from([0.0, 0.2, 0.9]),
    st.integers(0, 2**32),
)
def test_attention(xp, kind, shape, D, p, seed):
    B, T, H = shape
    rng = np.random.default_rng(seed)
    qkv, scale = attention_input(kind, rng, B, T, H, D)
    extra, mask = (scale, DropoutOptions(p, SEED)), (scale, attention_mask(B, T, H, p))
    check(xp, k.attention_forward, attention, [qkv], extra, mask)
    g = normal(rng, B, T, H, D)
    products = np.abs(
        np.einsum("bihd,bjhd->bhij", g, qkv[:, :, 2])
    ).max()  # dp and delta, of which ds is the difference
    size = max(1.0, products * scale * np.abs(qkv[:, :, :2]).max())
    check(xp, attention_gradient_by_kernels, attention_gradient, [g, qkv], extra, mask, size)


@given(st.integers(1, 2), st.integers(1, 140), st.integers(1, 3), st.integers(1, 3), st.integers(1, 40))
def test_attention_of_grouped_queries(xp, B, T, groups, shared, D):
    rng = np.random.default_rng(T * D)
    heads, options = groups * shared, DropoutOptions(0.2, SEED)
    qkv, g, mask = (
        normal(rng, B, T, heads + 2 * groups, D),
        normal(rng, B, T, heads, D),
        attention_mask(B, T, heads, 0.2),
    )

    def gradient(g, qkv, scale, mask):
        full = attention_gradient(g, ungrouped(qkv, groups), scale, mask)  # (B, T, 3, H, D)
        of_keys = full[:, :, 1:].reshape(B, T, 2 * groups, shared, D).sum(3)
        return np.concatenate([full[:, :, 0], of_keys], axis=2)

    check(
        xp,
        lambda qkv, *extra: k.attention_forward(qkv, *extra, kv_heads=groups),
        lambda qkv, *extra: attention(ungrouped(qkv, groups), *extra),
        [qkv],
        (D**-0.5, options),
        (D**-0.5, mask),
    )
    check(
        xp,
        lambda *arrays: attention_gradient_by_kernels(*arrays, groups),
        gradient,
        [g, qkv],
        (D**-0.5, options),
        (D**-0.5, mask),
        size=10.0,
    )


@pytest.mark.parametrize("D", [1, 31, 32, 33, 64, 65, 96, 97, 127, 128])
@pytest.mark.parametrize("T", [1, 63, 64, 65, 129])
def test_attention_at_the_edges_of_tiles(xp, T, D):
    test_attention.hypothesis.inner_test(xp, "normal", (1, T, 2), D, 0.3, seed=T * D)


@pytest.mark.parametrize(
    ("capability", "D"), [("75", 64), ("80", 64), ("90", 128)] + [(c, d) for c in ("75", "80", "90") for d in (32, 96)]
)
def test_attention_in_the_tiles_that_other_gpus_take(emulated, request, capability, D):
    if D in (32, 96) and not request.config.getoption("--thorough"):
        pytest.skip("with --thorough")
    shared_memory.cache_clear()
    try:
        with compute_capability(capability):
            for T in (65, 130):
                test_attention.hypothesis.inner_test(emulated, "normal", (1, T, 1), D, 0.3, seed=D)
    finally:
        shared_memory.cache_clear()


def test_attention_reads_arrays_that_are_not_aligned(xp):
    """A view that starts 4 bytes into its memory must not be read 16 bytes at a time."""
    rng = np.random.default_rng(0)
    shape, size = (1, 9, 3, 2, 8), 9 * 3 * 2 * 8
    flat = normal(rng, size + 1)
    y, lse = k.attention_forward(xp.asarray(flat)[1:].reshape(shape), 0.5)
    want, want_lse = attention(in_double(flat[1:].reshape(shape)), 0.5, np.ones(1))
    np.testing.assert_allclose(xp.asnumpy(y), want, atol=1e-5)
    np.testing.assert_allclose(xp.asnumpy(lse), want_lse, atol=1e-5)


def test_more_heads_than_gridDim_y_could_count(xp, monkeypatch):
    # small blocks: the emulator runs 66,000 of them
    monkeypatch.setattr("kernels.cuda.attention.BLOCK_SIZES", ((8, 16),))
    qkv = normal(np.random.default_rng(0), 5500, 1, 3, 12, 1)  # 66,000 heads
    y, lse = k.attention_forward(xp.asarray(qkv), 1.0)
    np.testing.assert_array_equal(xp.asnumpy(y), qkv[:, :, 2])  # one key: all the weight is on it
    np.testing.assert_array_equal(xp.asnumpy(lse)[..., 0], (qkv[:, 0, 0] * qkv[:, 0, 1])[..., 0])


@given(st.integers(1, 200), LENGTHS, st.booleans(), st.integers(0, 2**32))
def test_layer_norm(xp, rows, columns, shifted, seed):
    rng = np.random.default_rng(seed)
    x, g = normal(rng, rows, columns) + 100 * shifted, normal(rng, rows, columns)
    weight, bias = normal(rng, columns), normal(rng, columns)
    _, mean, rstd = check(xp, layer_norm_by_kernel, layer_norm, [x, weight, bias], (1e-5,))
    check(xp, lambda g, w, *saved: k.layer_norm_backward(g, w, saved), layer_norm_backward, [g, weight, x, mean, rstd])


def test_layer_norm_without_bias(xp):
    x, weight = (xp.asarray(normal(np.random.default_rng(0), *shape)) for shape in ((3, 5), (5,)))
    without, _ = k.layer_norm_forward(x, weight, None, 1e-5)
    with_zero, _ = k.layer_norm_forward(x, weight, xp.zeros_like(weight), 1e-5)
    np.testing.assert_array_equal(xp.asnumpy(without), xp.asnumpy(with_zero))


@given(st.lists(st.integers(1, 9), min_size=0, max_size=4), st.floats(0.1, 30), st.integers(0, 2**32))
def test_gelu(xp, shape, size, seed):
    rng = np.random.default_rng(seed)
    x = (normal(rng, *shape, 1) * np.float32(size)).reshape(shape)
    check(xp, k.gelu_forward, gelu, [x])
    check(xp, k.gelu_backward, gelu_backward, [normal(rng, *shape, 1).reshape(shape), x])


@given(st.integers(1, 200), LENGTHS, st.integers(0, 2**32))
def test_rms_norm(xp, rows, columns, seed):
    rng = np.random.default_rng(seed)
    x, g, weight = normal(rng, rows, columns), normal(rng, rows, columns), normal(rng, columns)
    _, rstd = check(xp, rms_norm_by_kernel, rms_norm, [x, weight], (1e-5,))
    check(xp, lambda g, w, *saved: k.rms_norm_backward(g, w, saved), rms_norm_backward, [g, weight, x, rstd])


@given(st.lists(st.integers(1, 9), min_size=0, max_size=3), st.integers(1, 300), st.floats(0.1, 30), st.integers(0, 99))
def test_swiglu(xp, shape, columns, size, seed):
    rng = np.random.default_rng(seed)
    x = normal(rng, *shape, 2 * columns) * np.float32(size)
    check(xp, k.swiglu_forward, swiglu, [x])
    check(xp, k.swiglu_backward, swiglu_backward, [normal(rng, *shape, columns), x])


@given(st.integers(0, 2**64 - 1), st.integers(1, 300), LENGTHS, st.floats(0, 0.99))
def test_dropout_mask_is_the_contracts_hash(xp, seed, rows, columns, p):
    x = np.ones((rows, columns), np.float32)
    y = xp.asnumpy(k.dropout(xp.asarray(x), DropoutOptions(p, seed)))
    np.testing.assert_array_equal(y, dropout_mask(seed, rows, columns, p).astype(np.float32))


@given(st.integers(1, 9), LENGTHS, st.sampled_from(KINDS[:4]), st.integers(0, 2**32))
def test_cross_entropy(xp, rows, columns, kind, seed):
    rng = np.random.default_rng(seed)
    logits = numbers(kind, rng, rows, columns)
    targets = np.where(rng.random(rows) < 0.2, -1, rng.integers(0, columns, rows))
    _, lse = check(xp, k.cross_entropy_forward, cross_entropy, [logits, targets], (-1,))
    check(
        xp,
        k.cross_entropy_backward,
        cross_entropy_backward,
        [np.float32(0.25) + np.zeros((), np.float32), logits, targets, lse],
        (-1,),
    )


def test_a_target_out_of_range_shows_as_nan(xp):
    logits, targets = xp.zeros((3, 4), dtype=np.float32), xp.asarray(np.array([0, 4, -100]))
    losses, lse = k.cross_entropy_forward(logits, targets, -100)
    g = k.cross_entropy_backward(xp.ones((), dtype=np.float32), logits, targets, lse, -100)
    np.testing.assert_array_equal(np.isnan(xp.asnumpy(losses)), [False, True, False])
    np.testing.assert_array_equal(np.isnan(xp.asnumpy(g)).any(1), [False, True, False])


@pytest.mark.parametrize("block_bytes", [1, 1000, 2**26])
def test_linear_cross_entropy(xp, monkeypatch, block_bytes):
    monkeypatch.setattr("kernels.cuda.cross_entropy.LOGITS_BYTES", block_bytes)
    rng = np.random.default_rng(1)
    x, weight, targets = normal(rng, 37, 8), normal(rng, 20, 8), rng.integers(-1, 20, 37)
    device = [xp.asarray(a) for a in (x, weight, targets)]
    loss, gx, gweight = map(xp.asnumpy, k.linear_cross_entropy(*device, -1, True))
    logits, kept = in_double(x) @ weight.T, (targets != -1).sum()
    losses, lse = cross_entropy(logits, targets, -1)
    glogits = cross_entropy_backward(1 / kept, logits, targets, lse, -1)
    np.testing.assert_allclose(loss, losses.sum() / kept, rtol=1e-6)
    np.testing.assert_allclose(gx, glogits @ weight, atol=1e-6)
    np.testing.assert_allclose(gweight, glogits.T @ x, atol=1e-6)
    alone, *none = k.linear_cross_entropy(*device, -1, False)
    assert (xp.asnumpy(alone), *none) == (loss, None, None)
    _, gx_alone, none = k.linear_cross_entropy(*device, -1, True, False)  # of a frozen weight
    assert none is None
    np.testing.assert_array_equal(xp.asnumpy(gx_alone), gx)


@given(st.integers(1, 60), st.integers(1, 70), st.integers(1, 9), st.integers(0, 2**32))
def test_embedding_backward(xp, tokens, columns, rows, seed):
    rng = np.random.default_rng(seed)
    g, ids = normal(rng, 2, tokens, columns), rng.integers(-rows, rows, (2, tokens))

    def formula(g, before):
        gweight = before.copy()
        np.add.at(gweight, ids, g)
        return gweight

    def by_kernel(g, before):
        gweight = before.copy()
        k.embedding_backward(g, xp.asarray(ids), gweight)
        return gweight

    check(xp, by_kernel, formula, [g, normal(rng, rows, columns)])


@given(
    st.tuples(st.integers(1, 3), st.integers(1, 40), st.integers(1, 9)),
    st.integers(1, 65),
    st.sampled_from([0, 1, 7, 100]),
    st.integers(0, 9),
    st.integers(0, 2**32),
)
def test_rotary(xp, shape, half, rest, count, seed):
    """Rows of a warp and of a block, all vectors or some, whole or in part, in a new array and in place."""
    rng = np.random.default_rng(seed)
    x, angles = normal(rng, *shape, 2 * half + rest), rng.uniform(0, 7, (shape[1], half))
    table, count = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32), min(count, shape[2])
    check(xp, k.rotary, rotary, [x, table], (count,))
    in_place = xp.asarray(x.copy())
    y = k.rotary(in_place, xp.asarray(table), count, in_place=True)
    assert y is in_place
    np.testing.assert_array_equal(xp.asnumpy(y), xp.asnumpy(k.rotary(xp.asarray(x), xp.asarray(table), count)))


@given(
    st.integers(1, 40),
    st.lists(st.integers(0, 40), min_size=2, max_size=2),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(0, 2**32),
)
def test_cached_attention(xp, time, earlier, groups, shared, seed):
    """The newest queries against a cache with room to spare, heads that share keys and values or do not."""
    rng, ends = np.random.default_rng(seed), np.array(earlier) + time
    q = normal(rng, 2, time, groups * shared, 8)
    keys, values = normal(rng, 2, groups, max(ends) + 2, 8), normal(rng, 2, groups, max(ends) + 2, 8)
    check(xp, k.cached_attention_forward, cached_attention, [q, keys, values], (ends, 0.3))


def test_linear(xp):
    rng = np.random.default_rng(2)
    x, weight, bias, g = normal(rng, 2, 3, 4), normal(rng, 4, 5), normal(rng, 5), normal(rng, 2, 3, 5)
    check(xp, k.linear_forward, lambda x, w, b: x @ w + b, [x, weight, bias])

    def formula(g, x, w, with_bias):
        return g @ w.T, np.einsum("bti,bto->io", x, g), g.sum((0, 1))

    check(xp, k.linear_backward, formula, [g, x, weight], (True,))


@given(st.integers(1, 600), st.integers(1, 1000), st.floats(0.01, 10), st.booleans(), st.integers(0, 2**32))
def test_adamw(xp, size, step, scale, scale_on_device, seed):
    rng = np.random.default_rng(seed)
    arrays = [normal(rng, size) for _ in range(3)] + [np.abs(normal(rng, size))]
    settings = (1e-2, 0.9, 0.99, 1e-8, 0.1, step)
    device = [xp.asarray(a) for a in arrays]
    scale = float(np.float32(scale))
    given_scale = xp.asarray(np.array(scale, np.float32)) if scale_on_device else scale
    assert k.adamw_update(*([x] for x in device), AdamWOptions(*settings, given_scale)) is None
    reference, plain = adamw(*map(in_double, arrays), *settings, scale), adamw(*arrays, *settings, scale)
    for got, want, usual in zip([device[0], *device[2:]], reference, plain, strict=True):
        assert_accurate(xp.asnumpy(got), want, usual)
    np.testing.assert_array_equal(xp.asnumpy(device[1]), arrays[1])


# ---- the interface -------------------------------------------------------------------------------------------------


def test_cpu_and_cuda_offer_the_same_functions():
    assert sorted(kernels.cpu.__all__) == sorted(k.__all__)
    for name in k.__all__:
        assert inspect.signature(getattr(kernels.cpu, name)) == inspect.signature(getattr(k, name)), name


def test_empty_arrays(xp):
    x, weight = xp.zeros((0, 4), dtype=np.float32), xp.ones(4, dtype=np.float32)
    for y in (k.softmax_forward(x), k.log_softmax_forward(x), k.gelu_forward(x), k.dropout(x, DropoutOptions(0.5, 1))):
        assert y.shape == (0, 4)
    gx, gweight, gbias = k.layer_norm_backward(x, weight, (x, x[:, :1], x[:, :1]))
    assert gx.shape == (0, 4)
    assert not xp.asnumpy(gweight).any() | xp.asnumpy(gbias).any()
    y, lse = k.attention_forward(xp.zeros((2, 0, 3, 2, 4), dtype=np.float32), 1.0)
    assert (y.shape, lse.shape) == ((2, 0, 2, 4), (2, 2, 0))
    k.embedding_backward(x, xp.zeros(0, dtype=np.int64), x)
    assert k.rotary(xp.zeros((2, 0, 3, 4), dtype=np.float32), x.reshape(0, 2, 2), 2).shape == (2, 0, 3, 4)
    assert k.swiglu_backward(k.swiglu_forward(x), x).shape == (0, 4)
    gx, gweight = k.rms_norm_backward(x, weight, k.rms_norm_forward(x, weight, 1e-5)[1])
    assert gx.shape == (0, 4)
    assert not xp.asnumpy(gweight).any()


def test_gradients_need_not_be_contiguous(xp):
    rng = np.random.default_rng(3)
    y, g = normal(rng, 4, 6), normal(rng, 6, 4)
    got = k.softmax_backward(xp.asarray(g).T, xp.asarray(y))
    np.testing.assert_allclose(xp.asnumpy(got), softmax_backward(g.T, y, 1), atol=1e-6)


def zeros(xp, *shape, dtype=np.float32):
    return xp.zeros(shape, dtype=dtype)


MISTAKES = {
    "float64": (lambda xp: k.softmax_forward(zeros(xp, 2, 2, dtype=np.float64)), "dtype float64"),
    "numpy array": (lambda xp: k.gelu_forward(np.zeros(3, np.float32)), "on a GPU"),
    "head size": (
        lambda xp: k.attention_forward(zeros(xp, 1, 2, 3, 1, 129), 1.0),
        "head size 129: must be at most 128",
    ),
    "gradient layout": (
        lambda xp: k.embedding_backward(zeros(xp, 2, 3), zeros(xp, 2, dtype=np.int64), zeros(xp, 3, 5).T),
        "gweight must be contiguous",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_named_in_one_sentence(xp, mistake):
    call, message = MISTAKES[mistake]
    with pytest.raises(KernelArgumentError) as raised:
        call(xp)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


# ---- the checked build: no race, nothing out of bounds, the same bits in any order ---------------------------------


MASK = DropoutOptions(0.25, SEED, first_row=2**32 - 3)


def every_kernel(xp):
    """Call each kernel once on small odd shapes, rows by warps and by blocks; all results in one list."""
    rng = np.random.default_rng(4)

    def draw(*shape):
        return xp.asarray(normal(rng, *shape))

    results = []
    for columns in (5, 300):
        x, g, weight = draw(5, columns), draw(5, columns), draw(columns)
        targets = xp.asarray(rng.integers(-1, columns, 5))
        y = k.softmax_forward(x, 0.5, True)
        log_y = k.log_softmax_forward(x)
        results += [y, log_y, k.softmax_backward(g, y, 0.5), k.log_softmax_backward(g, log_y), k.dropout(x, MASK)]
        normed, saved = k.layer_norm_forward(x, weight, weight, 1e-5)
        results += [normed, *k.layer_norm_backward(g, weight, saved)]
        *sums, saved = k.add_layer_norm_forward(x, g, weight, weight, None, 1e-5)
        results += [*sums, *k.layer_norm_backward(g, weight, saved, x), k.bias_add(x, g, weight), k.sum_rows(g)]
        results += k.bias_add_backward(g, np.dtype(np.float16), True)
        square = draw(columns, columns)
        y, saved = k.gelu_linear_forward(x, weight, square, weight)
        results += [y, *k.gelu_linear_backward(g, x, weight, square, saved, True)]
        losses, lse = k.cross_entropy_forward(x, targets, -1)
        results += [losses, lse, k.cross_entropy_backward(xp.ones((), dtype=np.float32), x, targets, lse, -1)]
        gweight = draw(columns, columns)
        k.embedding_backward(g, targets, gweight)
        results += [gweight, k.gelu_forward(x), k.gelu_backward(g, x)]
        vectors, table = draw(2, 3, 5, 2 * columns), draw(3, 2, columns)
        results += [k.rotary(vectors, table, 3), k.rotary(vectors, table, 4, in_place=True)]
        results += [k.rotary(vectors, table[:, :, : columns // 2], 4)]
        normed, saved = k.rms_norm_forward(x, weight, 1e-5)
        results += [normed, *k.rms_norm_backward(g, weight, saved)]
        halves = draw(5, 2 * columns)
        results += [k.swiglu_forward(halves), k.swiglu_backward(g, halves)]
    param, m, v = draw(300), draw(300), xp.zeros(300, dtype=np.float32)
    for step, grad_scale in enumerate((xp.ones((), dtype=np.float32), 0.5), start=1):
        k.adamw_update([param], [draw(300)], [m], [v], AdamWOptions(0.1, 0.9, 0.99, 1e-8, 0.1, step, grad_scale))
    copies = [xp.empty(x.shape, dtype=np.float16) for x in (param, m)]
    k.round_tensors([param, m], copies)
    results += [*copies, *k.gradient_norm([param, m, v], 1 << 14)]
    q, cache, ends = draw(2, 1, 4, 5), draw(2, 2, 140, 5), np.array([7, 140])
    results.append(k.cached_attention_forward(q, cache, cache, ends, 0.5))
    return [*results, param, m, v, *attention_both_ways(draw, 70, 5)]


def attention_both_ways(draw, T, D):
    """Two heads, and two groups of two."""
    results = []
    for qkv, g, groups in ((draw(1, T, 3, 2, D), draw(1, T, 2, D), None), (draw(1, T, 8, D), draw(1, T, 4, D), 2)):
        y, lse = k.attention_forward(qkv, 0.5, MASK, groups)
        results += [y, lse, k.attention_backward(g, qkv, y, lse, 0.5, MASK, groups)]
    return results


@pytest.fixture(scope="module")
def emulated():
    try:
        return tt.device("emulated").xp
    except tt.DeviceError as error:
        pytest.skip(str(error))


def test_the_same_bits_in_ten_orders_of_threads_and_no_fault_in_any(emulated):
    results = []
    for seed in range(10):
        with checks.checked(seed):
            results.append(b"".join(emulated.asnumpy(a).tobytes() for a in every_kernel(emulated)))
    assert results == results[:1] * 10


def test_kernels_are_as_accurate_with_a_gpus_rounding(emulated):
    with gpu_rounding():
        test_softmax.hypothesis.inner_test(emulated, "normal", 5, 300, seed=1)
        test_layer_norm.hypothesis.inner_test(emulated, 7, 130, True, seed=1)
        test_gelu.hypothesis.inner_test(emulated, [3, 5], 3.0, seed=1)
        test_attention.hypothesis.inner_test(emulated, "normal", (1, 70, 2), 64, 0.3, seed=1)
        # 9e-39 is a denormal number: a GPU takes it for zero, so the row's weights are equal
        y = k.softmax_forward(emulated.asarray(np.array([[9e-39, 0.0]], np.float32)), 1e38)
    assert y.tolist() == [[0.5, 0.5]]


@pytest.mark.parametrize("D", [64, 127])
def test_wide_heads_under_the_checked_build(emulated, D):
    rng = np.random.default_rng(D)
    with checks.checked(D):
        results = attention_both_ways(lambda *shape: emulated.asarray(normal(rng, *shape)), 66, D)
    assert all(np.isfinite(emulated.asnumpy(a)).all() for a in results)

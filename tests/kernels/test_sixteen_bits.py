"""The CUDA kernels on float16 and bfloat16, with the formulas and the rule of `test_cuda_kernels.py`.

The reference is the formula in float64 of the same 16-bit numbers; the formula in float32, its results rounded to 16
bits where the kernel stores as many, shows what accuracy is possible, and a kernel's error may be at most twice that.
"""

import numpy as np
import pytest

import kernels.cuda as k
import tinytensor as tt
from kernels.cuda.launch import KernelArgumentError
from kernels.cuda.products import multiply, product
from kernels.dtypes import is_sixteen_bit
from kernels.emulator import checks
from kernels.namespace import named_dtype
from kernels.options import DropoutOptions
from tests.kernels import test_cuda_kernels as formulas

DEVICES = ["emulated", pytest.param("cuda", marks=pytest.mark.gpu)]
DTYPES = ["float16", "bfloat16"]


@pytest.fixture(scope="module", params=DEVICES)
def xp(request):
    try:
        return tt.device(request.param).xp
    except tt.DeviceError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module", params=DTYPES)
def dtype(request):
    pytest.importorskip("ml_dtypes")
    return named_dtype(request.param)


def layer_norm_backward(g, weight, *saved):
    return k.layer_norm_backward(g, weight, saved)


def rms_norm_backward(g, weight, *saved):
    return k.rms_norm_backward(g, weight, saved)


def linear_backward_formula(g, x, weight, with_bias):
    return g @ weight.T, x.T @ g, g.sum(0)


# kernel, formula, arguments drawn by letters (16-bit numbers in the shapes of r rows and c columns, float32 in
# capitals), further arguments of both
CASES = {
    "softmax": (k.softmax_forward, formulas.softmax, ["rc"], (0.5, False)),
    "softmax_backward": (k.softmax_backward, formulas.softmax_backward, ["rc", "rc"], (0.5,)),
    "log_softmax": (k.log_softmax_forward, formulas.log_softmax, ["rc"], ()),
    "log_softmax_backward": (k.log_softmax_backward, formulas.log_softmax_backward, ["rc", "rc"], ()),
    "layer_norm": (formulas.layer_norm_by_kernel, formulas.layer_norm, ["rc", "c", "c"], (1e-5,)),
    "layer_norm_backward": (layer_norm_backward, formulas.layer_norm_backward, ["rc", "c", "rc", "R", "R"], ()),
    "rms_norm": (formulas.rms_norm_by_kernel, formulas.rms_norm, ["rc", "c"], (1e-5,)),
    "rms_norm_backward": (rms_norm_backward, formulas.rms_norm_backward, ["rc", "c", "rc", "R"], ()),
    "gelu": (k.gelu_forward, formulas.gelu, ["rc"], ()),
    "gelu_backward": (k.gelu_backward, formulas.gelu_backward, ["rc", "rc"], ()),
    "swiglu": (k.swiglu_forward, formulas.swiglu, ["rcc"], ()),
    "swiglu_backward": (k.swiglu_backward, formulas.swiglu_backward, ["rc", "rcc"], ()),
    "linear": (lambda x, w: k.linear_forward(x, w, None), lambda x, w: x @ w, ["rc", "cr"], ()),
    "linear_backward": (k.linear_backward, linear_backward_formula, ["rr", "rc", "cr"], (True,)),
}


def draw(rng, letters, sizes, dtype):
    """Normal numbers of 16 bits, or for capitals float32: RC the residual stream, R what a norm saves of each row."""
    if letters == "R":
        return rng.uniform(0.5, 1.5, (sizes["r"], 1)).astype(np.float32)
    if letters == "RC":
        return rng.standard_normal((sizes["r"], sizes["c"])).astype(np.float32)
    shape = [sizes[letter] for letter in letters]
    if letters == "rcc":
        shape = [sizes["r"], 2 * sizes["c"]]
    return rng.standard_normal(shape).astype(np.float32).astype(dtype)


def wide(x, dtype=np.float32):
    return x.astype(dtype) if isinstance(x, np.ndarray) and x.dtype.kind not in "iu" else x


def assert_accurate(xp, kernel, formula, args, extra=()):
    reference = formulas.as_tuple(formula(*(wide(a, np.float64) for a in args), *extra))
    plain = formulas.as_tuple(formula(*map(wide, args), *extra))
    results = formulas.as_tuple(kernel(*(formulas.to_device(xp, a) for a in args), *extra))
    for got, want, usual in zip(results, reference, plain, strict=True):
        got = xp.asnumpy(got)
        usual = usual.astype(got.dtype).astype(np.float64)
        error, usual_error = np.abs(got.astype(np.float64) - want).max(), np.abs(usual - want).max()
        assert error <= 2 * usual_error + 1e-6 * np.abs(want).max(), (error, usual_error, got.dtype)
    return [xp.asnumpy(result).dtype for result in results]


@pytest.mark.parametrize(("rows", "columns"), [(5, 70), (3, 2500)])
@pytest.mark.parametrize("name", CASES)
def test_errors_are_those_of_rounding(xp, dtype, name, rows, columns):
    """Rows of a warp and of a block; what is stored for each element has 16 bits, sums have 32."""
    kernel, formula, letters, extra = CASES[name]
    rng, sizes = np.random.default_rng(rows), {"r": rows, "c": columns}
    args = [draw(rng, shape, sizes, dtype) for shape in letters]
    first, *others = assert_accurate(xp, kernel, formula, args, extra)
    assert first == dtype
    assert not any(map(is_sixteen_bit, others))


# kernel, formula, arguments: 16-bit numbers, or float32 in capitals; whether each result has 16 bits, else float32
STREAM_CASES = {
    "layer_norm": (formulas.layer_norm_by_kernel, formulas.layer_norm, ["RC", "c", "c"], (1e-5,), [True, False, False]),
    "layer_norm_backward": (
        lambda g, weight, added, *saved: k.layer_norm_backward(g, weight, saved, added),
        lambda g, weight, added, *saved: with_added(added, *formulas.layer_norm_backward(g, weight, *saved)),
        ["rc", "c", "RC", "RC", "R", "R"],
        (),
        [False, False, False],
    ),
    "add_layer_norm": (
        lambda *arrays: k.add_layer_norm_forward(*arrays)[:2],
        lambda x, added, bias, *norm: (x + added + bias, formulas.layer_norm(x + added + bias, *norm)[0]),
        ["RC", "rc", "c", "c", "c"],
        (1e-5,),
        [False, True],
    ),
    "rms_norm": (formulas.rms_norm_by_kernel, formulas.rms_norm, ["RC", "c"], (1e-5,), [True, False]),
    "rms_norm_backward": (rms_norm_backward, formulas.rms_norm_backward, ["rc", "c", "RC", "R"], (), [False, False]),
    "bias_add": (k.bias_add, lambda x, added, bias: x + added + bias, ["RC", "rc", "c"], (), [False]),
}


def with_added(added, gx, *vectors):
    return added + gx, *vectors


@pytest.mark.parametrize(("rows", "columns"), [(5, 70), (3, 2500)])
@pytest.mark.parametrize("name", STREAM_CASES)
def test_a_residual_stream_of_float32_loses_nothing(xp, dtype, name, rows, columns):
    """Beside branches of 16 bits, the stream and its gradient have the error of float32."""
    kernel, formula, letters, extra, sixteen_bits = STREAM_CASES[name]
    rng, sizes = np.random.default_rng(rows), {"r": rows, "c": columns}
    args = [draw(rng, shape, sizes, dtype) for shape in letters]
    assert assert_accurate(xp, kernel, formula, args, extra) == [dtype if s else np.float32 for s in sixteen_bits]


def test_attention(xp, dtype):
    rng = np.random.default_rng(1)
    qkv, g = (rng.standard_normal((1, 37, *shape, 24)).astype(np.float32).astype(dtype) for shape in ((3, 2), (2,)))
    options, mask = (24**-0.5, DropoutOptions(0.2, formulas.SEED)), (24**-0.5, formulas.attention_mask(1, 37, 2, 0.2))
    y, lse = formulas.attention(wide(qkv), *mask)
    y = y.astype(dtype)
    assert_accurate(
        xp,
        lambda *args: k.attention_backward(*args, *options),
        lambda *args: formulas.attention_backward(*args, *mask),
        [g, qkv, y, lse],
    )
    got, got_lse = (xp.asnumpy(a) for a in k.attention_forward(xp.asarray(qkv), *options))
    assert (got.dtype, got_lse.dtype) == (dtype, np.float32)
    np.testing.assert_allclose(wide(got), wide(y), atol=2 * np.finfo(np.float32).eps + np.abs(wide(y)).max() / 128)


def test_dropout_rotary_and_embedding(xp, dtype):
    rng = np.random.default_rng(2)
    x, table = draw(rng, "rc", {"r": 6, "c": 40}, dtype), rng.uniform(-1, 1, (3, 2, 4)).astype(np.float32)
    mask = formulas.dropout_mask(formulas.SEED, 6, 40, 0.25)
    options = DropoutOptions(0.25, formulas.SEED)
    assert_accurate(xp, lambda x: k.dropout(x, options), lambda x: (x * mask).astype(x.dtype), [x])
    vectors = x.reshape(2, 3, 5, 8)
    assert_accurate(xp, lambda x, table: k.rotary(x, table, 4), lambda x, t: formulas.rotary(x, t, 4), [vectors, table])
    gweight, ids = xp.ones((4, 40), dtype=np.float32), np.array([0, 2, 2, 3, 3, 3])
    k.embedding_backward(xp.asarray(x), xp.asarray(ids), gweight)
    want = np.ones((4, 40))
    np.add.at(want, ids, wide(x, np.float64))
    np.testing.assert_allclose(xp.asnumpy(gweight), want, atol=1e-6)


@pytest.mark.parametrize("block_bytes", [600, 2**26])
def test_linear_cross_entropy(xp, dtype, monkeypatch, block_bytes):
    """In one block of rows and in several; gradients of a mean over many rows are not lost in float16."""
    monkeypatch.setattr("kernels.cuda.cross_entropy.LOGITS_BYTES", block_bytes)
    rng, rows = np.random.default_rng(3), 37
    x, weight, targets = draw(rng, "rc", {"r": rows, "c": 8}, dtype), draw(rng, "rc", {"r": 20, "c": 8}, dtype), None
    targets = rng.integers(-1, 20, rows)

    def formula(x, weight):
        def stored(a):
            return a if a.dtype == np.float64 else a.astype(dtype).astype(np.float32)

        logits, count = stored(x @ weight.T), (targets != -1).sum()
        losses, lse = formulas.cross_entropy(logits, targets, -1)
        glogits = stored(formulas.cross_entropy_backward(logits.dtype.type(1), logits, targets, lse, -1))
        return losses.sum() / count, glogits @ weight / count, glogits.T @ x / count

    def kernel(x, weight):
        return k.linear_cross_entropy(x, weight, xp.asarray(targets), -1, True)

    assert set(assert_accurate(xp, kernel, formula, [x, weight])) == {np.dtype(np.float32)}


@pytest.mark.parametrize("transposed", [(False, False), (True, False), (False, True), (True, True)])
def test_products_in_float32_and_in_16_bits(xp, dtype, transposed):
    rng = np.random.default_rng(4)
    a, b = (rng.integers(-8, 8, shape).astype(np.float32) for shape in ((7, 5), (5, 9)))  # exact in any dtype
    left, right = (
        xp.asarray(np.ascontiguousarray(x.T).astype(dtype)).T if turned else xp.asarray(x.astype(dtype))
        for x, turned in zip((a, b), transposed, strict=True)
    )
    out = product(left, right)
    np.testing.assert_array_equal(xp.asnumpy(out), a @ b)
    assert product(left, right, out, add=True) is out
    np.testing.assert_array_equal(xp.asnumpy(out), 2 * (a @ b))
    np.testing.assert_array_equal(xp.asnumpy(product(left[:, 1:3], right[1:3], out)), a[:, 1:3] @ b[1:3])
    assert not xp.asnumpy(product(left[:, :0], right[:0], out)).any()
    rounded = multiply(left, right)
    assert rounded.dtype == left.dtype
    np.testing.assert_array_equal(xp.asnumpy(rounded), (a @ b).astype(dtype))


def test_the_checked_build_finds_no_fault(dtype):
    emulated = tt.device("emulated").xp
    rng = np.random.default_rng(5)
    with checks.checked(1):
        for name, (kernel, _, letters, extra, *_) in [*CASES.items(), *STREAM_CASES.items()]:
            args = [emulated.asarray(draw(rng, shape, {"r": 3, "c": 67}, dtype)) for shape in letters]
            for result in formulas.as_tuple(kernel(*args, *extra)):
                assert np.isfinite(wide(emulated.asnumpy(result))).all(), name


def test_dtypes_of_one_call_must_agree(xp, dtype):
    x = xp.asarray(np.zeros((2, 3), dtype))
    other = xp.zeros((2, 3), dtype=np.float32)
    with pytest.raises(TypeError, match=f"g has dtype float32: must be {dtype}, as x is"):
        k.gelu_backward(other, x)
    with pytest.raises(TypeError, match=f"rms_norm: weight has dtype float32: must be {dtype}, as x is"):
        k.rms_norm_forward(x, other[0], 1e-5)  # only the residual stream may be float32 beside 16 bits
    with pytest.raises(KernelArgumentError, match="must be of two 16-bit arrays"):
        product(x, other.T)

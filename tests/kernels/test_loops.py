"""The compiled loops against the NumPy passes they stand for, in float64 where there is a choice."""

import importlib
import inspect
import itertools
import pkgutil
import shutil
import subprocess
import sys
from pathlib import Path

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

import kernels.cpu
import tinytensor as tt
from gpt.model import GPT, GPTConfig
from kernels.cpu import compiled, linear
from kernels.cpu.adamw import Coefficients
from kernels.cpu.attention import Part, PassOptions
from kernels.cpu.muon import Coefficients as MuonCoefficients
from kernels.cpu.packed import pack
from kernels.newton_schulz import POLYNOMIALS

loops = pytest.importorskip("kernels.cpu.loops", reason="needs numba: pip install -e '.[fast]'")
import numba  # noqa: E402

from kernels.cpu.loops import fastmath, jit, products  # noqa: E402

ROWS, COLUMNS = st.integers(1, 40), st.sampled_from([1, 2, 15, 16, 17, 64, 100])


def passes() -> dict:
    """{name: NumPy pass} of everything in kernels.cpu that `compiled` chooses for."""
    modules = [importlib.import_module(f"kernels.cpu.{m.name}") for m in pkgutil.iter_modules(kernels.cpu.__path__)]
    functions = [f for module in modules for f in vars(module).values() if inspect.isfunction(f)]
    return {f.__name__: f.__wrapped__ for f in functions if f.__name__.endswith("_pass")}


PASSES = passes()


def random(seed, *shapes, positive=()):
    """float32 arrays of these shapes; those whose index is in `positive` are not negative."""
    rng = np.random.default_rng(seed)
    arrays = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
    return [abs(a) if i in positive else a for i, a in enumerate(arrays)]


def softmax_arguments(rows, columns, variant):
    (x,) = random(rows * columns, (rows, columns))
    return x, x.max(axis=1) if variant else None


def gelu_arguments(rows, columns, variant):
    x, y = random(columns, *[(rows * columns,)] * 2)
    return 3 * x, y


def gelu_backward_arguments(rows, columns, variant):
    g, x, gx = random(columns, *[(rows * columns,)] * 3)
    return g, 3 * x, gx


def layer_norm_arguments(rows, columns, variant):
    shape = rows, columns
    x, weight, bias, y, normed = random(columns, shape, columns, columns, shape, shape)
    return (x + 3, weight, bias, 1e-5, y, normed) if variant else (x + 3, weight, None, 1e-5, y, None)


def layer_norm_backward_arguments(rows, columns, variant):
    shape = rows, columns
    shapes = shape, columns, shape, columns, (rows, 1), shape
    g, weight, stored, inverse, rstd, gx = random(columns, *shapes, positive=[4])
    return g, weight, stored, inverse if variant else None, rstd, gx


def rms_norm_arguments(rows, columns, variant):
    x, weight, y = random(columns, (rows, columns), columns, (rows, columns))
    return x + 3 * variant, weight, 1e-5, y


def rms_norm_backward_arguments(rows, columns, variant):
    shape = rows, columns
    return tuple(random(columns, shape, columns, shape, (rows, 1), shape, positive=[3]))


def swiglu_arguments(rows, columns, variant):
    x, y = random(columns, (rows, 2 * columns), (rows, columns))
    return 3 * x, y


def swiglu_backward_arguments(rows, columns, variant):
    g, x, gx = random(columns, (rows, columns), *[(rows, 2 * columns)] * 2)
    return g, 3 * x, gx


def adamw_arguments(rows, columns, variant):
    param, grad, m, v = random(columns, *[(rows * columns,)] * 4, positive=[3])
    return param, grad, 0.1 * m, 1e-4 * v, Coefficients(0.5 if variant else 1.0, 0.9, 0.999, 0.99, 1.0, 1e-2)


def muon_arguments(rows, columns, variant):
    """Matrices in one block or, so that the blocks are tall and wide, in three columns or rows."""
    blocks = (1, 1) if not variant else (1, 3) if rows % 2 else (3, 1)
    shape = blocks[0] * rows, blocks[1] * columns
    param, grad, momentum = random(columns, shape, shape, shape)
    # twice the second polynomial: the first one's large coefficients would hide mistakes behind rounding
    return param, grad, momentum, MuonCoefficients(0.5, 0.9, 0.99, 0.1, blocks), 2 * POLYNOMIALS[1:]


def attention_arguments(rows, columns, variant):
    """A part of the batch and of the heads of attention over `rows` tokens; with dropout, or queries in twos."""
    heads, groups = (4, 4) if variant else (4, 2)
    qkv, y, lse = random(rows, (3, rows, heads + 2 * groups, columns), (3, rows, heads, columns), (3, heads, rows))
    options = PassOptions(columns**-0.5, 0.3 * variant, np.uint64(2**63 + rows), 2**32 - 5)
    return qkv, Part(1, 3, 0, 4 - variant), options, y, lse


def attention_backward_arguments(rows, columns, variant):
    qkv, part, options, *saved = attention_arguments(rows, columns, variant)
    PASSES["attention_forward_pass"](qkv, part, options, *saved)
    g, gqkv = random(columns, saved[0].shape, qkv.shape)
    return g, qkv, part, options, tuple(saved), gqkv


def rotary_arguments(rows, columns, variant):
    """Some or all of 3 vectors rotated, but for their ends; rows that begin within a text and may go on to the next."""
    half = -(-columns // 2)
    x, table = random(rows, (rows, 3, 2 * half + rows % 3), (rows // 2 + 1, 2, half))
    return x, table, 3 - variant, rows // 3


def product_arguments(rows, columns, variant):
    """Matrices as they are or transposed; `add` and `tiled` in each combination."""
    inner = 3 * rows * columns % 530 + 1
    a, b, out = random(rows, (inner, 9 * rows), (columns, inner), (9 * rows, columns))
    return a.T if rows % 2 else a.T.copy(), b.T if rows % 3 else b.T.copy(), out, variant, columns % 2 == 0


def cached_attention_arguments(rows, columns, variant):
    """The newest of up to `rows` tokens of three texts, one or some, two heads of queries to each of keys."""
    time = 1 if variant else -(-rows // 2)
    q, keys, values, y = random(rows, (3, time, 4, columns), *[(3, 2, rows + 3, columns)] * 2, (3, time, 4, columns))
    ends = np.array([rows, time, (rows + time + 1) // 2])
    return q, keys, values, Part(1, 3, 1 - variant, 2), ends, columns**-0.5, y


def packed_linear_arguments(rows, columns, variant):
    """Weights of each kind, some of their outputs."""
    x, weight, y = random(rows, (rows % 11 + 1, columns), (rows + 2, columns), (rows % 11 + 1, rows + 2))
    packed = pack(weight, ("int8", "bfloat16")[rows % 2] if variant else "float32")
    return x, *packed, 1, rows + 1, y


def keep_arguments(rows, columns, variant):
    key = np.random.default_rng(rows).integers(0, 2**32, rows, dtype=np.uint32)
    return key, np.arange(columns, dtype=np.uint32), np.uint32(2**32 - 1 if variant else 0.2 * 2**32)


ARGUMENTS = {
    "softmax_pass": softmax_arguments,
    "gelu_pass": gelu_arguments,
    "gelu_backward_pass": gelu_backward_arguments,
    "layer_norm_pass": layer_norm_arguments,
    "layer_norm_backward_pass": layer_norm_backward_arguments,
    "rms_norm_pass": rms_norm_arguments,
    "rms_norm_backward_pass": rms_norm_backward_arguments,
    "swiglu_pass": swiglu_arguments,
    "swiglu_backward_pass": swiglu_backward_arguments,
    "adamw_pass": adamw_arguments,
    "product_pass": product_arguments,
    "muon_pass": muon_arguments,
    "attention_forward_pass": attention_arguments,
    "attention_backward_pass": attention_backward_arguments,
    "rotary_pass": rotary_arguments,
    "cached_attention_pass": cached_attention_arguments,
    "packed_linear_pass": packed_linear_arguments,
    "keep_pass": keep_arguments,
}


def test_every_pass_has_a_loop_with_its_arguments_and_a_test():
    """So that a pass added to the primitives cannot go without."""
    own = {name: f for name, f in vars(loops).items() if name.endswith("_pass")}
    assert PASSES.keys() == own.keys() == ARGUMENTS.keys()
    for name, numpy_pass in PASSES.items():
        assert list(inspect.signature(numpy_pass).parameters) == list(inspect.signature(own[name].py_func).parameters)


def run(function, arguments, dtype):
    """Everything that the pass writes or returns, for copies of its arguments with floats turned into `dtype`."""
    dtypes = {np.dtype(np.float32): dtype}

    def copied(a):
        if type(a) is tuple:
            return tuple(map(copied, a))
        return a.astype(dtypes.get(a.dtype, a.dtype), "K") if isinstance(a, np.ndarray) else a

    copies = [copied(a) for a in arguments]
    results = function(*copies)
    results = results if isinstance(results, tuple) else (results,)
    return [a for a in (*copies, *results) if isinstance(a, np.ndarray)]


@pytest.mark.parametrize("name", ARGUMENTS)
@hypothesis.given(ROWS, COLUMNS, st.booleans())
def test_a_loop_is_as_exact_as_its_numpy_pass(name, rows, columns, variant):
    arguments = ARGUMENTS[name](rows, columns, variant)
    exact = run(PASSES[name], arguments, np.float64)
    plain = run(PASSES[name], arguments, np.float32)
    looped = run(getattr(loops, name), arguments, np.float32)
    largest = max((abs(a).max() for a in exact if a.dtype.kind == "f"), default=0)
    for want, usual, got in zip(exact, plain, looped, strict=True):
        assert (got.shape, got.dtype) == (want.shape, usual.dtype)
        if want.dtype.kind == "f":
            assert abs(got - want).max() <= 2 * abs(usual - want).max() + 4 * np.finfo(np.float32).eps * largest
        else:
            np.testing.assert_array_equal(got, want)


def softmax_of(values):
    x = np.array([values], np.float32)
    loops.softmax_pass(x, None)
    return x[0]


@numba.njit(**jit.OPTIONS | {"cache": False})
def exponentials(x):
    """exp as it is inside a loop."""
    for i in range(x.size):
        x[i] = fastmath.exp(x[i])


def test_exp_is_within_two_units_of_the_last_place():
    x = np.linspace(-87, 88, 10**6, dtype=np.float32)
    exact = np.exp(x.astype(np.float64))
    exponentials(x)
    assert (abs(x - exact) <= 2 * np.spacing(exact.astype(np.float32))).all()


def test_what_is_not_finite_keeps_its_meaning():
    np.testing.assert_array_equal(softmax_of([0, -np.inf, -1000]), [1, 0, 0])
    assert np.isnan(softmax_of([0, np.nan])).all()
    assert np.isnan(softmax_of([-np.inf, -np.inf])).all()  # no probability anywhere, as in NumPy
    x = np.array([-np.inf, np.nan, np.inf, -1e4, 1e4], np.float32)
    loops.gelu_pass(x, y := np.empty_like(x))
    np.testing.assert_array_equal(y, [np.nan, np.nan, np.inf, 0, 1e4])  # -inf times a weight of 0, as in NumPy


USE_A_LOOP = """
import sys
sys.path.insert(0, {path!r})
import numpy as np
from kernels.cpu.loops import gelu_pass
x = np.ones(1, np.float32)
gelu_pass(x, x)
print(x[0], len(gelu_pass.stats.cache_hits))
"""


def test_a_loop_is_compiled_again_when_a_helper_in_another_file_changes(tmp_path, monkeypatch):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "cache"))
    package = Path(kernels.cpu.__file__).parents[1]
    shutil.copytree(package, tmp_path / "kernels", ignore=shutil.ignore_patterns("__pycache__", "cuda", "emulator"))

    def use_a_loop():
        command = [sys.executable, "-c", USE_A_LOOP.format(path=str(tmp_path))]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()

    gelu, hits = use_a_loop()
    assert (gelu, hits) == ("0.841192", "0")
    assert use_a_loop() == [gelu, "1"]  # from the disk
    helper = tmp_path / "kernels" / "cpu" / "loops" / "fastmath.py"
    source = helper.read_text()
    changed = source.replace("    y = ZERO if x < EXP_LOWEST else y\n", "    y = ZERO\n")
    assert changed != source
    helper.write_text(changed)
    assert use_a_loop() == ["1.0", "0"]  # x / (1 + 0)


def losses(steps=3):
    tt.manual_seed(1)
    model = GPT(GPTConfig(n_layer=2, n_head=2, n_embd=16, block_size=8, vocab_size=11, dropout=0.2))
    optimizer = tt.optim.AdamW(model.parameters(), 1e-2)
    tokens = np.random.default_rng(0).integers(0, 11, (4, 9))
    history = []
    for _ in range(steps):
        loss = model(tokens[:, :-1], tokens[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(float(loss.data))
    return history


def test_training_runs_the_same_without_numba(monkeypatch):
    with_loops = losses()
    asked = []
    monkeypatch.setattr(compiled, "_loops", lambda: asked.append(True))  # which returns None
    np.testing.assert_allclose(losses(), with_loops, rtol=1e-5)
    assert asked


@pytest.mark.parametrize("dtype", [np.float64, np.int32, ">f4"])
def test_what_is_not_float32_is_left_to_numpy(dtype, monkeypatch):
    monkeypatch.setattr(compiled, "_loops", lambda: pytest.fail("loops are for float32"))
    compiled.compiled(abs)(np.ones(3, dtype))


def test_long_sequences_of_wide_heads_take_several_products():
    arguments = attention_arguments(700, 100, False)  # a product takes 312 keys
    for name in ("attention_forward_pass", "attention_backward_pass"):
        if "backward" in name:
            arguments = attention_backward_arguments(700, 100, False)
        exact, looped = run(PASSES[name], arguments, np.float64), run(getattr(loops, name), arguments, np.float32)
        for want, got in zip(exact, looped, strict=True):
            np.testing.assert_allclose(got, want, rtol=0, atol=2e-5)


def test_a_score_that_is_not_a_number_spoils_its_row_and_what_follows():
    qkv, *rest, y, lse = attention_arguments(40, 8, False)
    qkv[1, 35, 0, 3] = np.nan
    loops.attention_forward_pass(qkv, *rest, y, lse)
    assert np.isnan(y[1, 35, 0]).all()
    assert np.isnan(lse[1, 0, 35])
    assert np.isfinite(y[1, :35]).all()
    assert np.isfinite(y[2]).all()


STRANGE = {  # float32 matrices (300, 70) that BLAS could not be told of
    "broadcast over columns": lambda: np.broadcast_to(random(1, (300, 1))[0], (300, 70)),
    "broadcast over rows": lambda: np.broadcast_to(random(1, 70)[0], (300, 70)),
    "overlapping rows": lambda: np.lib.stride_tricks.sliding_window_view(random(1, 369)[0], 70),
    "every second column": lambda: random(1, (300, 140))[0][:, ::2],
    "backwards": lambda: random(1, (300, 70))[0][::-1],
    "columns backwards": lambda: random(1, (300, 70))[0][:, ::-1],
}


@pytest.mark.parametrize("make", STRANGE.values(), ids=STRANGE)
@pytest.mark.parametrize("add", [False, True])
def test_products_of_matrices_that_blas_cannot_be_told_of(make, add, monkeypatch):
    monkeypatch.setattr(linear, "get_splits", lambda: 2)
    strange, (b, out) = make(), random(2, (70, 300), (300, 300))
    for x, y in ((strange, b), (b.T, strange.T), (strange, strange.T)):
        result = out.copy()
        linear.matmul(x, y, result, add)
        expected = x.astype(np.float64) @ y + (out if add else 0)
        # what rounding can add up to in a sum of so many products, in whatever order (Higham 2002, section 3.1)
        bound = (len(y) + 1) * np.finfo(np.float32).eps * (abs(x).astype(np.float64) @ abs(y) + abs(out))
        assert (abs(result - expected) <= bound).all()


@pytest.mark.parametrize("rows", [40, 300])  # as one product, and in tiles
@pytest.mark.parametrize("add", [False, True])
def test_products_of_parts_of_matrices_change_nothing_beside_their_part(rows, add, monkeypatch):
    monkeypatch.setattr(linear, "get_splits", lambda: 2)
    a, b, before = random(rows, (rows + 5, 500), (480, 205), (rows + 9, 210))
    a, b, after = a[2:-3, 7:-13], b[:, 5:-1], before.copy()
    part = slice(4, -5), slice(3, -8)
    linear.matmul(a, b, after[part], add)
    expected = before.astype(np.float64)
    expected[part] = a.astype(np.float64) @ b + (expected[part] if add else 0)
    np.testing.assert_allclose(after, expected, rtol=0, atol=1e-3)
    after[part] = before[part]
    np.testing.assert_array_equal(after, before)


def test_products_with_a_single_row_or_column(monkeypatch):
    monkeypatch.setattr(linear, "get_splits", lambda: 2)
    for rows, inner, columns in itertools.product((1, 300), repeat=3):
        column, row = random(1, (inner, rows), (columns, inner))
        for a, b in ((column.T, row.T), (column.T.copy(), row.T.copy())):  # strides say little where there is one row
            linear.matmul(a, b, out := np.empty((rows, columns), np.float32))
            np.testing.assert_allclose(out, a.astype(np.float64) @ b, rtol=0, atol=1e-3)


def test_strided_and_read_only_arrays():
    (wide,) = random(0, (6, 40))
    x = wide[:, ::2]
    x.flags.writeable = False
    y = kernels.cpu.gelu_forward(x)
    np.testing.assert_allclose(y, kernels.cpu.gelu_forward(x.astype(np.float64)), atol=1e-6)


@pytest.mark.parametrize("limit", [products.BLOCK_N, products.BLOCK_K])
def test_tiles_cover_a_side_in_whole_vectors_within_the_limit(limit):
    for length in range(1, 5000):
        size = products.tile_size(length, limit)
        assert 0 < size <= limit
        assert size % 16 == 0
        assert -(-length // size) == -(-length // limit)  # as few tiles as the limit allows
    assert products.BLOCK_M * products.BLOCK_N * products.BLOCK_K <= products.MAX_SMALL_PRODUCT

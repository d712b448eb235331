"""Attention to a cache as `cached_attention.cu` computes it: values, lengths, parts, bits, launches."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import kernels.cuda as k
from kernels.cuda import cached_attention
from kernels.cuda.launch import KernelArgumentError
from kernels.emulator import checks, gpu_rounding
from kernels.emulator.dry_run import dry_run
from kernels.namespace import named_dtype
from tests.kernels import test_cuda_kernels as formulas
from tests.kernels import test_sixteen_bits as sixteen_bits

SPLIT = cached_attention.SPLIT
normal, xp, emulated = formulas.normal, formulas.xp, formulas.emulated


def draw(rng, ends, time, groups, shared, D, room=2):
    """q, keys, values and ends of texts so long; what is behind a text's own end is NaN."""
    q = normal(rng, len(ends), time, groups * shared, D)
    keys, values = (normal(rng, len(ends), groups, max(ends) + room, D) for _ in "kv")
    for b, end in enumerate(ends):
        keys[b, :, end:] = values[b, :, end:] = np.nan
    return q, keys, values, np.array(ends)


def formula(q, keys, values, ends, scale):
    """Each text alone, up to its end: NaN behind it would reach its products."""
    texts = zip(q, keys, values, ends, strict=True)
    alone = [(q[None], k[None, :, :end], v[None, :, :end], np.array([end])) for q, k, v, end in texts]
    return np.concatenate([formulas.cached_attention(*text, scale) for text in alone])


@given(
    st.integers(1, cached_attention.FEW_QUERIES),
    st.lists(st.integers(0, 20) | st.integers(SPLIT - 10, 3 * SPLIT + 10), min_size=1, max_size=3),
    st.tuples(st.integers(1, 2), st.integers(1, 5)),
    st.sampled_from([8, 33, 64, 128]),
    st.sampled_from([0.3, 30.0]),
    st.integers(0, 2**32),
)
def test_few_tokens(xp, time, earlier, heads, D, scale, seed):
    """One part and several, lengths that differ, one query of a head of keys and tiles of them, every width of head."""
    q, keys, values, ends = draw(np.random.default_rng(seed), [n + time for n in earlier], time, *heads, D)
    formulas.check(xp, k.cached_attention_forward, formula, [q, keys, values], (ends, scale))


@pytest.mark.parametrize("time", [1, 3])
def test_a_text_does_not_depend_on_the_others(xp, time):
    """To the bit, whether the longest of them has as many parts or more."""
    q, keys, values, ends = draw(np.random.default_rng(1), [20, SPLIT + 5, 2 * SPLIT + 1], time, 2, 2, 8)
    q, keys, values = map(xp.asarray, (q, keys, values))
    together = xp.asnumpy(k.cached_attention_forward(q, keys, values, ends, 0.3))
    for b in range(3):
        alone = k.cached_attention_forward(*(x[b : b + 1] for x in (q, keys, values, ends)), 0.3)
        np.testing.assert_array_equal(xp.asnumpy(alone)[0], together[b])


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
@pytest.mark.parametrize("time", [1, 3])
def test_sixteen_bits(xp, name, time):
    pytest.importorskip("ml_dtypes")
    q, keys, values, ends = draw(np.random.default_rng(2), [30, SPLIT + 30], time, 2, 2, 24)
    arrays = [x.astype(named_dtype(name)) for x in (q, keys, values)]
    (dtype,) = sixteen_bits.assert_accurate(xp, k.cached_attention_forward, formula, arrays, (ends, 0.3))
    assert dtype == named_dtype(name)


@pytest.mark.parametrize(("time", "D"), [(1, 33), (3, 24)])
def test_the_same_bits_in_any_order_of_threads_and_no_fault(emulated, time, D):
    q, keys, values, ends = draw(np.random.default_rng(3), [30, SPLIT + 30], time, 1, 2, D)
    arrays, results = [*map(emulated.asarray, (q, keys))], set()
    unwritten = emulated.empty(values.shape, dtype=np.float32)  # reading it behind the ends would be a fault
    for b, end in enumerate(ends):
        unwritten[b, :, :end] = emulated.asarray(values[b, :, :end])
    for seed in range(10):
        with checks.checked(seed):
            y = k.cached_attention_forward(*arrays, unwritten, ends, 0.3)
        results.add(emulated.asnumpy(y).tobytes())
    assert len(results) == 1
    assert np.isfinite(np.frombuffer(results.pop(), np.float32)).all()


def test_as_accurate_with_a_gpus_rounding(emulated):
    q, keys, values, ends = draw(np.random.default_rng(4), [30, SPLIT + 30], 3, 1, 2, 24)
    with gpu_rounding():
        formulas.check(emulated, k.cached_attention_forward, formula, [q, keys, values], (ends, 0.3))


def test_a_token_takes_two_launches_and_no_copy_of_the_cache(emulated):
    """Of queries among the keys and values of their tokens, as the model has them."""
    ends = np.full(4, 3 * SPLIT)
    with dry_run() as operations:
        qkv = emulated.empty((4, 1, 12 + 2 * 12, 64), dtype=np.float32)
        keys, values = (emulated.empty((4, 12, 1024, 64), dtype=np.float32) for _ in "kv")
        k.cached_attention_forward(qkv[:, :, :12], keys, values, ends, 0.125)
    noted = [(o.kind, o.written) for o in operations if o.kind != "kernel"]
    assert sorted(noted) == [("copy", 4 * 4 * 12 * 64), ("transfer", 8 * 4)]  # the queries; the lengths
    launched = [o for o in operations if o.kind == "kernel"]
    assert [o.name for o in launched] == ["cached_attention_parts", "cached_attention_merge"]
    assert launched[0].args["keys"].nbytes == keys.nbytes


def test_a_cache_that_is_not_contiguous_is_refused(xp):
    q, keys = xp.zeros((2, 1, 2, 4), dtype=np.float32), xp.zeros((2, 9, 2, 4), dtype=np.float32).swapaxes(1, 2)
    with pytest.raises(KernelArgumentError, match=r"keys of shape \(2, 2, 9, 4\) is not C-contiguous"):
        k.cached_attention_forward(q, keys, keys, np.array([4, 5]), 0.5)


def test_heads_wider_than_the_kernel_takes_are_left_to_products(xp):
    q, keys, values, ends = draw(np.random.default_rng(5), [30], 1, 1, 2, 130)
    formulas.check(xp, k.cached_attention_forward, formula, [q, keys, values], (ends, 0.1))

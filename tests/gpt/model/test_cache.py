"""The KV cache gives the logits of the model without one: before, at and beyond the block size, also in batches."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinytensor as tt
from gpt.generation.sampling import Sampling
from gpt.generation.stream import generate
from gpt.model import GPT, Bigram, GPTConfig, cache
from gpt.model.cache import Cache, Context, NoCache

VOCABULARY = 13
BOUND = 2e-6  # float32 logits of size 1, cached or not, alone or in a batch
# Logits of size 10. A wrong token or position changes them by far more; float32's rounding, which differs between
# processors, would not leave so clear a gap.
BOUND_FLOAT64 = 1e-10
CONFIGS = st.builds(
    lambda groups, shared, size, half, **rest: GPTConfig(
        VOCABULARY,
        n_head=groups * shared,
        n_kv_head=groups if shared > 1 else 0,
        n_embd=groups * shared * size,
        positions="learned" if size % 2 else "rotary",
        rotary_fraction=0.5 if half and size % 4 == 0 else 1.0,  # of an even number of values
        **rest,
    ),
    groups=st.integers(1, 3),
    shared=st.sampled_from([1, 1, 1, 2, 3]),
    size=st.integers(1, 8),
    block_size=st.integers(1, 24),
    n_layer=st.integers(1, 3),
    bias=st.booleans(),
    activation=st.sampled_from(["gelu", "relu", "gelu_erf", "swiglu"]),
    norm=st.sampled_from(["pre", "post", "output"]),
    norm_layer=st.sampled_from(["layer", "layer", "rms"]),
    qk_norm=st.sampled_from(["none", "none", "head", "full"]),
    half=st.booleans(),
    inverse_layer_scale=st.booleans(),
    tied=st.booleans(),
    dropout=st.just(0.5),  # which must not take part
)


def build(config, seed=1, dtype=np.float32, kind=GPT):
    """A model whose weights are large enough for its choices to be lively; biases too, which start at zero."""
    with tt.seeded(seed, "weights"):
        model = kind(config).eval()
        for parameter in model.parameters():
            noise = tt.randn(*parameter.shape).data
            parameter.data = (5 * parameter.data + 0.1 * noise).astype(dtype)
    return model


def texts(model, ids, tokens, batch=1, **choices):
    """The tokens that the model writes with its cache, and without: (batch, tokens) each."""
    written = []
    for reader in (Cache, NoCache):
        context = Context(model, batch, reader)
        context.append(ids)
        written.append(np.array(list(generate(context, Sampling(tokens=tokens, **choices)))).T)
    return written


@given(CONFIGS, st.integers(0, 999), st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=40))
def test_greedy_tokens_are_the_same_with_and_without_a_cache(config, seed, prompt):
    cached, plain = texts(build(config, seed, np.float64), prompt, tokens=3 * config.block_size, temperature=0.0)
    np.testing.assert_array_equal(cached, plain)


@pytest.mark.parametrize("seed", range(50))
def test_fifty_models_generate_the_same_far_beyond_the_block_size(seed):
    rng = np.random.default_rng(seed)
    heads, layers, block = rng.integers(1, 4), rng.integers(1, 3), rng.integers(2, 40)
    config = GPTConfig(VOCABULARY, block_size=int(block), n_layer=int(layers), n_head=int(heads), n_embd=4 * int(heads))
    prompt = rng.integers(0, VOCABULARY, rng.integers(1, 50))
    cached, plain = texts(build(config, seed, np.float64), prompt, tokens=100, temperature=0.0)
    np.testing.assert_array_equal(cached, plain)


@pytest.mark.parametrize(
    ("positions", "choices"),
    [
        ("learned", {"temperature": 0.0}),
        ("learned", {"temperature": 1.0, "repetition_penalty": 1.3}),
        ("rotary", {"temperature": 1.0}),
    ],
)
def test_five_hundred_tokens_across_the_block_size(positions, choices):
    config = GPTConfig(VOCABULARY, block_size=64, n_layer=2, n_head=2, n_embd=16, positions=positions)
    cached, plain = texts(build(config), [1, 2, 3], tokens=500, **choices)
    np.testing.assert_array_equal(cached, plain)
    assert len(set(cached[0].tolist())) > 1


@given(CONFIGS, st.integers(1, 4), st.data())
def test_logits_are_within_the_bound_alone_and_in_a_batch(config, batch, data):
    # float64 for those in which small heads are normalized, which magnifies rounding
    model = build(config, dtype=np.float32 if config.like_gpt2 else np.float64)
    ids = np.array(
        data.draw(st.lists(st.lists(st.integers(0, 12), min_size=9, max_size=9), min_size=batch, max_size=batch))
    )
    together, alone = Context(model, batch), [Context(model) for _ in range(batch)]
    for cut in (slice(0, 4), slice(4, 5), slice(5, 9)):
        together.append(ids[:, cut])
        for context, row in zip(alone, ids, strict=True):
            context.append(row[cut])
        plain = np.concatenate([NoCache(model, 1).logits(context.ids) for context in alone])
        bound = BOUND * max(1, abs(plain).max())
        np.testing.assert_allclose(together.logits(), plain, rtol=0, atol=bound)
        np.testing.assert_allclose(np.concatenate([c.logits() for c in alone]), plain, rtol=0, atol=bound)


@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_a_long_prompt_is_read_in_chunks(monkeypatch, positions):
    model = build(GPTConfig(VOCABULARY, block_size=40, n_layer=2, n_head=2, n_embd=8, positions=positions))
    ids = np.random.default_rng(0).integers(0, VOCABULARY, 37)
    monkeypatch.setattr(cache, "PREFILL_CHUNK", 5)
    context = Context(model)
    context.append(ids)
    plain = NoCache(model, 1).logits(ids[None])
    np.testing.assert_allclose(context.logits(), plain, rtol=0, atol=BOUND * max(1, abs(plain).max()))


def test_the_buffers_grow_with_the_text(monkeypatch):
    monkeypatch.setattr(cache, "FIRST_CAPACITY", 4)
    model = build(GPTConfig(VOCABULARY, block_size=30, n_layer=2, n_head=4, n_kv_head=2, n_embd=16, positions="rotary"))
    cached, plain = texts(model, [1, 2, 3], tokens=50, batch=2)
    np.testing.assert_array_equal(cached, plain)
    context, capacities = Context(model), []
    for length in (3, 1, 1, 12, 12):
        context.append([1] * length)
        context.logits()
        capacities += [keys.shape[2] for keys, _ in context.reader.layers]
    assert capacities == [4, 4, 4, 4, 8, 8, 30, 30, 30, 30]


def test_a_full_window_keeps_its_newest_half_and_a_longer_addition_as_much_as_fits():
    context = Context(build(GPTConfig(VOCABULARY, block_size=8, n_layer=1, n_head=1, n_embd=4)))
    lengths = []
    for token in range(13):
        context.append([token])
        lengths.append(context.ids.shape[1])
    assert lengths == [1, 2, 3, 4, 5, 6, 7, 8, 4, 5, 6, 7, 8]
    assert context.ids.tolist() == [[*range(5, 13)]]
    context.append(range(6))
    assert context.ids.tolist() == [[*range(6)]]
    context.append(np.arange(20) % 13)
    assert context.ids.tolist() == [[12, 0, 1, 2, 3, 4, 5, 6]]


def test_nothing_is_computed_twice_until_the_window_is_full():
    model = build(GPTConfig(VOCABULARY, block_size=8, n_layer=1, n_head=1, n_embd=4))
    context, read = Context(model), []
    original = context.reader.forward
    context.reader.forward = lambda ids: read.append(ids.shape[1]) or original(ids)
    context.append([1, 2, 3])
    for _ in range(10):
        context.logits()
        context.append([4])
    assert read == [3, 1, 1, 1, 1, 1, 4, 1, 1, 1]
    before = [keys.ctypes.data for keys, _ in context.reader.layers]
    context.logits()
    assert [keys.ctypes.data for keys, _ in context.reader.layers] == before  # the buffers of the beginning


@given(st.lists(st.one_of(st.lists(st.integers(0, 12), min_size=1, max_size=6), st.integers(1, 9)), max_size=12))
def test_dropped_tokens_leave_no_trace(changes):
    model = build(GPTConfig(VOCABULARY, block_size=8, n_layer=2, n_head=2, n_embd=8), dtype=np.float64)
    cached, plain = Context(model), Context(model, reader=NoCache)
    for change in [[7], *changes]:
        for context in (cached, plain):
            if isinstance(change, int):
                context.drop(min(change, context.ids.shape[1] - 1))
            else:
                context.append(change)
        np.testing.assert_array_equal(cached.ids, plain.ids)
        np.testing.assert_allclose(cached.logits(), plain.logits(), rtol=0, atol=BOUND_FLOAT64)


def test_an_interruption_leaves_the_cache_consistent():
    model = build(GPTConfig(VOCABULARY, block_size=8, n_layer=2, n_head=1, n_embd=4), dtype=np.float64)
    context = Context(model)
    context.append([1, 2, 3])
    context.logits()
    context.append([4, 5])
    mlp, calls = list(model.transformer.h)[1].mlp, []

    def interrupted(x):
        calls.append(x)
        raise KeyboardInterrupt

    mlp.forward = interrupted
    with pytest.raises(KeyboardInterrupt):
        context.logits()
    del mlp.forward
    assert len(calls) == 1
    expected = NoCache(model, 1).logits(context.ids)
    np.testing.assert_allclose(context.logits(), expected, rtol=0, atol=BOUND_FLOAT64)


def test_a_bigram_needs_no_cache():
    model = build(GPTConfig(VOCABULARY, block_size=4), kind=Bigram)
    context = Context(model)
    context.append([1, 2, 3, 4, 5, 6])
    assert isinstance(context.reader, NoCache)
    np.testing.assert_array_equal(context.logits()[0], model.table.weight.data[6])


@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_every_device_generates_the_same(device, positions):
    model = build(GPTConfig(VOCABULARY, block_size=12, n_layer=2, n_head=2, n_embd=8, positions=positions)).to(device)
    cached, plain = texts(model, [1, 2, 3], tokens=30, batch=2, temperature=0.0)
    np.testing.assert_array_equal(cached, plain)
    host, _ = texts(model.to("cpu"), [1, 2, 3], tokens=30, batch=2, temperature=0.0)
    np.testing.assert_array_equal(cached, host)

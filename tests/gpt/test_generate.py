"""Sampling is what its flags say, repeats with its seed, and goes on beyond the block size."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import tinytensor as tt
from gpt.config import GPTConfig
from gpt.errors import UserError
from gpt.generate import Sampling, distribution, generate, main, pick, stream_text
from gpt.model import GPT
from gpt.pretrained import create_model_directory, save_weights
from gpt.tokenizer import CharTokenizer

LOGITS = hnp.arrays(np.float32, st.integers(1, 30), elements=st.floats(-50, 50, width=32))
SAMPLINGS = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 1e-300, 0.3, 1.0, 5.0]),
    top_k=st.integers(0, 40),
    top_p=st.floats(0.01, 1.0),
)


@pytest.fixture
def model():
    with tt.seeded(1, "weights"):
        model = GPT(GPTConfig(vocab_size=7, block_size=8, n_layer=1, n_head=2, n_embd=8))
    return model.eval()


def softmax(logits):
    weights = np.exp(logits.astype(np.float64) - logits.max())
    return weights / weights.sum()


@given(LOGITS, SAMPLINGS)
def test_a_distribution_sums_to_one_and_favours_the_likeliest(logits, sampling):
    before = logits.copy()
    probabilities = distribution(logits, sampling)
    assert probabilities.shape == logits.shape
    assert probabilities.min() >= 0
    assert probabilities.sum() == pytest.approx(1)
    assert probabilities[logits.argmax()] == probabilities.max()
    np.testing.assert_array_equal(logits, before)


@given(LOGITS)
def test_with_nothing_cut_off_it_is_the_softmax(logits):
    np.testing.assert_allclose(distribution(logits, Sampling(temperature=1.0)), softmax(logits), rtol=1e-12)
    np.testing.assert_allclose(
        distribution(logits, Sampling(temperature=2.0)), softmax(logits.astype(np.float64) / 2), rtol=1e-9
    )


@given(LOGITS, st.integers(1, 40))
def test_top_k_keeps_k_tokens(logits, k):
    probabilities = distribution(logits, Sampling(temperature=1.0, top_k=k))
    kept = probabilities > 0
    assert kept.sum() <= k
    if kept.any() and not kept.all():
        assert logits[kept].min() >= logits[~kept & (softmax(logits) > 0)].max(initial=-np.inf)


@given(LOGITS, st.floats(0.01, 1.0))
def test_top_p_keeps_the_fewest_tokens_that_reach_p(logits, p):
    full = softmax(logits)
    kept = distribution(logits, Sampling(temperature=1.0, top_p=p)) > 0
    assert full[kept].sum() >= p - 1e-9
    assert full[kept].sum() - full[kept].min() < p + 1e-9


def test_temperature_zero_is_greedy():
    assert distribution(np.array([1.0, 3.0, 3.0, 2.0]), Sampling(temperature=0.0)).tolist() == [0, 1, 0, 0]


@given(LOGITS, SAMPLINGS, st.floats(0, 1, exclude_max=True))
def test_no_token_of_probability_zero_is_picked(logits, sampling, uniform):
    probabilities = distribution(logits, sampling)
    assert probabilities[pick(probabilities, uniform)] > 0


def test_picks_follow_the_distribution():
    probabilities = np.array([0.0, 0.5, 0.0, 0.3, 0.2, 0.0])
    uniform = (np.arange(10_000) + 0.5) / 10_000
    counts = np.bincount([pick(probabilities, u) for u in uniform], minlength=6)
    np.testing.assert_allclose(counts / 10_000, probabilities, atol=1e-3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": -1.0}, "--temperature -1.0: must be at least 0"),
        ({"top_p": 0.0}, "--top-p 0.0: must be above 0"),
        ({"top_p": 1.5}, "--top-p 1.5: must be at most 1"),
        ({"top_k": -1}, "--top-k -1: must be at least 0"),
        ({"tokens": 0}, "--tokens 0: must be at least 1"),
    ],
)
def test_impossible_settings_are_one_sentence(settings, message):
    with pytest.raises(UserError) as error:
        Sampling(**settings)
    assert str(error.value) == message


def test_text_goes_on_beyond_the_block_size_and_repeats_with_its_seed(model):
    def run(seed):
        return list(generate(model, [1, 2], Sampling(tokens=50, temperature=1.0, seed=seed)))

    assert len(run(1)) == 50
    assert run(1) == run(1)
    assert run(1) != run(2)
    assert all(0 <= token < 7 for token in run(1))


def test_a_prompt_longer_than_the_block_is_cut_from_the_left(model):
    greedy = Sampling(tokens=5, temperature=0.0)
    long, short = [3, 1, 6, *range(7), 5], [3, 4, 5, 6, 5]
    long = [0, 0, 0, *([1] * 3), *short]
    assert list(generate(model, long, greedy)) == list(generate(model, long[-8:], greedy))


def test_generation_leaves_the_callers_gradients_on(model):
    tokens = generate(model, [1], Sampling(tokens=3))
    next(tokens)
    assert (tt.ones(2, requires_grad=True) * 2).requires_grad
    assert list(tokens)


def test_tokens_beyond_the_tokenizer_are_never_written(model):
    tokens = generate(model, [1], Sampling(tokens=200, temperature=100.0), vocab_size=3)
    assert set(tokens) == {0, 1, 2}


def test_text_streams_prompt_first(model):
    tokenizer = CharTokenizer("abcdef\n")
    parts = list(itertools.islice(stream_text(model, tokenizer, "fab", Sampling(tokens=20)), 5))
    assert parts[0] == "fab"
    assert all(len(part) == 1 for part in parts[1:])
    for known in ("abcdef\n", "abcdefg"):  # without a prompt: from a new line, or from whatever there is
        assert len("".join(stream_text(model, CharTokenizer(known), "", Sampling(tokens=20)))) == 20


def test_the_command_writes_prompt_and_continuation(model, tmp_path, capsys):
    create_model_directory(tmp_path, "gpt", model.config, CharTokenizer("abcdef\n"))
    save_weights(tmp_path, model.config, model.state_dict())
    argv = [str(tmp_path), "--prompt", "fab", "--tokens", "30", "--seed", "3", "--device", "cpu"]
    assert main(argv) == 0
    first = capsys.readouterr().out
    assert first.startswith("fab")
    assert len(first) == 3 + 30 + 1
    main(argv)
    assert capsys.readouterr().out == first
    with pytest.raises(UserError, match="character 'z' at position 2"):
        main([str(tmp_path), "--prompt", "abz", "--device", "cpu"])

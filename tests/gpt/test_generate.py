"""Sampling is what its flags say, repeats with its seed, and continues beyond the block size."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import tinytensor as tt
from gpt.cli import run_command
from gpt.errors import UserError
from gpt.generate import main
from gpt.generation.sampling import Sampling, next_token_probs, sample_token
from gpt.generation.stream import StreamDecoder, generate, stream, write_sample
from gpt.model import GPT, GPTConfig
from gpt.model.cache import Context
from gpt.tokenizers.characters import CharTokenizer
from gpt.weights.directory import create_model_directory, save_weights

LOGITS = hnp.arrays(np.float32, st.integers(1, 30), elements=st.floats(-50, 50, width=32))
SAMPLINGS = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 1e-300, 0.3, 1.0, 5.0]),
    top_k=st.integers(0, 40),
    top_p=st.floats(0.01, 1.0),
    min_p=st.floats(0, 1.0),
    repetition_penalty=st.floats(0.5, 2.0),
)


@pytest.fixture
def model():
    with tt.seeded(1, "weights"):
        model = GPT(GPTConfig(vocab_size=7, block_size=8, n_layer=1, n_head=2, n_embd=8))
    return model.eval()


def continued(model, ids, sampling, samples=1, vocab_size=None):
    """The tokens of each text that `generate` adds to `ids`: (samples, tokens)."""
    context = Context(model, samples)
    context.append(ids)
    return np.array(list(generate(context, sampling, vocab_size))).T.tolist()


def softmax(logits):
    weights = np.exp(logits.astype(np.float64) - logits.max())
    return weights / weights.sum()


@given(LOGITS, SAMPLINGS)
def test_probabilities_sum_to_one_and_the_largest_logit_has_the_largest(logits, sampling):
    before = logits.copy()
    probabilities = next_token_probs(logits, sampling)
    assert probabilities.shape == logits.shape
    assert probabilities.min() >= 0
    assert probabilities.sum() == pytest.approx(1)
    assert probabilities[logits.argmax()] == probabilities.max()
    np.testing.assert_array_equal(logits, before)


@given(LOGITS)
def test_without_filters_they_are_the_softmax(logits):
    np.testing.assert_allclose(next_token_probs(logits, Sampling(temperature=1.0)), softmax(logits), rtol=1e-12)
    np.testing.assert_allclose(
        next_token_probs(logits, Sampling(temperature=2.0)), softmax(logits.astype(np.float64) / 2), rtol=1e-9
    )


@given(LOGITS, st.integers(1, 40))
def test_top_k_keeps_k_tokens(logits, k):
    probabilities = next_token_probs(logits, Sampling(temperature=1.0, top_k=k))
    kept = probabilities > 0
    assert kept.sum() <= k
    if kept.any() and not kept.all():
        assert logits[kept].min() >= logits[~kept & (softmax(logits) > 0)].max(initial=-np.inf)


@given(LOGITS, st.floats(0.01, 1.0))
def test_top_p_keeps_the_fewest_tokens_that_reach_p(logits, p):
    full = softmax(logits)
    kept = next_token_probs(logits, Sampling(temperature=1.0, top_p=p)) > 0
    assert full[kept].sum() >= p - 1e-9
    assert full[kept].sum() - full[kept].min() < p + 1e-9


def test_temperature_zero_is_greedy():
    assert next_token_probs(np.array([1.0, 3.0, 3.0, 2.0]), Sampling(temperature=0.0)).tolist() == [0, 1, 0, 0]


@given(LOGITS, SAMPLINGS, st.floats(0, 1, exclude_max=True))
def test_no_token_of_probability_zero_is_sampled(logits, sampling, uniform):
    probabilities = next_token_probs(logits, sampling)
    assert probabilities[sample_token(probabilities, uniform)] > 0


def test_samples_follow_the_probabilities():
    probabilities = np.array([0.0, 0.5, 0.0, 0.3, 0.2, 0.0])
    uniform = (np.arange(10_000) + 0.5) / 10_000
    counts = np.bincount([sample_token(probabilities, u) for u in uniform], minlength=6)
    np.testing.assert_allclose(counts / 10_000, probabilities, atol=1e-3)


@pytest.mark.parametrize("probabilities", [[np.nan, 0.5], [0.5, np.inf], [0.0, 0.0]])
def test_from_what_is_no_distribution_nothing_is_sampled(probabilities):
    with pytest.raises(UserError, match="NaN or infinite logits"):
        sample_token(np.array(probabilities), 0.5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": -1.0}, "--temperature -1.0: must be at least 0"),
        ({"top_p": 0.0}, "--top-p 0.0: must be above 0"),
        ({"top_p": 1.5}, "--top-p 1.5: must be at most 1"),
        ({"min_p": 1.5}, "--min-p 1.5: must be at most 1"),
        ({"repetition_penalty": 0.0}, "--repetition-penalty 0.0: must be above 0"),
        ({"repetition_penalty": np.inf}, "--repetition-penalty inf: must be below inf"),
        ({"temperature": np.inf}, "--temperature inf: must be below inf"),
        ({"temperature": np.nan}, "--temperature nan: must be at least 0"),
        ({"top_k": -1}, "--top-k -1: must be at least 0"),
        ({"tokens": 0}, "--tokens 0: must be at least 1"),
    ],
)
def test_impossible_settings_are_one_sentence(settings, message):
    with pytest.raises(UserError) as error:
        Sampling(**settings)
    assert str(error.value) == message


def test_min_p_drops_tokens_far_less_likely_than_the_most_likely():
    logits = np.log([0.4, 0.25, 0.2, 0.1, 0.05])
    kept = next_token_probs(logits, Sampling(temperature=1.0, min_p=0.5)) > 0
    assert kept.tolist() == [True, True, True, False, False]
    assert next_token_probs(logits, Sampling(temperature=1.0, min_p=1.0)).tolist() == [1, 0, 0, 0, 0]


def test_a_repetition_penalty_makes_seen_tokens_less_likely_whatever_their_sign():
    logits, plain = np.array([2.0, 1.0, -1.0, -2.0]), Sampling(temperature=1.0)
    sampling = Sampling(temperature=1.0, repetition_penalty=2.0)
    expected = softmax(np.array([1.0, 1.0, -2.0, -2.0]))
    np.testing.assert_allclose(next_token_probs(logits, sampling, seen=[0, 2, 0]), expected)
    np.testing.assert_array_equal(next_token_probs(logits, sampling), next_token_probs(logits, plain))
    for extreme in (1e-320, 1e308):
        penalised = next_token_probs(logits * 10, Sampling(repetition_penalty=extreme), seen=[0, 3])
        assert penalised.sum() == pytest.approx(1)


class Indifferent:
    """A context of one text whose next token is as likely to be one as another."""

    ids = np.array([[3]])

    def logits(self):
        return np.ones((1, 7), np.float32)

    def append(self, ids):
        pass


def test_the_penalty_counts_the_prompt_and_what_was_written():
    sampling = Sampling(tokens=7, temperature=0.0, repetition_penalty=1.1)
    assert [token for (token,) in generate(Indifferent(), sampling)] == [0, 1, 2, 4, 5, 6, 0]


def test_generation_continues_beyond_the_block_size_and_repeats_with_its_seed(model):
    def run(seed):
        return continued(model, [1, 2], Sampling(tokens=50, temperature=1.0, seed=seed))[0]

    assert len(run(1)) == 50
    assert run(1) == run(1)
    assert run(1) != run(2)
    assert all(0 <= token < 7 for token in run(1))


def test_a_sample_does_not_depend_on_the_others(model):
    sampling = Sampling(tokens=30, temperature=1.0)
    three = continued(model, [1, 2], sampling, samples=3)
    assert three[:1] == continued(model, [1, 2], sampling, samples=1)
    assert len({tuple(text) for text in three}) == 3


def test_a_prompt_longer_than_the_block_is_truncated_from_the_left(model):
    greedy = Sampling(tokens=5, temperature=0.0)
    long = [0, 0, 0, 1, 1, 1, 3, 4, 5, 6, 5]
    assert continued(model, long, greedy) == continued(model, long[-8:], greedy)


def test_generation_builds_no_graph_and_leaves_grad_mode_alone(model):
    context = Context(model)
    context.append([1])
    tokens = generate(context, Sampling(tokens=3))
    next(tokens)
    assert (tt.ones(2, requires_grad=True) * 2).requires_grad
    assert list(tokens)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_tokens_beyond_the_tokenizers_vocabulary_are_never_generated(model):
    (tokens,) = continued(model, [1], Sampling(tokens=200, temperature=100.0), vocab_size=3)
    assert set(tokens) == {0, 1, 2}


class Pieces:
    """A tokenizer of given pieces of bytes, the last of which ends a document."""

    def __init__(self, *pieces):
        self.pieces, self.vocab_size, self.end_of_text = pieces, len(pieces), len(pieces) - 1
        self.stop_ids = {self.end_of_text}

    def decode_bytes(self, ids):
        return b"".join(self.pieces[i] for i in ids)


def streamed(pieces, stops=()):
    """What comes out after each piece of bytes, and in the end."""
    tokenizer = Pieces(*pieces, b"<end>")
    text = StreamDecoder(tokenizer, stops)
    return [*(text.add(i) for i in range(len(pieces))), text.finish()]


@given(st.text(), st.data())
def test_characters_are_never_broken_whatever_the_tokens(string, data):
    encoded = string.encode("utf-8", "replace")
    cuts = sorted(data.draw(st.lists(st.integers(0, len(encoded)), max_size=8)))
    parts = [encoded[a:b] for a, b in itertools.pairwise([0, *cuts, len(encoded)])]
    pieces = streamed(parts)
    assert "".join(pieces) == encoded.decode()
    so_far = b""
    for part, count in zip(parts, itertools.accumulate(map(len, pieces)), strict=False):
        so_far += part
        assert count == len(so_far.decode("utf-8", "ignore"))  # at once, too: no whole character is held back


def test_bytes_that_are_not_utf8_become_replacement_characters():
    assert streamed([b"a", b"\xff", b"b"]) == ["a", "\ufffd", "b", ""]
    assert streamed([b"a", b"\xe2\x82"]) == ["a", "", "\ufffd"]


@given(st.text("ab", max_size=12), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3))
def test_text_ends_before_the_first_stop_whatever_the_tokens(string, stops):
    found = [(string.find(stop) + len(stop), string.find(stop)) for stop in stops if stop in string]
    expected = string[: min(found)[1]] if found else string
    assert "".join(streamed([letter.encode() for letter in string], stops)) == expected


def test_only_a_possible_stop_is_held_back():
    assert streamed([b"one ", b"t", b"o", b" tw", b"o!", b"more"], ["two!"]) == ["one ", "", "to", " ", "", "", ""]


class Counted(str):
    """A text that counts how many of its characters are looked at."""

    def __init__(self, text):
        self.looked = 0

    def __getitem__(self, place):
        self.looked += 1
        assert isinstance(place, int)  # a slice would copy as many characters as a client likes
        return super().__getitem__(place)


@pytest.mark.parametrize("letters", ["a" * 2000, "ab" * 1000, "a" * 1999 + "b"])
def test_the_work_for_a_stop_text_is_linear_in_the_text_however_long_it_is(letters):
    stop = Counted("a" * 1_000_000)
    pieces = streamed([letter.encode() for letter in letters], [stop])
    assert "".join(pieces) == letters
    assert stop.looked <= 6 * len(letters)


def test_the_end_of_a_document_ends_the_text():
    text = StreamDecoder(Pieces(b"a", b"<end>"))
    assert [text.add(token) for token in (0, 1, 0)] == ["a", "", ""]
    assert text.ended
    assert text.written == "a"


def test_texts_of_a_batch_end_independently(model):
    tokenizer = CharTokenizer("abcdef\n")
    whole = [""] * 4
    for i, piece in stream(model, tokenizer, "ab", Sampling(tokens=40, temperature=1.0), samples=4):
        whole[i] += piece
    cut = [""] * 4
    for i, piece in stream(model, tokenizer, "ab", Sampling(tokens=40, temperature=1.0, stop="c|\\n"), samples=4):
        cut[i] += piece
    assert all(len(text) == 40 for text in whole)
    assert cut == [min(text.split("c")[0], text.split("\n")[0], key=len) for text in whole]


def test_without_a_prompt_text_begins_a_document_or_a_line(model):
    for known in ("abcdef\n", "abcdefg", "abcdef\x03"):
        pieces = stream(model, CharTokenizer(known), "", Sampling(tokens=20, temperature=0.1))
        assert len(list(pieces)) >= 2


@pytest.fixture
def directory(model, tmp_path):
    create_model_directory(tmp_path, "gpt", model.config, CharTokenizer("abcdef\n"))
    save_weights(tmp_path, model.config, model.state_dict())
    return tmp_path


def test_the_command_writes_prompt_and_continuation(directory, capsys):
    argv = [str(directory), "--prompt", "fab", "--tokens", "30", "--seed", "3", "--device", "cpu"]
    assert main(argv) == 0
    first = capsys.readouterr().out
    assert first.startswith("fab")
    assert len(first) == 3 + 30 + 1
    main(argv)
    assert capsys.readouterr().out == first
    main([*argv, "--samples", "2"])
    both = capsys.readouterr().out
    assert both.startswith(f"--- 1 ---\n{first}--- 2 ---\nfab")
    assert len(both) == 2 * len(first) + 20
    with pytest.raises(UserError, match="character 'z' at position 2"):
        main([str(directory), "--prompt", "abz", "--device", "cpu"])


def test_a_sample_is_written_to_its_file(directory):
    assert write_sample(directory, "cpu", tokens=40) == f"sample text: {directory / 'sample.txt'}"
    assert len((directory / "sample.txt").read_text()) == 41


@pytest.mark.parametrize("flags", [[], ["--temperature", "0"], ["--top-k", "2", "--samples", "2"]])
def test_weights_that_are_not_numbers_are_one_sentence(model, directory, capsys, flags):
    for value in (np.nan, np.inf):
        state = model.state_dict()
        state["transformer.ln_f.weight"][1] = value
        save_weights(directory, model.config, state)
        assert run_command(main, [str(directory), "--device", "cpu", *flags]) == 2
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line]
        assert line.startswith("error: the model computes NaN or infinite logits: its weights are corrupt")

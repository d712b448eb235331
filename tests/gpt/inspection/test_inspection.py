"""A trace is what the model computed: its logits, its attention, and the likelihoods that follow from them."""

import numpy as np
import pytest

import tinytensor as tt
from gpt.errors import UserError
from gpt.inspection.labels import token_label
from gpt.inspection.predictions import predictions
from gpt.inspection.trace import early_logits, trace
from gpt.model import GPT, Bigram, GPTConfig
from gpt.tokenizers.characters import CharTokenizer
from gpt.training.recipe import PRESETS

SMALL = {"vocab_size": 11, "block_size": 12, "n_layer": 2, "n_head": 2, "n_embd": 8}
KINDS = {
    "gpt2": {},
    "rotary": {"positions": "rotary", "bias": False},
    "course": {name: PRESETS["course-v1"][name] for name in ("activation", "norm", "tied", "dropout")},
}
IDS = np.array([3, 1, 4, 1, 5, 9, 2, 6, 5, 10, 0, 7])


def made(kind, device="cpu"):
    """A GPT whose weights are large enough to tell one token from another."""
    with tt.seeded(1, "weights"):
        model = GPT(GPTConfig(**(SMALL | KINDS[kind])))
    state = {name: 25 * value if value.ndim == 2 else value for name, value in model.state_dict().items()}
    model.load_state_dict(state)
    return model.to(device).eval()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("time", [1, 7, 12])
def test_a_trace_has_the_logits_of_the_model(kind, time, device):
    model, ids = made(kind, device), IDS[:time]
    found = trace(model, ids)
    with tt.no_grad():
        logits = tt.to_numpy(model(device.put(ids[None])).data)[0]
    assert np.ptp(logits) > 1
    np.testing.assert_allclose(found.logits, logits, atol=1e-5, rtol=1e-5)
    np.testing.assert_allclose(early_logits(model, found.layers[-1].x), logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_attention_is_causal_sums_to_one_and_gives_the_output_of_the_layer(kind):
    model = made(kind)
    found = trace(model, IDS)
    x = found.tokens if found.positions is None else found.tokens + found.positions
    for block, layer in zip(model.transformer.h, found.layers, strict=True):
        assert layer.weights.shape == (2, 12, 12)
        assert layer.weights.min() >= 0
        assert layer.weights[:, 3, :4].std() > 0.01  # no uniform attention, of which much would be true
        assert (np.triu(layer.weights, 1) == 0).all()
        np.testing.assert_allclose(layer.weights.sum(axis=-1), 1, atol=1e-6)
        stream = tt.Tensor(x[None])
        with tt.no_grad():
            fused = block.attn(block.ln_1(stream) if block.pre_norm else stream).data[0]
            after = block(stream).data[0]
        np.testing.assert_allclose(layer.attended, fused, atol=1e-5)
        np.testing.assert_allclose(layer.x, after, atol=1e-5)
        middle = x + layer.attended
        with tt.no_grad():
            total = middle if block.pre_norm else block.ln_1(tt.Tensor(middle)).data
            total = total + layer.mlp if block.pre_norm else block.ln_2(tt.Tensor(total + layer.mlp)).data
        np.testing.assert_allclose(layer.x, total, atol=1e-5)
        x = layer.x


def test_a_bigram_has_logits_and_nothing_else():
    with tt.seeded(1, "weights"):
        model = Bigram(GPTConfig(**SMALL)).eval()
    found = trace(model, IDS)
    np.testing.assert_array_equal(found.logits, model.table.weight.data[IDS])
    assert found.layers == ()
    assert found.positions is None


@pytest.mark.parametrize("ids", [[], [[1, 2]], [0] * 13])
def test_a_text_of_another_size_is_refused(ids):
    with pytest.raises(ValueError, match=r"must be \(T,\), T from 1 to 12"):
        trace(made("gpt2"), ids)


def test_a_model_with_blocks_of_another_kind_is_refused():
    model = GPT(GPTConfig(**(SMALL | {"positions": "rotary", "norm_layer": "rms"}))).eval()
    with pytest.raises(UserError, match="only GPT-2's can be looked into"):
        trace(model, [1, 2, 3])


def test_predictions_are_the_softmax_of_the_row_before():
    logits = np.log([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7], [0.25, 0.5, 0.25]]).astype(np.float32)
    found = predictions(logits, np.array([2, 1, 0]), top=2)
    np.testing.assert_allclose(found.likelihoods, [np.nan, 0.3, 0.1], atol=1e-6)
    assert found.top_ids.tolist() == [[0, 1], [2, 1], [1, 0]]
    np.testing.assert_allclose(found.top_probs, [[0.5, 0.3], [0.7, 0.2], [0.5, 0.25]], atol=1e-6)
    assert found.loss() == pytest.approx(-np.log(0.3 * 0.1) / 2)
    assert predictions(logits, np.array([2, 1, 0]), top=9).top_ids.shape == (3, 3)


def test_the_loss_is_that_of_the_model():
    model = made("rotary")
    with tt.no_grad():
        loss = model(IDS[None, :-1], IDS[None, 1:]).item()
    assert predictions(trace(model, IDS).logits, IDS).loss() == pytest.approx(loss, abs=1e-5)


def test_a_single_token_has_no_likelihood():
    found = predictions(np.zeros((1, 3)), np.array([1]))
    assert np.isnan(found.likelihoods).tolist() == [True]
    assert np.isnan(found.loss())


def test_logits_that_are_not_numbers_are_a_sentence():
    with pytest.raises(UserError, match="NaN or infinite logits"):
        predictions(np.full((1, 3), np.nan), np.array([1]))


class Bytes:
    """A tokenizer of one token, with these bytes."""

    def __init__(self, content):
        self.content = content

    def decode_bytes(self, ids):
        return self.content


@pytest.mark.parametrize(
    ("content", "label"),
    [
        (b"the", "the"),
        (b" a\n\t", "␣a↵⇥"),
        ("日".encode()[:2], r"\xe6\x97"),
        ("é".encode(), "é"),
        (b"\x00\x7f", r"\x00\x7f"),
        ("\u202e\u00a0".encode(), r"\u202e\xa0"),  # right-to-left override, no-break space
        (b"", "[5]"),
        (b"</script>", "</script>"),
    ],
)
def test_a_label_shows_every_byte(content, label):
    assert token_label(Bytes(content), 5) == label


def test_labels_of_characters():
    tokenizer = CharTokenizer("a\n")
    assert [token_label(tokenizer, i) for i in range(2)] == ["↵", "a"]

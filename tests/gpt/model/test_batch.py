"""Texts that are continued together get what they would get alone, whatever joins and leaves in between."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinytensor as tt
from gpt.generation.packed import pack_weights
from gpt.model import GPTConfig
from gpt.model.batch import Batch, Prompts
from gpt.model.cache import NoCache
from tests.gpt.model.test_cache import BOUND_FLOAT64, CONFIGS, VOCABULARY, build

ROWS, CAPACITY = 3, 24
# join with a prompt of that length, let the text of a row leave, or write a token of each
EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("join"), st.integers(1, 8)),
        st.tuples(st.just("leave"), st.integers(0, ROWS - 1)),
        st.tuples(st.just("write"), st.just(0)),
    ),
    max_size=16,
)


def joined(batch, model, *texts):
    """The logits after some texts, which join the batch."""
    prompts = Prompts(model, [np.array(ids) for ids in texts])
    while not prompts.is_read:
        prompts.read(5)
    for row in range(len(texts)):
        batch.join(prompts, row)
    return prompts.logits()


@given(CONFIGS, st.integers(0, 99), EVENTS)
def test_each_text_gets_the_logits_that_it_gets_alone(config, seed, events):
    model, rng = build(config, seed, np.float64), np.random.default_rng(seed)
    capacity = min(CAPACITY, config.block_size)
    batch, texts = Batch(model, ROWS, capacity), []
    for event, value in [("join", 2), *events, ("write", 0)]:
        if event == "join" and len(texts) < ROWS:
            ids = rng.integers(0, VOCABULARY, min(value, capacity)).tolist()
            alone = NoCache(model, 1).logits(np.array([ids]))[0]
            np.testing.assert_allclose(joined(batch, model, ids)[0], alone, rtol=0, atol=BOUND_FLOAT64)
            texts.append(ids)
        elif event == "leave" and value < len(texts):
            batch.leave(value)
            texts[value] = texts[-1]
            texts.pop()
        elif event == "write" and texts and max(map(len, texts)) < capacity:
            for ids in texts:
                ids.append(int(rng.integers(0, VOCABULARY)))
            logits = batch.logits([ids[-1] for ids in texts])
            alone = [NoCache(model, 1).logits(np.array([ids]))[0] for ids in texts]
            np.testing.assert_allclose(logits, alone, rtol=0, atol=BOUND_FLOAT64)
        assert batch.count == len(texts)
        assert batch.lengths[: batch.count].tolist() == [len(ids) for ids in texts]
        for buffer in (buffer for layer in batch.layers for buffer in layer):
            assert not any(buffer[row, :, end:].any() for row, end in enumerate(batch.lengths))


@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_every_device_continues_the_same(device, positions):
    config = GPTConfig(VOCABULARY, block_size=12, n_layer=2, n_head=2, n_embd=8, positions=positions)
    written = []
    for place in (device, tt.device("cpu")):
        model = build(config).to(place)
        batch = Batch(model, 3, 12)
        texts = [[1, 2, 3], [4], [5, 6, 7, 8, 9]]
        for ids, logits in zip(texts, joined(batch, model, *texts), strict=True):
            ids.append(int(logits.argmax()))
        for step in range(6):
            if step == 3:
                batch.leave(0)
                texts[0] = texts.pop()
            for ids, row in zip(texts, batch.logits([ids[-1] for ids in texts]), strict=True):
                ids.append(int(row.argmax()))
        written.append(texts)
    assert written[0] == written[1]


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "int8"])
def test_greedy_texts_of_packed_weights_do_not_depend_on_the_batch(kind):
    model = build(GPTConfig(VOCABULARY, block_size=64, n_layer=2, n_head=2, n_embd=32), seed=3)
    pack_weights(model, kind)
    prompts = [[1, 2, 3], [4], [5, 6, 7, 8, 9, 10, 11], [12, 0], [3, 3, 3, 3]]

    def written(prompts):
        batch, texts = Batch(model, len(prompts), 64), [list(ids) for ids in prompts]
        for ids, logits in zip(texts, joined(batch, model, *texts), strict=True):
            ids.append(int(logits.argmax()))
        for _ in range(40):
            for ids, row in zip(texts, batch.logits([ids[-1] for ids in texts]), strict=True):
                ids.append(int(row.argmax()))
        return texts

    together = written(prompts)
    assert together == [written([prompt])[0] for prompt in prompts]
    assert len({tuple(ids[-40:]) for ids in together}) > 1

"""The thread that writes: the texts are those of `gpt.generate`, whatever comes and goes beside them."""

import queue

import numpy as np
import pytest

import tinytensor as tt
from gpt.generation.sampling import Sampling, TokenSampler
from gpt.model.batch import Prompts
from gpt.serve import engine as engine_module
from gpt.serve.engine import Choice, Engine
from gpt.serve.errors import ApiError
from gpt.weights.load import load_model
from tests.gpt.serve.conftest import PATIENCE, expected


class Text:
    """A text that is being written, and the pieces that it was told."""

    def __init__(self, engine, prompt, tokens=20, stops=(), **choices):
        ids = engine.tokenizer.encode(prompt).astype(np.int64)
        self.pieces = queue.SimpleQueue()
        sampling = Sampling(tokens=tokens, **{"temperature": 1.0, **choices})
        self.choice = Choice(ids, sampling, 0, stops, engine.tokenizer, self.pieces.put)

    def whole(self):
        """Text, number of tokens and reason of its end."""
        text = ""
        while True:
            piece = self.pieces.get(timeout=PATIENCE)
            if piece.error:
                raise piece.error
            text += piece.text
            if piece.finish:
                return text, piece.tokens, piece.finish


@pytest.fixture
def engine(plain):
    model, tokenizer = load_model(plain, "cpu")
    engine = Engine(model, tokenizer, tt.device("cpu"), max_batch=3, max_queue=20, context=96)
    yield engine
    if engine._thread.ident:
        engine.end()
        engine.join()


def submit(engine, *texts):
    engine.submit([text.choice for text in texts])


def test_texts_are_those_of_generate(engine, plain):
    prompts = [("abc" * i)[: 3 * i - 2] for i in range(1, 9)]
    texts = [Text(engine, prompt, tokens=5 + 3 * i, seed=i) for i, prompt in enumerate(prompts)]
    submit(engine, *texts)
    engine.start()
    for i, (prompt, text) in enumerate(zip(prompts, texts, strict=True)):
        assert text.whole() == (expected(plain, prompt, tokens=5 + 3 * i, seed=i), 5 + 3 * i, "length")


def test_prompts_are_read_in_parts_between_which_others_are_written(engine, plain, monkeypatch):
    monkeypatch.setattr(engine_module, "READ_TOKENS", 8)
    steps, read = [], Prompts.read
    monkeypatch.setattr(
        Prompts, "read", lambda self, count: steps.append((*self.sizes, engine.batch.count)) or read(self, count)
    )
    short, long = Text(engine, "ab", tokens=30), Text(engine, "abcdef" * 5, tokens=5)
    submit(engine, short, long)
    engine.start()
    assert short.whole()[0] == expected(plain, "ab", tokens=30)
    assert long.whole()[0] == expected(plain, "abcdef" * 5, tokens=5)
    assert steps == [(2, 0), (30, 1), (30, 1), (30, 1), (30, 1)]


def test_short_prompts_are_read_together(engine, plain, monkeypatch):
    read = []
    monkeypatch.setattr(engine_module, "READ_TOKENS", 12)
    monkeypatch.setattr(
        engine_module, "Prompts", lambda model, ids: read.append([*map(len, ids)]) or Prompts(model, ids)
    )
    prompts = ["a", "bcd", "abcdef", "f"]
    texts = [Text(engine, prompt, tokens=9) for prompt in prompts]
    submit(engine, *texts)
    engine.start()
    assert [text.whole()[0] for text in texts] == [expected(plain, prompt, tokens=9) for prompt in prompts]
    assert read == [[1, 3], [6], [1]]


def test_a_text_ends_at_a_stop_text_which_is_not_shown(engine, plain):
    whole = expected(plain, "abc", tokens=40)
    stop = whole[7:9]
    text = Text(engine, "abc", tokens=40, stops=["unheard of", stop])
    submit(engine, text)
    engine.start()
    written, tokens, finish = text.whole()
    assert (written, finish) == (whole[: whole.index(stop)], "stop")
    assert tokens < 40


def test_cancelled_texts_make_room(engine, plain):
    texts = [Text(engine, "abc", tokens=80, seed=i) for i in range(6)]
    submit(engine, *texts)
    for text in texts[:5]:
        text.choice.cancelled = True  # some of them before they have begun
    engine.start()
    late = Text(engine, "fed", tokens=8)
    submit(engine, late)
    assert late.whole()[0] == expected(plain, "fed", tokens=8)
    assert texts[5].whole()[0] == expected(plain, "abc", tokens=80, seed=5)
    assert not any(text.pieces.qsize() for text in texts[:5])
    assert engine.batch.count == len(engine.writing) == 0


def test_more_than_fit_are_refused_and_then_nothing_is_begun(engine):
    submit(engine, *[Text(engine, "a") for _ in range(22)])
    with pytest.raises(ApiError, match="try again later") as error:
        submit(engine, Text(engine, "a"), Text(engine, "a"))
    assert error.value.status == 503
    submit(engine, Text(engine, "a"))


def test_logits_that_are_no_numbers_end_one_text_and_a_mistake_those_that_were_begun(engine, plain, capsys):
    sound, broken = Text(engine, "abc", tokens=30), Text(engine, "abc", tokens=30)
    sampler = broken.choice.sampler
    sampler.draw = lambda logits: TokenSampler.draw(sampler, logits * (np.nan if len(sampler.seen) > 6 else 1))
    forward = engine.batch.forward
    submit(engine, sound, broken)
    engine.start()
    with pytest.raises(ApiError, match="NaN or infinite logits"):
        broken.whole()
    assert sound.whole()[0] == expected(plain, "abc", tokens=30)

    def fail(ids):
        raise MemoryError

    engine.batch.forward = fail
    hapless = [Text(engine, "abc", tokens=30) for _ in range(2)]
    submit(engine, *hapless)
    for text in hapless:
        with pytest.raises(ApiError, match="could not be written: out of memory"):
            text.whole()
    engine.batch.forward = forward
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Prompts, "logits", fail)
        hapless = Text(engine, "abc", tokens=30)
        submit(engine, hapless)
        with pytest.raises(ApiError, match="could not be written"):
            hapless.whole()
    after = Text(engine, "abc", tokens=30)
    submit(engine, after)
    assert after.whole() == (expected(plain, "abc", tokens=30), 30, "length")
    assert "MemoryError" in capsys.readouterr().err


def test_a_mistake_in_one_text_ends_that_text_alone(engine, plain, capsys):
    sound, *broken = [Text(engine, "abc", tokens=30) for _ in range(3)]
    for text, tokens in zip(broken, (3, 9), strict=True):  # while the prompt is read, and later
        sampler = text.choice.sampler
        sampler.draw = lambda logits, sampler=sampler, tokens=tokens: (
            TokenSampler.draw(sampler, logits) if len(sampler.seen) < tokens else [][1]
        )
    submit(engine, broken[0], sound, broken[1])
    engine.start()
    for text in broken:
        with pytest.raises(ApiError, match="could not be written: an error of the program"):
            text.whole()
    assert sound.whole() == (expected(plain, "abc", tokens=30), 30, "length")
    assert capsys.readouterr().err.count("IndexError") == 2


def test_the_end_is_told_to_all(engine):
    texts = [Text(engine, "abc", tokens=90, seed=i) for i in range(8)]
    texts[0].choice.tell = lambda piece: (engine.end(), texts[0].pieces.put(piece))
    submit(engine, *texts)
    engine.start()
    engine.join()
    for text in texts:
        with pytest.raises(ApiError, match="is being ended"):
            text.whole()
    with pytest.raises(ApiError, match="is being ended"):
        submit(engine, Text(engine, "a"))

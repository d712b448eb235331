"""What users write with a model: the same as in the terminal, apart from each other; it can be stopped and undone."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from gpt.generation.conversation import Conversation
from gpt.generation.sampling import Sampling
from gpt.generation.stream import stream
from gpt.web import sessions
from gpt.web.sessions import Chat, Draft, StopButton

SAMPLING = Sampling(tokens=12, temperature=1.0)


@pytest.fixture(autouse=True)
def _every_token(monkeypatch):
    monkeypatch.setattr(sessions, "UPDATE_SECONDS", -1.0)


def say(chat, loaded, *messages, sampling=SAMPLING, turn="{}"):
    """The notes on the last of these messages, once they are answered."""
    for message in messages:
        chat.ask(message)
        *_, notes = chat.answer(loaded, sampling, turn, StopButton())
    return notes


def test_a_chat_says_what_the_terminal_says(loaded):
    chat, talk = Chat(), Conversation(loaded.model, loaded.tokenizer, SAMPLING, "U: {}\n")
    say(chat, loaded, "abc", "", "fed", turn="U: {}\n")
    for message, answer in chat.turns:
        talk.say(message)
        assert "".join(talk.answer()) == answer
    assert chat.text(loaded, "U: {}\n") == loaded.tokenizer.decode(talk.context.ids[0])
    assert len({answer for _, answer in chat.turns}) == 3


def test_an_answer_that_ended_with_a_stop_text_is_recalled(loaded):
    sampling = Sampling(tokens=200, temperature=1.0, stop="a|b|c|d|e|f")
    chat, talk = Chat(), Conversation(loaded.model, loaded.tokenizer, sampling)
    say(chat, loaded, "abc", "fed", sampling=sampling)
    for message, answer in chat.turns:
        talk.say(message)
        assert "".join(talk.answer()) == answer


def test_a_retry_answers_anew_and_undo_takes_back(loaded):
    chat = Chat()
    say(chat, loaded, "abc", "fed")
    first, (message, answer) = chat.turns
    list(chat.answer(loaded, SAMPLING, "{}", StopButton()))
    assert chat.turns[0] == first
    assert chat.turns[1][0] == message
    assert chat.turns[1][1] != answer
    assert chat.undo() == "fed"
    assert chat.turns == [first]
    assert (chat.undo(), chat.undo()) == ("abc", "")


def test_a_draft_is_continued_as_by_generate(loaded):
    draft = Draft("abc")
    grown = [draft.text for _ in draft.extend(loaded, SAMPLING, StopButton())]
    expected = "".join(piece for _, piece in stream(loaded.model, loaded.tokenizer, "abc", SAMPLING))
    assert draft.text == "abc" + expected
    assert len(set(grown)) == SAMPLING.tokens + 1
    list(draft.extend(loaded, SAMPLING, StopButton()))
    assert len(draft.text) == 3 + 2 * SAMPLING.tokens
    draft.undo()
    assert draft.text == "abc" + expected
    draft.undo()
    draft.retries = 1
    list(draft.extend(loaded, SAMPLING, StopButton()))
    assert draft.text != "abc" + expected
    draft.undo()
    draft.undo()
    assert draft.text == "abc"


@pytest.mark.parametrize("count", [0, 1, 5])
def test_nothing_is_written_after_stop(loaded, monkeypatch, count):
    drawn, original = [], loaded.tokenizer.decode_bytes
    monkeypatch.setattr(loaded.tokenizer, "decode_bytes", lambda ids: drawn.append(ids) or original(ids))
    stop, draft = StopButton(), Draft("abc")
    for _ in draft.extend(loaded, SAMPLING, stop):
        if len(draft.text) == 3 + count:
            stop.pressed = True
    assert len(draft.text) == 3 + count
    assert len(drawn) == count
    assert draft.earlier == ["abc"]


def test_pieces_that_come_fast_are_shown_together(loaded, monkeypatch):
    monkeypatch.setattr(sessions, "UPDATE_SECONDS", 1e9)
    shown, draft = [], Draft("abc")
    for _ in draft.extend(loaded, SAMPLING, StopButton()):
        shown.append(draft.text)
    assert len(shown) == 3  # the prompt, the first token at once, the rest
    assert len(draft.text) == 3 + SAMPLING.tokens


def test_users_at_once_get_what_each_would_get_alone(loaded):
    def write(text):
        draft = Draft(text)
        list(draft.extend(loaded, Sampling(tokens=60), StopButton()))
        return draft.text

    texts = ["abc", "fed", "a<b", "U: a"]
    alone = [write(text) for text in texts]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(write, texts)) == alone


def test_users_take_turns_token_by_token(loaded):
    drafts = [Draft("abc"), Draft("fed")]
    writing = [draft.extend(loaded, SAMPLING, StopButton()) for draft in drafts]
    for _ in range(4):
        for each in writing:
            next(each)
    assert [len(draft.text) for draft in drafts] == [6, 6]


def test_what_a_model_cannot_read_is_said(loaded):
    assert say(Chat(), loaded, "aéb") == ["unknown to the model and left out: 'é'"]
    (sentence,) = say(Chat(), loaded, "abc" * 50)
    assert "only its last 32 tokens count" in sentence
    draft = Draft("é" + "abc" * 50)
    *_, notes = draft.extend(loaded, SAMPLING, StopButton())
    assert notes == [
        "unknown to the model and left out: 'é'",
        "the text has 150 tokens, more than the model's context: only its last 32 count",
    ]
    assert draft.text.startswith("é" + "abc" * 50)
    assert len(draft.text) == 151 + SAMPLING.tokens


def test_old_turns_are_forgotten(loaded, monkeypatch):
    monkeypatch.setattr(sessions, "MAX_TURNS", 3)
    chat, draft = Chat(), Draft("a")
    say(chat, loaded, *"abcde")
    for _ in range(5):
        list(draft.extend(loaded, Sampling(tokens=1), StopButton()))
    assert [message for message, _ in chat.turns] == ["c", "d", "e"]
    assert len(draft.earlier) == 3


@pytest.mark.parametrize(
    "saved",
    [None, 5, [], {}, {"turns": 5}, {"turns": [["a"]]}, {"turns": [["a", 5]]}, {"turns": [], "answers": -1}, {"x": 1}],
)
def test_what_is_no_conversation_is_a_new_one(saved):
    assert Chat.restored(saved) == Chat()


@pytest.mark.parametrize("saved", [None, "text", {"text": 5}, {"earlier": [5]}, {"retries": "1"}, {"earlier": 5}])
def test_what_is_no_draft_is_a_new_one(saved):
    assert Draft.restored(saved) == Draft()


def test_the_browser_restores_what_it_kept(loaded):
    chat, draft = Chat(), Draft("abc")
    say(chat, loaded, "abc")
    list(draft.extend(loaded, SAMPLING, StopButton()))
    assert Chat.restored(vars(chat)) == chat
    assert Draft.restored(vars(draft)) == draft

"""Conversations: what enters the context, what ends an answer, and a terminal whose user types anything."""

import io
import os
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import gpt.chat
import tinytensor as tt
from gpt.chat import ChatOptions, greeting, main, run_slash_command
from gpt.cli import run_command
from gpt.errors import UserError
from gpt.generation.conversation import Conversation, known_part
from gpt.generation.sampling import Sampling
from gpt.generation.stream import StreamDecoder
from gpt.model import GPT, GPTConfig
from gpt.tokenizers.characters import CharTokenizer
from gpt.weights.directory import create_model_directory, save_weights

KNOWN = "abcdefU:\n "
PATIENCE = 60  # seconds after which a subprocess must have got somewhere; reached only when it hangs


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("model")
    with tt.seeded(1, "weights"):
        model = GPT(GPTConfig(vocab_size=len(KNOWN), block_size=32, n_layer=1, n_head=2, n_embd=8))
    create_model_directory(directory, "gpt", model.config, CharTokenizer(KNOWN))
    save_weights(directory, model.config, model.state_dict())
    return directory


@pytest.fixture
def conversation(directory):
    def start(turn="{}", **choices):
        model, tokenizer = gpt.chat.load_model(directory, "cpu")
        return Conversation(model, tokenizer, Sampling(**{"tokens": 5, "temperature": 1.0, **choices}), turn)

    return start


def text_of(conversation):
    """What the model sees."""
    return conversation.tokenizer.decode(conversation.context.ids[0])


def chat(directory, lines, monkeypatch, *flags):
    """The exit code of the command with these lines piped in."""
    monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
    return run_command(main, [str(directory), "--device", "cpu", "--tokens", "4", *flags])


def test_the_model_sees_everything_said(conversation):
    talk = conversation()
    assert talk.say("abc") == []
    first = "".join(talk.answer())
    talk.say("fed")
    second = "".join(talk.answer())
    new_line = "" if first.endswith("\n") else "\n"
    assert text_of(talk) == f"abc{first}{new_line}fed{second}"
    assert len(first) == len(second) == 5


def test_an_answer_reads_only_what_is_new(conversation):
    talk, read = conversation(), []
    original = talk.context.reader.forward
    talk.context.reader.forward = lambda ids: read.append(ids.shape[1]) or original(ids)
    for message in ("abc", "d"):
        talk.say(message)
        list(talk.answer())
    assert sum(read) == talk.context.ids.shape[1] - 1  # nobody asked for what follows the last token


def test_what_no_longer_fits_is_forgotten(conversation):
    talk = conversation(tokens=20)
    for _ in range(5):
        talk.say("abcdef")
        list(talk.answer())
        assert 16 <= talk.context.ids.shape[1] <= 32


def test_reset_forgets_everything_and_answers_repeat(conversation):
    talk = conversation(tokens=20)
    talk.say("abc")
    first = "".join(talk.answer())
    second = "".join(talk.answer())
    assert run_slash_command("/reset", talk) == "forgotten"
    assert talk.context.ids.size == 0
    talk.say("abc")
    assert "".join(talk.answer()) == first != second


def test_an_empty_message_continues_even_an_empty_conversation(conversation):
    talk = conversation()
    assert talk.say("") == []
    first = "".join(talk.answer())
    talk.say("")
    assert text_of(talk) == "\n" + first
    assert len("".join(talk.answer())) == 5


def test_unseen_characters_are_reported_and_left_out(conversation):
    talk = conversation()
    assert talk.say("aéb☃é") == ["unknown to the model and left out: 'é' '☃'"]
    assert text_of(talk) == "ab"
    assert talk.say("☃") == ["unknown to the model and left out: '☃'"]
    assert len("".join(talk.answer())) == 5


def test_a_message_longer_than_the_context_is_truncated_from_the_left(conversation):
    talk = conversation()
    (sentence,) = talk.say("abcdef" * 100)
    assert "only its last 32 tokens count" in sentence
    assert text_of(talk) == ("abcdef" * 100)[-32:]
    assert len("".join(talk.answer())) == 5


def test_a_stop_text_ends_the_answer_and_is_not_part_of_it(conversation):
    talk = conversation("U: {}\\nf:", stop="a|b|c|d", tokens=200)
    talk.say("ab")
    answer = "".join(talk.answer())
    assert not set(answer) & set("abcd")
    assert text_of(talk) == f"U: ab\nf:{answer}"
    talk.say("c")
    assert text_of(talk) == "U: ab\nf:" + answer + ("" if answer.endswith("\n") else "\n") + "U: c\nf:"


def test_a_stop_text_after_the_window_has_moved(conversation):
    talk = conversation(stop="no such text|UUU", tokens=300)
    written = "".join(talk.answer())
    assert written.endswith(text_of(talk)[-10:])
    talk._replace_newest(300, "abc")
    assert text_of(talk) == "abc"


def test_commands(conversation):
    talk = conversation()
    assert run_slash_command("/quit", talk) is None
    assert "Ctrl-C" in run_slash_command("/help", talk)
    assert run_slash_command("/temperature 0.3", talk) == "temperature 0.3"
    assert talk.sampling.temperature == 0.3
    assert run_slash_command("/temperature -1", talk) == "/temperature -1: must be at least 0"
    assert run_slash_command("/temperature hot", talk) == "/temperature hot: must be a number; it is 0.3 now"
    assert run_slash_command("/temperature nan", talk) == "/temperature nan: must be at least 0"
    assert run_slash_command("/temp 1", talk) == "temperature 1.0"
    assert run_slash_command("/q", talk) is None
    assert "unknown command" in run_slash_command("/", talk)
    assert run_slash_command("/rest", talk) == "/rest: unknown command (did you mean /reset?); /help lists them"


def test_known_part_depends_on_the_tokenizer_alone():
    assert known_part(CharTokenizer("abc"), "cab") == ("cab", [])
    assert known_part(CharTokenizer("abc"), "xcabyx") == ("cab", ["x", "y"])


def test_the_greeting_says_what_kind_of_model_it_is(conversation):
    assert "base model" in greeting(conversation(), "{}")
    assert "'U: {}'" in greeting(conversation(), "U: {}")
    with pytest.raises(UserError, match=r"--turn U: : must contain \{\}"):
        ChatOptions(turn="U: ")


def test_piped_answers_go_to_stdout_and_all_else_to_stderr(directory, monkeypatch, capsys):
    assert chat(directory, "abc\n\n/temperature 0\nx\n", monkeypatch) == 0
    out, err = capsys.readouterr()
    assert len(out) == 3 * 5
    assert err.splitlines() == ["temperature 0.0", "unknown to the model and left out: 'x'"]


@pytest.mark.parametrize("lines", ["", "/quit\nabc\n", " /quit\nabc\n", "/help\n"])
def test_the_end_of_the_input_leaves(directory, monkeypatch, capsys, lines):
    assert chat(directory, lines, monkeypatch) == 0
    assert capsys.readouterr().out == ""


def test_interruption_ends_the_answer_and_not_the_program(directory, monkeypatch, capsys):
    original, calls = StreamDecoder.add, []

    def add(decoder, token):
        calls.append(token)
        if len(calls) == 2:
            for _ in range(3):  # by someone impatient
                os.kill(os.getpid(), signal.SIGINT)
        return original(decoder, token)

    monkeypatch.setattr(StreamDecoder, "add", add)
    assert chat(directory, "abc\nabc\n", monkeypatch) == 0
    out, err = capsys.readouterr()
    assert err == "stopped\n"
    assert len(out) == 3 + 5
    assert len(calls) == 2 + 4


def test_a_missing_model_is_one_sentence(tmp_path, monkeypatch, capsys):
    assert chat(tmp_path / "none", "", monkeypatch) == 2
    assert re.fullmatch(r"error: .*none: contains no model .*\n", capsys.readouterr().err)


class Terminal:
    """The command on a pseudo-terminal."""

    def __init__(self, directory):
        self.ours, theirs = os.openpty()
        command = [sys.executable, "-m", "gpt.chat", str(directory), "--device", "cpu", "--tokens", "100000"]
        root = Path(gpt.chat.__file__).parents[1]
        streams = {"stdin": theirs, "stdout": theirs, "stderr": theirs}
        self.process = subprocess.Popen(command, cwd=root, start_new_session=True, **streams)
        os.close(theirs)
        self.seen = ""

    def type(self, text):
        os.write(self.ours, text.encode())

    def wait_for(self, text, if_idle=lambda: None):
        """Read until `text` appears after what was waited for before, doing `if_idle` whenever nothing comes."""
        end = time.monotonic() + PATIENCE
        while text not in self.seen:
            assert time.monotonic() < end, self.seen
            if select.select([self.ours], [], [], 0.5)[0]:
                self.seen += os.read(self.ours, 1 << 16).decode(errors="replace")
            else:
                if_idle()
        self.seen = self.seen.partition(text)[2]

    def interrupt(self):
        """Ctrl-C. One that comes in the moment before the prompt waits for keys may have no effect until one comes."""
        self.process.send_signal(signal.SIGINT)


@pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals are POSIX's")
def test_in_a_terminal_ctrl_c_stops_the_answer_and_ctrl_d_leaves(directory):
    terminal = Terminal(directory)
    try:
        terminal.wait_for("This is a base model")
        terminal.wait_for("> ")
        terminal.type("abc\n")
        terminal.wait_for("abc")
        terminal.wait_for("\n")
        terminal.wait_for("a")  # it writes
        terminal.interrupt()
        terminal.wait_for("stopped", terminal.interrupt)
        terminal.interrupt()
        terminal.wait_for("to leave", terminal.interrupt)
        terminal.wait_for("unknown command (did you mean /reset?)", lambda: terminal.type("/rest\n"))
        terminal.wait_for("> ")
        terminal.type("\x04")
        assert terminal.process.wait(PATIENCE) == 0
    finally:
        terminal.process.kill()
        terminal.process.wait()
        os.close(terminal.ours)


def test_every_answer_has_its_own_seed(conversation):
    talk = conversation(tokens=30)
    answers = []
    for _ in range(2):
        talk.context.drop(1000)
        talk.say("abc")
        answers.append("".join(talk.answer()))
    assert answers[0] != answers[1]
    assert np.all(talk.context.ids >= 0)

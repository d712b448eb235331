"""A conversation with a model in the terminal: `python -m gpt.chat DIR`.

Floor 5, above `generate`. All that was said is one text, which the model continues; a `Context` holds as much of its
end as fits, with the keys and values of it, so each answer reads only what is new. A model that was trained on plain
text knows nothing of conversations and goes on with yours as if it were a page of that text; one tuned on written-out
talks needs `--turn` and `--stop` to be as they were there. The last file of the package.
"""

import contextlib
import dataclasses
import json
import signal
import sys
import threading
from dataclasses import dataclass

import tinytensor as tt
from gpt.cache import Context
from gpt.cli import make_parser, parse, run_command
from gpt.config import build, nearest, option
from gpt.errors import UserError
from gpt.generate import Sampling, Text, accept_any_text, first_ids, generate, show
from gpt.pretrained import find_directory, load_model
from gpt.vocabulary import CONFIG_NAME
from kernels.cpu.blocks import use_threads
from tinytensor.parallel import available_cores

with contextlib.suppress(ImportError):  # Windows has none, and its terminals edit lines themselves
    import readline  # noqa: F401  input() uses it: arrow keys, history, Ctrl-R

MESSAGE = "{}"
HELP = """\
Type a text, and the model goes on with it; Enter alone lets it go on from where it is.
/reset          forget everything said so far
/temperature X  how daring the model is: 0 always the likeliest, 1 as it learnt
/help           this
/quit           leave, as Ctrl-D does
Ctrl-C stops the answer."""
COMMANDS = ("/help", "/reset", "/temperature", "/quit")


@dataclass(frozen=True)
class Manner:
    """How to talk."""

    turn: str = option(MESSAGE, "what your message {} becomes, such as 'User: {}\\nBot:' for a model tuned on that")
    device: str = option("auto", "auto, cpu, cuda, cuda:N or emulated")

    def __post_init__(self):
        if MESSAGE not in self.turn:
            raise UserError(f"--turn {self.turn}: must hold {MESSAGE}, where your message goes")


class Conversation:
    """One text, written by the user and a model in turns."""

    def __init__(self, model, tokenizer, sampling, turn=MESSAGE):
        self.model, self.tokenizer, self.sampling = model, tokenizer, sampling
        self.turn = turn.replace("\\n", "\n")
        self.reset()

    def reset(self):
        """Forget everything said so far."""
        self.context, self.answers, self.last = Context(self.model), 0, "\n"

    def say(self, message):
        """Add a message; returns sentences about what of it the model cannot take."""
        if not message:
            return []
        new_line = "" if self.last == "\n" else "\n"
        text, unseen = known_part(self.tokenizer, new_line + self.turn.replace(MESSAGE, message))
        left_out = [character for character in unseen if character in message]
        notes = [f"unknown to the model and left out: {' '.join(map(repr, left_out))}"] if left_out else []
        ids = self.tokenizer.encode(text)
        if len(ids) > self.context.block_size:
            notes.append(
                f"the message is longer than the model's context: only its last {self.context.block_size} tokens count"
            )
        if text:
            self.context.append(ids)
        return notes

    def answer(self):
        """Yield the model's continuation in pieces. Whatever ends it, what was written belongs to the conversation."""
        if not self.context.ids.size:
            self.context.append(first_ids(self.tokenizer, ""))
        self.answers += 1
        sampling = dataclasses.replace(self.sampling, seed=tt.fold(self.sampling.seed, "answer", self.answers))
        text, count = Text(self.tokenizer, sampling.stops()), 0
        try:
            for (token,) in generate(self.context, sampling, self.tokenizer.vocab_size):
                count += 1
                yield text.add(token)
                if text.ended:
                    self._take_back(count, text.written)
                    return
            yield text.finish()
        finally:
            self.last = text.written[-1:] or self.last

    def _take_back(self, count, written):
        """Put what was written in place of the answer's tokens, whose last ones say that it ends."""
        self.context.drop(count)
        kept, _ = known_part(self.tokenizer, written)
        if kept:
            self.context.append(self.tokenizer.encode(kept))


def known_part(tokenizer, text):
    """The text without the characters that a tokenizer cannot encode, and those characters, sorted."""
    unseen = []
    try:
        tokenizer.encode(text)
    except UserError:
        unseen = [character for character in sorted(set(text)) if not encodable(tokenizer, character)]
    return "".join(character for character in text if character not in unseen), unseen


def encodable(tokenizer, character):
    """Whether a tokenizer knows a character."""
    try:
        tokenizer.encode(character)
    except UserError:
        return False
    return True


def obey(command, conversation):
    """Carry out a line that begins with a slash; returns what to say about it, or None to leave."""
    name, _, value = command.partition(" ")
    if name == "/quit":
        return None
    if name == "/help":
        return HELP
    if name == "/reset":
        conversation.reset()
        return "forgotten"
    if name == "/temperature":
        return set_temperature(conversation, value.strip())
    return f"{name}: unknown command{nearest(name, COMMANDS)}; /help lists them"


def set_temperature(conversation, value):
    """Change the temperature; returns what to say about it."""
    try:
        conversation.sampling = dataclasses.replace(conversation.sampling, temperature=float(value))
    except UserError:
        return f"/temperature {value}: must be at least 0"
    except ValueError:
        return f"/temperature {value}: must be a number; it is {conversation.sampling.temperature} now"
    return f"temperature {conversation.sampling.temperature}"


class Keyboard:
    """Reads lines, and notes when Ctrl-C was pressed, without ever losing control to a second one.

    Only while a line is being read does Ctrl-C raise KeyboardInterrupt; at other times it sets `pressed`.
    """

    def __init__(self, interactive):
        self.interactive, self.reading, self.pressed = interactive, False, False

    def __enter__(self):
        self.in_main_thread = threading.current_thread() is threading.main_thread()  # Python allows handlers there only
        if self.in_main_thread:
            self.previous = signal.signal(signal.SIGINT, self._press)
        return self

    def __exit__(self, *_):
        if self.in_main_thread:
            signal.signal(signal.SIGINT, self.previous)

    def _press(self, *_):
        self.pressed = True
        if self.reading:
            self.reading = False
            raise KeyboardInterrupt

    def line(self):
        """The next line. EOFError at the end of the input."""
        self.pressed, self.reading = False, True
        try:
            return input("> " if self.interactive else "")
        finally:
            self.reading = False


def converse(conversation, interactive):
    """Read lines and write answers until /quit or the end of the input."""
    with Keyboard(interactive) as keyboard:
        while True:
            try:
                line = keyboard.line()
            except EOFError:
                show("\n" if interactive else "")
                return
            except KeyboardInterrupt:
                if not interactive:
                    raise
                note("\n/quit or Ctrl-D to leave")
                continue
            if not line.startswith("/"):
                exchange(conversation, line, keyboard)
            elif reply := obey(line.strip(), conversation):
                note(reply)
            else:
                return


def exchange(conversation, message, keyboard):
    """Say a message and show the answer as it comes; Ctrl-C ends it with the next token."""
    for sentence in conversation.say(message):
        note(sentence)
    for piece in conversation.answer():
        show(piece)
        if keyboard.pressed:
            break
    show("\n")
    if keyboard.pressed:
        note("stopped")


def note(sentence):
    """Say something that is not the model's, on stderr, so that a pipe carries only answers."""
    print(sentence, file=sys.stderr, flush=True)


def greeting(directory, turn):
    """What kind of model this is, as far as that can be known."""
    if turn != MESSAGE:
        return f"Each message enters the text as {turn!r}. /help for help, /quit to leave."
    if has_chat_template(directory):
        kind = "This model was tuned to chat in a form of its own, which is not applied without --turn"
    else:
        kind = "This is a base model: it was trained on text, not to answer"
    return f"{kind}. It continues what you write. /help for help, /quit to leave."


def has_chat_template(directory):
    """Whether the tokenizer's configuration says how to write out a conversation."""
    try:
        return "chat_template" in json.loads((directory / CONFIG_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False


def main(argv=None):
    """The command."""
    groups = {"conversation": Manner, "how to choose tokens": Sampling}
    parser = make_parser("python -m gpt.chat DIR", "Talk with a trained model.", groups)
    parser.add_argument("directory", metavar="DIR", help="a run, or a model directory: RUN/best, or GPT-2's")
    settings = parse(parser, groups, argv)
    manner, sampling = build(Manner, settings), build(Sampling, settings)
    use_threads(available_cores())
    accept_any_text()
    model, tokenizer = load_model(settings["directory"], tt.device(manner.device))
    interactive = sys.stdin.isatty()
    if interactive:
        note(greeting(find_directory(settings["directory"]), manner.turn))
    converse(Conversation(model, tokenizer, sampling, manner.turn), interactive)
    return 0


def console_script():
    """The exit code of the command `tinytensor-chat`."""
    return run_command(main)


if __name__ == "__main__":
    sys.exit(console_script())

"""A conversation with a model in the terminal: `python -m gpt.chat DIR`.

A model that was tuned to chat answers: its own chat template says how (`gpt.generation.templates`), and its stop tokens
when it is done. A model that was trained on plain text knows nothing of conversations and continues yours as if it were
a page of that text; one that was tuned on transcripts needs `--turn` and `--stop` in the form that they had there.
"""

import contextlib
import dataclasses
import signal
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tinytensor as tt
from gpt.cli import accept_any_text, configure_process, make_parser, parse, run_command, show
from gpt.errors import UserError, did_you_mean
from gpt.generation.conversation import MESSAGE, Conversation
from gpt.generation.dialog import Dialog
from gpt.generation.packed import WEIGHTS, WEIGHTS_HELP, pack_weights
from gpt.generation.sampling import Sampling
from gpt.generation.templates import ChatTemplate, template_source
from gpt.options import DEVICE_HELP, build, check_options, option
from gpt.planning.check import check_generation
from gpt.tokenizers.load import Tokenizer
from gpt.training.manifest import find_verified
from gpt.weights.load import load_model, model_config

with contextlib.suppress(ImportError):  # Windows has none, and its terminals edit lines themselves
    import readline  # noqa: F401  input() uses it: arrow keys, history, Ctrl-R

HELP = """\
Type a text, and the model answers or continues it; Enter alone makes it go on.
/reset          forget everything said so far
/temperature X  how surprising the model is: 0 is greedy decoding, 1 samples from its own probabilities
/help           show this text
/quit           leave, as Ctrl-D does
Commands can be abbreviated, as in /temp 1.
Ctrl-C stops the answer."""
Talk = Conversation | Dialog
COMMANDS = ("/help", "/reset", "/temperature", "/quit")


@dataclass(frozen=True)
class ChatOptions:
    """How to talk."""

    turn: str = option(MESSAGE, "what your message {} becomes, such as 'User: {}\\nBot:' for a model tuned on that")
    system: str = option("", "what a model with a chat template is told before everything else")
    context: int = option(4096, "the most tokens that the model sees of all that was said", at_least=1)
    device: str = option("auto", DEVICE_HELP)
    weights: str = option("float32", WEIGHTS_HELP, choices=WEIGHTS)

    def __post_init__(self) -> None:
        check_options(self)
        if MESSAGE not in self.turn:
            raise UserError(f"--turn {self.turn}: must contain {MESSAGE}, where your message goes")


def run_slash_command(command: str, conversation: Talk) -> str | None:
    """Run a line that begins with a slash; returns the reply to show, or None to leave."""
    name, _, value = command.partition(" ")
    matches = [known for known in COMMANDS if known.startswith(name)]
    if len(matches) == 1:  # abbreviated
        name = matches[0]
    if name == "/quit":
        return None
    if name == "/help":
        return HELP
    if name == "/reset":
        conversation.reset()
        return "forgotten"
    if name == "/temperature":
        return set_temperature(conversation, value.strip())
    return f"{name}: unknown command{did_you_mean(name, COMMANDS)}; /help lists them"


def set_temperature(conversation: Talk, value: str) -> str:
    """Change the temperature; returns the reply to show."""
    try:
        conversation.sampling = dataclasses.replace(conversation.sampling, temperature=float(value))
    except UserError:
        return f"/temperature {value}: must be at least 0"
    except ValueError:
        return f"/temperature {value}: must be a number; it is {conversation.sampling.temperature} now"
    return f"temperature {conversation.sampling.temperature}"


class Keyboard:
    """Reads lines, and notes when Ctrl-C is pressed, however often.

    Only while a line is being read does Ctrl-C raise KeyboardInterrupt; at other times it sets `pressed`.
    """

    def __init__(self, interactive: bool):
        self.interactive, self.reading, self.pressed = interactive, False, False

    def __enter__(self) -> "Keyboard":
        self.in_main_thread = threading.current_thread() is threading.main_thread()  # Python allows handlers there only
        if self.in_main_thread:
            self.previous = signal.signal(signal.SIGINT, self._press)
        return self

    def __exit__(self, *_: object) -> None:
        if self.in_main_thread:
            signal.signal(signal.SIGINT, self.previous)

    def _press(self, *_: object) -> None:
        self.pressed = True
        if self.reading:
            self.reading = False
            raise KeyboardInterrupt

    def line(self) -> str:
        """The next line. EOFError at the end of the input."""
        self.pressed, self.reading = False, True
        try:
            return input("> " if self.interactive else "")
        finally:
            self.reading = False


def chat(conversation: Talk, interactive: bool) -> None:
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
            if not line.lstrip().startswith("/"):
                chat_turn(conversation, line, keyboard)
            elif reply := run_slash_command(line.strip(), conversation):
                note(reply)
            else:
                return


def chat_turn(conversation: Talk, message: str, keyboard: Keyboard) -> None:
    """Say a message and show the answer as it comes; Ctrl-C ends it after the current token."""
    try:
        notes = conversation.say(message)
    except UserError as error:
        note(str(error))
        return
    for sentence in notes:
        note(sentence)
    for piece in conversation.answer():
        show(piece)
        if keyboard.pressed:
            break
    show("\n")
    if keyboard.pressed:
        note("stopped")


def note(sentence: str) -> None:
    """Print something that is not the model's on stderr, so that a pipe carries only answers."""
    print(sentence, file=sys.stderr, flush=True)


def greeting(talk: Talk, turn: str) -> str:
    """What kind of model this is, as far as that can be known."""
    if isinstance(talk, Dialog):
        return "This model was tuned to chat; its own template is applied. /help for help, /quit to leave."
    if turn != MESSAGE:
        return f"Each message enters the text as {turn!r}. /help for help, /quit to leave."
    kind = "This is a base model: it was trained on text, not to answer"
    return f"{kind}. It continues what you write. /help for help, /quit to leave."


def start(model: Any, tokenizer: Tokenizer, sampling: Sampling, options: ChatOptions) -> Talk:
    """A Dialog if the model has a chat template, and `--turn` does not replace it, otherwise a Conversation."""
    source = template_source(tokenizer.companions)
    if source is not None and options.turn == MESSAGE:
        template = ChatTemplate(source, tokenizer.companions)
        return Dialog(model, tokenizer, sampling, template, options.system, options.context)
    if options.system:
        raise UserError(
            "--system: the model has no chat template, or --turn replaces it; begin the text with it instead"
        )
    return Conversation(model, tokenizer, sampling, options.turn, options.context)


def main(argv: Sequence[str] | None = None) -> int:
    """The command: talk with a model until the user leaves."""
    groups = {"conversation": ChatOptions, "how to choose tokens": Sampling}
    parser = make_parser("python -m gpt.chat DIR", "Talk with a trained model.", groups)
    parser.add_argument("directory", metavar="DIR", help="a run, or a model directory: RUN/best, or GPT-2's")
    settings = parse(parser, groups, argv)
    options, sampling = build(ChatOptions, settings), build(Sampling, settings)
    device = tt.device(options.device)
    configure_process(device)
    accept_any_text()
    directory = find_verified(settings["directory"])
    kind, config = model_config(directory)
    check_generation(kind, config, device, 1, min(config.block_size, options.context), sampling.tokens)
    model, tokenizer = load_model(directory, device)
    pack_weights(model, options.weights)
    interactive = sys.stdin.isatty()
    talk = start(model, tokenizer, sampling, options)
    if interactive:
        note(greeting(talk, options.turn))
    chat(talk, interactive)
    return 0


def console_script():
    """The exit code of the command `tinytensor-chat`."""
    return run_command(main, to_save_memory="use a smaller model")


if __name__ == "__main__":
    sys.exit(console_script())

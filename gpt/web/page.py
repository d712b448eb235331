"""The page: what is on it, and which function each button calls. All state of a user is in the browser.

An event's function gets the values of its input components and returns, or yields, those of its outputs. What they do
is in the other files of this package.
"""

from __future__ import annotations

import html
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from gpt.cli import error_message, shortened
from gpt.errors import UserError
from gpt.generation.conversation import MESSAGE
from gpt.generation.sampling import Sampling
from gpt.web.curves import curves_view
from gpt.web.folder import Entry, Folder
from gpt.web.models import Models, version_of
from gpt.web.samples import Samples
from gpt.web.sessions import Chat, Draft, StopButton
from gpt.web.views import attention_view, likelihood_view, messages_view, read

HERE = Path(__file__).parent
FONTS = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "DejaVu Sans Mono", "monospace"]}
STYLE = {
    # Gradio's themes load fonts from Google, unless others are named
    "theme": gr.themes.Base(primary_hue="blue", neutral_hue="stone", radius_size="sm", **FONTS),
    "css": (HERE / "page.css").read_text(encoding="utf-8"),
    "head": f"<script>{(HERE / 'page.js').read_text(encoding='utf-8')}</script>",
}
POLL_SECONDS = 2.0
USERS = 32  # who may write at the same time
MAX_LENGTH = 100_000  # characters of a text that is typed or pasted


def kept_in_browser(name: str) -> gr.BrowserState:
    """A value in the browser's local storage. Without a fixed key it would not outlive the server."""
    return gr.BrowserState(None, storage_key=f"tinytensor-{name}", secret="tinytensor")  # noqa: S106


def note(sentences: list[str]) -> str:
    """Sentences about what is not as the user might expect, as HTML."""
    return "".join(f'<p class="tt-note">{html.escape(shortened(sentence))}</p>' for sentence in sentences)


def explanation(error: Exception) -> list[str]:
    """What to tell the user about an error; a mistake of the program is raised again."""
    message = error_message(error, "use a smaller model")
    if message is None:
        raise error
    return [message.removeprefix("--")]


class Page:
    """The page for a folder. `blocks` is what Gradio serves."""

    def __init__(self, folder: Folder, models: Models):
        self.folder, self.models, self.samples = folder, models, Samples(models)
        with gr.Blocks(title="tinytensor", analytics_enabled=False) as self.blocks:
            self.model = gr.Dropdown([], label="Run or model", elem_id="model")
            self.chosen = kept_in_browser("model")
            self.unreadable = gr.HTML()
            with gr.Tabs() as self.tabs:
                with gr.Tab("Chat", id="chat"):
                    self._add_chat()
                with gr.Tab("Complete", id="complete"):
                    self._add_completion()
                with gr.Tab("Inside", id="inside"):
                    self._add_inside()
                with gr.Tab("Training", id="training"):
                    self._add_training()
            with gr.Accordion("How to choose tokens", open=False, elem_id="settings"):
                self._add_settings()
            self._connect()

    # ---- what is on the page

    def _add_chat(self) -> None:
        self.chat, self.chat_stop = kept_in_browser("chat"), gr.State(StopButton())
        # gr.Chatbot would indent and trim the model's text anew
        self.messages = gr.HTML(messages_view(Chat()), elem_id="messages")
        self.chat_note = gr.HTML(elem_id="chat-note")
        self.message = gr.Textbox(
            show_label=False, placeholder="Your text; Enter sends it", max_length=MAX_LENGTH, lines=1, max_lines=6,
            elem_id="message",
        )  # fmt: skip
        self.chat_buttons, self.inspect_chat = writing_buttons("Send", "chat")

    def _add_completion(self) -> None:
        self.draft, self.draft_stop = kept_in_browser("draft"), gr.State(StopButton())
        self.text = gr.Textbox(
            label="Text", placeholder="The beginning of a text", lines=14, max_lines=14, max_length=MAX_LENGTH,
            elem_id="text",
        )  # fmt: skip
        self.draft_note = gr.HTML(elem_id="draft-note")
        self.draft_buttons, self.inspect_draft = writing_buttons("Continue", "draft")

    def _add_inside(self) -> None:
        self.inside_text = gr.Textbox(label="Text", lines=3, max_lines=8, max_length=MAX_LENGTH, elem_id="inside-text")
        self.inspect = gr.Button("Look inside", variant="primary", elem_id="inspect")
        self.inside_note = gr.HTML(elem_id="inside-note")
        gr.HTML("<h3>Likelihood of each token</h3>")
        self.likelihood = gr.HTML(elem_id="likelihood")
        gr.HTML("<h3>Attention</h3>")
        with gr.Row(elem_classes="tt-row"):
            self.layer = gr.Dropdown([1], value=1, label="Layer", min_width=120, elem_id="layer")
            self.head = gr.Dropdown([1], value=1, label="Head", min_width=120, elem_id="head")
        self.attention = gr.HTML(elem_id="attention")

    def _add_training(self) -> None:
        with gr.Row(elem_classes="tt-row"):
            self.run = gr.Dropdown([], label="Run", min_width=140, elem_id="run")
            self.other = gr.Dropdown([], label="Compare with", min_width=140, elem_id="other")
        self.training_note = gr.HTML()
        self.curves = gr.HTML(elem_id="curves")
        gr.HTML("<h3>Samples</h3>")
        self.written = gr.HTML(elem_id="samples")
        self.timer, self.seen = gr.Timer(POLL_SECONDS, active=False), gr.State(None)

    def _add_settings(self) -> None:
        with gr.Row(elem_classes="tt-row"):
            tokens = gr.Slider(1, 2000, value=200, step=1, label="Tokens", info="to write", min_width=140)
            temperature = gr.Slider(
                0, 2, value=0.8, step=0.05, label="Temperature", info="0 is greedy decoding", min_width=140
            )
            seed = gr.Number(1, precision=0, minimum=0, label="Seed", info="repeats a text", min_width=140)
        with gr.Row(elem_classes="tt-row"):
            top_k = gr.Slider(0, 200, value=0, step=1, label="Top-k", info="0 is all tokens", min_width=140)
            top_p = gr.Slider(0.01, 1, value=1, step=0.01, label="Top-p", info="1 is all tokens", min_width=140)
            stop = gr.Textbox("", max_lines=1, label="Stop", info="end before this text", min_width=140)
        self.turn = gr.Textbox(
            MESSAGE, max_lines=1, label="Turn (chat)",
            info="what your message {} becomes, such as User: {}\\nBot: for a model tuned on that",
        )  # fmt: skip
        self.sampling = [tokens, temperature, top_k, top_p, stop, seed]  # in the order of `sampling_of`
        for component, name in zip(self.sampling, ("tokens", "temperature", "top-k", "top-p", "stop", "seed"), strict=True):
            component.elem_id = f"setting-{name}"

    # ---- which function each button calls

    def _connect(self) -> None:
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        many = {**quiet, "concurrency_limit": USERS}
        lists = [self.model, self.unreadable, self.run, self.other]
        self.blocks.load(
            self.load,
            [self.chosen, self.chat, self.draft, self.chat_stop, self.draft_stop],
            [*lists, self.messages, self.text],
            **quiet,
        )
        self.model.input(lambda name: name, self.model, self.chosen, **quiet)

        send, stop, retry, undo, clear = self.chat_buttons
        writing = [self.chat, self.messages, self.chat_note, *self.chat_buttons]
        source = [self.chat, self.model, self.chat_stop, self.turn, *self.sampling]
        gr.on([send.click, self.message.submit], self.send, [self.message, *source], [self.message, *writing], **many)
        retry.click(self.retry_answer, source, writing, **many)
        undo.click(self.undo_turn, self.chat, [self.message, *writing], **quiet)
        clear.click(lambda: ("", *self.chat_state(Chat(), [])), None, [self.message, *writing], **quiet)
        stop.click(press, self.chat_stop, None, queue=False, **quiet)

        extend, stop, retry, undo, clear = self.draft_buttons
        writing = [self.draft, self.text, self.draft_note, *self.draft_buttons]
        source = [self.draft, self.text, self.model, self.draft_stop, *self.sampling]
        extend.click(self.extend, source, writing, **many)
        retry.click(self.retry_draft, source, writing, **many)
        undo.click(self.undo_draft, self.draft, writing, **quiet)
        clear.click(lambda: self.draft_state(Draft(), []), None, writing, **quiet)
        stop.click(press, self.draft_stop, None, queue=False, **quiet)
        # what is typed is kept, too
        self.text.blur(self.keep_text, [self.draft, self.text], self.draft, **quiet)

        look = [self.inside_text, self.model, self.layer, self.head]
        seen = [self.inside_note, self.likelihood, self.attention, self.layer, self.head]
        for event in (self.inspect.click, self.layer.input, self.head.input, self.model.input):
            event(self.look_inside, look, seen, **many)
        self.inspect_chat.click(
            lambda *values: (gr.Tabs(selected="inside"), self.chat_text(*values)), [self.chat, self.model, self.turn],
            [self.tabs, self.inside_text], **quiet,
        ).then(self.look_inside, look, seen, **many)  # fmt: skip
        self.inspect_draft.click(
            lambda text: (gr.Tabs(selected="inside"), text), self.text, [self.tabs, self.inside_text], **quiet
        ).then(self.look_inside, look, seen, **many)  # fmt: skip

        watched = [self.run, self.other, self.seen]
        shown = [self.seen, self.training_note, self.curves, self.written]
        self.timer.tick(self.watch, watched, shown, **many)
        gr.on([self.run.input, self.other.input], self.watch, watched, shown, **many)
        self.tabs.select(self.poll, None, self.timer, **quiet)

    # ---- the functions

    def load(self, chosen: str | None, chat: Any, draft: Any, *_: StopButton) -> tuple:
        """What the page shows when it is opened, or reloaded: what there is now, and what the user has written."""
        try:
            entries, problems = self.folder.entries(), []
        except UserError as error:
            entries, problems = [], [str(error)]
        problems += [f"{entry.name} is unreadable: {entry.problem}" for entry in entries if entry.problem]
        models = [entry.name for entry in entries if entry.has_model]
        runs = [entry.name for entry in entries if entry.run]
        return (
            gr.Dropdown(models, value=chosen if chosen in models else next(iter(models), None)),
            note(problems),
            gr.Dropdown(runs, value=next(iter(runs), None)),
            gr.Dropdown(["none", *runs], value="none"),
            messages_view(Chat.restored(chat)),
            Draft.restored(draft).text,
        )

    def send(self, message: str, saved: Any, *rest: Any) -> Iterator[tuple]:
        """Add a message to the conversation and let the model answer."""
        chat = Chat.restored(saved)
        chat.ask(message)
        for state in self.answer(chat, *rest):
            yield ("", *state)

    def retry_answer(self, saved: Any, *rest: Any) -> Iterator[tuple]:
        """Let the model answer the newest message anew."""
        chat = Chat.restored(saved)
        if chat.turns:
            yield from self.answer(chat, *rest)
        else:
            yield self.chat_state(chat, [])

    def answer(self, chat: Chat, name: str, stop: StopButton, turn: str, *settings: Any) -> Iterator[tuple]:
        """Yield the conversation as the answer grows."""
        stop.pressed, notes = False, list[str]()
        yield self.chat_state(chat, notes, busy=True)
        try:
            if MESSAGE not in turn:
                raise UserError(f"turn {turn}: must contain {MESSAGE}, where your message goes")
            sampling = sampling_of(*settings)
            for notes in chat.answer(self.models.get(name), sampling, turn, stop):
                yield self.chat_state(chat, notes, busy=True)
        except Exception as error:
            notes = explanation(error)
        yield self.chat_state(chat, notes)

    def undo_turn(self, saved: Any) -> tuple:
        """Remove the newest message and its answer; the message can be edited and sent again."""
        chat = Chat.restored(saved)
        return chat.undo(), *self.chat_state(chat, [])

    def chat_state(self, chat: Chat, notes: list[str], busy: bool = False) -> tuple:
        """The conversation, as the browser keeps it and as it is shown, and the buttons."""
        return vars(chat), messages_view(chat), note(notes), *enabled(busy)

    def chat_text(self, saved: Any, name: str, turn: str) -> str:
        """The conversation as one text, as the model sees it."""
        try:
            return Chat.restored(saved).text(self.models.get(name), turn)
        except UserError:
            return ""  # `look_inside`, which follows, says why

    def extend(self, saved: Any, text: str, *rest: Any, retries: int = 0) -> Iterator[tuple]:
        """Let the model continue the text."""
        draft = Draft.restored(saved)
        draft.text, draft.retries = text, retries
        yield from self.write(draft, *rest)

    def retry_draft(self, saved: Any, text: str, *rest: Any) -> Iterator[tuple]:
        """Let the model write the newest continuation anew, or the first one."""
        draft = Draft.restored(saved)
        draft.text = text
        draft.retries += bool(draft.earlier)
        draft.undo()
        yield from self.write(draft, *rest)

    def write(self, draft: Draft, name: str, stop: StopButton, *settings: Any) -> Iterator[tuple]:
        """Yield the text as it grows."""
        stop.pressed, notes = False, list[str]()
        yield self.draft_state(draft, notes, busy=True)
        try:
            for notes in draft.extend(self.models.get(name), sampling_of(*settings), stop):
                yield self.draft_state(draft, notes, busy=True)
        except Exception as error:
            notes = explanation(error)
        yield self.draft_state(draft, notes)

    def undo_draft(self, saved: Any) -> tuple:
        """Go back to the text before the newest continuation."""
        draft = Draft.restored(saved)
        draft.undo()
        return self.draft_state(draft, [])

    def keep_text(self, saved: Any, text: str) -> dict[str, Any]:
        """The text with what the user has typed."""
        draft = Draft.restored(saved)
        draft.text = text
        return vars(draft)

    def draft_state(self, draft: Draft, notes: list[str], busy: bool = False) -> tuple:
        """The text, as the browser keeps it and as it is shown, and the buttons."""
        return vars(draft), draft.text, note(notes), *enabled(busy)

    def look_inside(self, text: str, name: str, layer: int, head: int) -> tuple:
        """How a model reads a text: notes, likelihoods, the attention of a head, and the layers and heads there are."""
        try:
            reading = read(self.models.get(name), text)
        except Exception as error:
            return note(explanation(error)), "", "", gr.skip(), gr.skip()
        layers = len(reading.trace.layers) or 1
        heads = len(reading.trace.layers[0].weights) if reading.trace.layers else 1
        layer, head = min(layer, layers), min(head, heads)
        return (
            note(reading.notes),
            likelihood_view(reading),
            attention_view(reading, layer - 1, head - 1),
            gr.Dropdown(list(range(1, layers + 1)), value=layer),
            gr.Dropdown(list(range(1, heads + 1)), value=head),
        )

    def poll(self, event: gr.SelectData) -> gr.Timer:
        """Look for news of the runs only while somebody looks at them."""
        return gr.Timer(active=event.value == "Training")

    def watch(self, name: str | None, other: str, seen: Any) -> Iterator[tuple]:
        """The curves of the chosen runs and samples of the first, if anything has changed since `seen`."""
        try:
            entries = [self.folder.find(chosen) for chosen in dict.fromkeys((name, other)) if chosen not in ("none", None)]
            now = [state_of(entry) for entry in entries]
            if now == seen or not entries:
                yield (gr.skip(),) * 4
                return
            yield now, "", curves_view([entry.run for entry in entries if entry.run]), gr.skip()
            yield now, "", gr.skip(), self.samples.view(entries[0])
        except Exception as error:
            yield None, note(explanation(error)), gr.skip(), gr.skip()


def writing_buttons(verb: str, name: str) -> tuple[list[gr.Button], gr.Button]:
    """A row of buttons: those to write, stop, retry, undo, clear, and the one to look inside."""
    with gr.Row(elem_classes="tt-row"):
        write = gr.Button(verb, variant="primary", size="md", min_width=90, elem_id=f"{name}-write")
        stop = gr.Button("Stop", variant="stop", size="md", min_width=90, interactive=False, elem_id=f"{name}-stop")
        words = {"retry": "Retry", "undo": "Undo", "clear": "Clear", "inside": "Look inside"}
        others = [gr.Button(text, size="md", min_width=90, elem_id=f"{name}-{word}") for word, text in words.items()]
    return [write, stop, *others[:-1]], others[-1]


def enabled(busy: bool) -> list[gr.Button]:
    """The same buttons: while the model writes, only Stop can be pressed."""
    return [gr.Button(interactive=usable) for usable in (not busy, busy, not busy, not busy, not busy)]


def press(stop: StopButton) -> None:
    """Ask the model to stop writing."""
    stop.pressed = True


def sampling_of(tokens: int, temperature: float, top_k: int, top_p: float, stop: str, seed: int) -> Sampling:
    """The Sampling that the settings ask for. Raises UserError."""
    return Sampling(tokens=tokens, temperature=temperature, top_k=top_k, top_p=top_p, stop=stop, seed=seed)


def state_of(entry: Entry) -> tuple:
    """What changes when a run has something new to show."""
    metrics = entry.path / "metrics.jsonl"
    size = metrics.stat().st_size if metrics.exists() else 0
    return entry.name, size, version_of(entry.path)

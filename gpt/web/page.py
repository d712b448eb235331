"""The page: what is on it, and which function of `handlers.py` each event calls, with which inputs and outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from gpt.generation.conversation import MESSAGE
from gpt.web.folder import Folder
from gpt.web.handlers import Handlers, press
from gpt.web.models import Models
from gpt.web.sessions import Chat, Draft, StopButton
from gpt.web.views import messages_view

HERE = Path(__file__).parent
STYLE = {
    # Gradio's themes load fonts from Google, unless others are named
    "theme": gr.themes.Base(
        primary_hue="blue", neutral_hue="stone", radius_size="sm", font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "DejaVu Sans Mono", "monospace"],
    ),
    "css": (HERE / "page.css").read_text(encoding="utf-8"),
    "head": f"<script>{(HERE / 'page.js').read_text(encoding='utf-8')}</script>",
}  # fmt: skip
POLL_SECONDS = 2.0
USERS = 32  # who may write at the same time
MAX_LENGTH = 100_000  # characters of a text that is typed or pasted


def kept_in_browser(name: str) -> gr.BrowserState:
    """A value in the browser's local storage. Without a fixed key it would not outlive the server."""
    return gr.BrowserState(None, storage_key=f"tinytensor-{name}", secret="tinytensor")


class Page:
    """The page for a folder. `blocks` is what Gradio serves."""

    def __init__(self, folder: Folder, models: Models):
        self.handlers = Handlers(folder, models)
        model_names, run_names, _ = self.handlers.list_folder()
        with gr.Blocks(title="tinytensor", analytics_enabled=False) as self.blocks:
            self.model = gr.Dropdown(model_names, label="Run or model", elem_id="model")
            # outside of the tabs, whose content Gradio makes when they are first opened
            self.chosen, self.chat, self.draft = map(kept_in_browser, ("model", "chat", "draft"))
            self.unreadable = gr.HTML(elem_id="unreadable")
            with gr.Tabs() as self.tabs:
                with gr.Tab("Chat", id="chat"):
                    self._add_chat()
                with gr.Tab("Complete", id="complete"):
                    self._add_completion()
                with gr.Tab("Inside", id="inside"):
                    self._add_inside()
                with gr.Tab("Training", id="training"):
                    self._add_training(run_names)
            with gr.Accordion("How to choose tokens", open=False, elem_id="settings"):
                self._add_settings()
            self._connect()

    # ---- what is on the page

    def _add_chat(self) -> None:
        self.chat_stop = gr.State(StopButton())
        # gr.Chatbot would indent and trim the model's text anew
        self.messages = gr.HTML(messages_view(Chat()), elem_id="messages")
        self.chat_note = gr.HTML(elem_id="chat-note")
        self.message = gr.Textbox(
            show_label=False, placeholder="Your text; Enter sends it", max_length=MAX_LENGTH, lines=1, max_lines=6,
            elem_id="message",
        )  # fmt: skip
        self.chat_buttons, self.inspect_chat = writing_buttons("Send", "chat")

    def _add_completion(self) -> None:
        self.draft_stop = gr.State(StopButton())
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

    def _add_training(self, runs: list[str]) -> None:
        with gr.Row(elem_classes="tt-row"):
            self.run = gr.Dropdown(runs, label="Run", min_width=140, elem_id="run")
            self.other = gr.Dropdown(["none", *runs], label="Compare with", min_width=140, elem_id="other")
        self.training_note = gr.HTML(elem_id="training-note")
        self.curves = gr.HTML(elem_id="curves")
        gr.HTML("<h3>Samples</h3>")
        self.written = gr.HTML(elem_id="samples")
        self.timer, self.seen = gr.Timer(POLL_SECONDS, active=False), gr.State(None)

    def _add_settings(self) -> None:
        def shown(label: str, info: str) -> dict[str, Any]:
            return {"label": label, "info": info, "min_width": 140, "elem_id": f"setting-{label.lower()}"}

        with gr.Row(elem_classes="tt-row"):
            tokens = gr.Slider(1, 2000, 200, step=1, **shown("Tokens", "to write"))
            temperature = gr.Slider(0, 2, 0.8, step=0.05, **shown("Temperature", "0 is greedy decoding"))
            seed = gr.Number(1, precision=0, minimum=0, **shown("Seed", "repeats a text"))
        with gr.Row(elem_classes="tt-row"):
            top_k = gr.Slider(0, 200, 0, step=1, **shown("Top-k", "0 is all tokens"))
            top_p = gr.Slider(0.01, 1, 1, step=0.01, **shown("Top-p", "1 is all tokens"))
            stop = gr.Textbox("", max_lines=1, **shown("Stop", "end before this text"))
        example = "what your message {} becomes, such as User: {}\\nBot: for a model tuned on that"
        self.turn = gr.Textbox(MESSAGE, max_lines=1, **shown("Turn", example))
        self.sampling = [tokens, temperature, top_k, top_p, stop, seed]  # in the order of `sampling_of`

    # ---- which function each button calls

    def _connect(self) -> None:
        do = self.handlers
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        many = {**quiet, "concurrency_limit": USERS}
        lists = [self.model, self.unreadable, self.run, self.other]
        self.blocks.load(
            do.load,
            [self.chosen, self.chat, self.draft, self.chat_stop, self.draft_stop],
            [*lists, self.messages, self.text],
            **quiet,
        )
        self.model.input(lambda name: name, self.model, self.chosen, **quiet)

        send, stop, retry, undo, clear = self.chat_buttons
        writing = [self.chat, self.messages, self.chat_note, *self.chat_buttons]
        source = [self.chat, self.model, self.chat_stop, self.turn, *self.sampling]
        sending = gr.on(
            [send.click, self.message.submit], do.send, [self.message, *source], [self.message, *writing], **many
        )
        retrying = retry.click(do.retry_answer, source, writing, **many)
        # the browser shows nothing more at once, and the server ends after the token that it computes
        stop.click(press, self.chat_stop, self.chat_buttons, queue=False, cancels=[sending, retrying], **quiet)
        undo.click(do.undo_turn, self.chat, [self.message, *writing], **quiet)
        clear.click(lambda: ("", *do.chat_state(Chat(), [])), None, [self.message, *writing], **quiet)

        extend, stop, retry, undo, clear = self.draft_buttons
        writing = [self.draft, self.text, self.draft_note, *self.draft_buttons]
        source = [self.draft, self.text, self.model, self.draft_stop, *self.sampling]
        extending = extend.click(do.extend, source, writing, **many)
        retrying = retry.click(do.retry_draft, source, writing, **many)
        stop.click(press, self.draft_stop, self.draft_buttons, queue=False, cancels=[extending, retrying], **quiet)
        undo.click(do.undo_draft, self.draft, writing, **quiet)
        clear.click(lambda: do.draft_state(Draft(), []), None, writing, **quiet)
        # what is typed is kept, too, without asking the server
        keep = "(draft, text) => ({...draft, text})"
        self.text.blur(None, [self.draft, self.text], self.draft, js=keep, **quiet)

        look = [self.inside_text, self.model, self.layer, self.head]
        seen = [self.inside_note, self.likelihood, self.attention, self.layer, self.head]
        for event in (self.inspect.click, self.layer.input, self.head.input, self.model.input):
            event(do.look_inside, look, seen, **many)
        self.inspect_chat.click(
            lambda *values: (gr.Tabs(selected="inside"), do.chat_text(*values)), [self.chat, self.model, self.turn],
            [self.tabs, self.inside_text], **quiet,
        ).then(do.look_inside, look, seen, **many)  # fmt: skip
        self.inspect_draft.click(
            lambda text: (gr.Tabs(selected="inside"), text), self.text, [self.tabs, self.inside_text], **quiet
        ).then(do.look_inside, look, seen, **many)  # fmt: skip

        watched = [self.run, self.other, self.seen]
        shown = [self.seen, self.training_note, self.curves, self.written]
        self.timer.tick(do.watch, watched, shown, **many)
        gr.on([self.run.input, self.other.input], do.watch, watched, shown, **many)
        self.tabs.select(do.turn_to, None, self.timer, **quiet)


def writing_buttons(verb: str, name: str) -> tuple[list[gr.Button], gr.Button]:
    """A row of buttons: those to write, stop, retry, undo, clear, and the one to look inside."""
    with gr.Row(elem_classes="tt-row"):
        write = gr.Button(verb, variant="primary", size="md", min_width=90, elem_id=f"{name}-write")
        stop = gr.Button("Stop", variant="stop", size="md", min_width=90, interactive=False, elem_id=f"{name}-stop")
        words = {"retry": "Retry", "undo": "Undo", "clear": "Clear", "inside": "Look inside"}
        others = [gr.Button(text, size="md", min_width=90, elem_id=f"{name}-{word}") for word, text in words.items()]
    return [write, stop, *others[:-1]], others[-1]

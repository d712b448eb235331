"""The functions that the page's events call.

Each gets the values of the event's input components and returns, or yields, those of its outputs. What a user has
written comes with every event, from the browser, and goes back there: the server keeps nothing of it.
"""

from __future__ import annotations

import html
from collections.abc import Iterator
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


class Handlers:
    """The functions of the page for a folder."""

    def __init__(self, folder: Folder, models: Models):
        self.folder, self.models, self.samples = folder, models, Samples(models)

    def load(self, chosen: str | None, chat: Any, draft: Any, *_: StopButton) -> tuple:
        """What the page shows when it is opened, or reloaded: what there is now, and what the user has written."""
        models, runs, problems = self.list_folder()
        return (
            gr.Dropdown(models, value=chosen if chosen in models else next(iter(models), None)),
            note(problems),
            gr.Dropdown(runs, value=next(iter(runs), None)),
            gr.Dropdown(["none", *runs], value="none"),
            messages_view(Chat.restored(chat)),
            Draft.restored(draft).text,
        )

    def list_folder(self) -> tuple[list[str], list[str], list[str]]:
        """The names of the models and of the runs that there are now, and sentences about what is unreadable."""
        try:
            entries, problems = self.folder.entries(), []
        except UserError as error:
            entries, problems = [], [str(error)]
        problems += [f"{entry.name} is unreadable: {entry.problem}" for entry in entries if entry.problem]
        models = [entry.name for entry in entries if entry.has_model]
        return models, [entry.name for entry in entries if entry.run], problems

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
                yield self.chat_state(chat, notes, busy=None)
        except Exception as error:
            notes = explanation(error)
        yield self.chat_state(chat, notes)

    def undo_turn(self, saved: Any) -> tuple:
        """Remove the newest message and its answer; the message can be edited and sent again."""
        chat = Chat.restored(saved)
        return chat.undo(), *self.chat_state(chat, [])

    def chat_state(self, chat: Chat, notes: list[str], busy: bool | None = False) -> tuple:
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
                yield self.draft_state(draft, notes, busy=None)
        except Exception as error:
            notes = explanation(error)
        yield self.draft_state(draft, notes)

    def undo_draft(self, saved: Any) -> tuple:
        """Go back to the text before the newest continuation."""
        draft = Draft.restored(saved)
        draft.undo()
        return self.draft_state(draft, [])

    def draft_state(self, draft: Draft, notes: list[str], busy: bool | None = False) -> tuple:
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

    def turn_to(self, event: gr.SelectData) -> gr.Timer:
        """Look for news of the runs only while they are shown."""
        return gr.Timer(active=event.value == "Training")

    def watch(self, name: str | None, other: str, seen: Any) -> Iterator[tuple]:
        """The curves of the chosen runs and samples of the first, if anything has changed since `seen`."""
        try:
            names = [chosen for chosen in dict.fromkeys((name, other)) if chosen and chosen != "none"]
            entries = [self.folder.find(chosen) for chosen in names]
            now = [state_of(entry) for entry in entries]
            if now == seen or not entries:
                yield (gr.skip(),) * 4
                return
            yield now, "", curves_view([entry.run for entry in entries if entry.run]), gr.skip()
            yield now, "", gr.skip(), self.samples.view(entries[0])
        except Exception as error:
            yield None, note(explanation(error)), gr.skip(), gr.skip()


def enabled(busy: bool | None) -> list[Any]:
    """The buttons of a text: while the model writes, only Stop can be pressed. None leaves them as they are.

    Updates of a text do so: one that arrives after Stop was pressed must not disable what that has enabled.
    """
    if busy is None:
        return [gr.skip()] * 5
    return [gr.Button(interactive=usable) for usable in (not busy, busy, not busy, not busy, not busy)]


def press(stop: StopButton) -> list[Any]:
    """Ask the model to stop writing; returns the buttons."""
    stop.pressed = True
    return enabled(busy=False)


def sampling_of(tokens: int, temperature: float, top_k: int, top_p: float, stop: str, seed: int) -> Sampling:
    """The Sampling that the settings ask for. Raises UserError."""
    return Sampling(tokens=tokens, temperature=temperature, top_k=top_k, top_p=top_p, stop=stop, seed=seed)


def state_of(entry: Entry) -> tuple:
    """What changes when a run has something new to show."""
    metrics = entry.path / "metrics.jsonl"
    size = metrics.stat().st_size if metrics.exists() else 0
    return entry.name, size, version_of(entry.path)


def note(sentences: list[str]) -> str:
    """Sentences about what is not as the user might expect, as HTML."""
    return "".join(f'<p class="tt-note">{html.escape(shortened(sentence))}</p>' for sentence in sentences)


def explanation(error: Exception) -> list[str]:
    """What to tell the user about an error; a mistake of the program is raised again."""
    message = error_message(error, "use a smaller model")
    if message is None:
        raise error
    return [message.removeprefix("--")]

"""What one user writes with a model: a conversation, or a text that both continue.

Both are plain values that the browser keeps, as JSON, so the server holds nobody's text, and users cannot mix.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from gpt.generation.conversation import Conversation, known_part, notes_on_unseen
from gpt.generation.sampling import Sampling
from gpt.generation.stream import stream
from gpt.web.models import LoadedModel

UPDATE_SECONDS = 0.05  # between two updates of the page
MAX_TURNS = 200  # of a conversation, and texts to go back to; older ones are forgotten


class StopButton:
    """Whether a user asked the model to stop writing."""

    pressed = False


@dataclass
class Chat:
    """A conversation. answers: how many were asked for, retries included; it determines what the next one draws."""

    turns: list[list[str]] = field(default_factory=list)  # [message, answer]
    answers: int = 0

    @classmethod
    def restored(cls, saved: Any) -> Chat:
        """The conversation that the browser kept, or a new one if that is something else."""
        try:
            found = cls(**saved)
            valid = all(len(turn) == 2 and all(type(text) is str for text in turn) for turn in found.turns)
            return found if valid and type(found.answers) is int and found.answers >= 0 else cls()
        except TypeError:
            return cls()

    def ask(self, message: str) -> None:
        """Add a message, whose answer is still to be written."""
        self.turns = [*self.turns, [message, ""]][-MAX_TURNS:]

    def undo(self) -> str:
        """Remove the newest message and its answer; returns the message, which is empty if there is none."""
        return self.turns.pop()[0] if self.turns else ""

    def answer(self, loaded: LoadedModel, sampling: Sampling, turn: str, stop: StopButton) -> Iterator[list[str]]:
        """Write the answer to the newest message, or write it anew.

        Yields, each time that it has grown, sentences about what the model cannot read.
        """
        newest = self.turns[-1]
        conversation = replayed(self.turns[:-1], loaded, sampling, turn)
        notes = conversation.say(newest[0])
        conversation.answers, self.answers, newest[1] = self.answers, self.answers + 1, ""
        yield notes
        for piece in paced(conversation.answer(), loaded, stop):
            newest[1] += piece
            yield notes

    def text(self, loaded: LoadedModel, turn: str) -> str:
        """As much of the conversation as the model's context holds."""
        conversation = replayed(self.turns, loaded, Sampling(), turn)
        return loaded.tokenizer.decode(conversation.context.ids[0])


def replayed(turns: list[list[str]], loaded: LoadedModel, sampling: Sampling, turn: str) -> Conversation:
    """A Conversation in which all that was said before has been said. Nothing is computed."""
    conversation = Conversation(loaded.model, loaded.tokenizer, sampling, turn)
    for message, answer in turns:
        conversation.say(message)
        conversation.recall(answer)
    return conversation


@dataclass
class Draft:
    """A text that the user and a model write together."""

    text: str = ""
    earlier: list[str] = field(default_factory=list)  # the text before each continuation
    retries: int = 0  # of the newest continuation

    @classmethod
    def restored(cls, saved: Any) -> Draft:
        """The text that the browser kept, or a new one if that is something else."""
        try:
            found = cls(**saved)
            valid = all(type(text) is str for text in [found.text, *found.earlier])
            return found if valid and type(found.retries) is int and found.retries >= 0 else cls()
        except TypeError:
            return cls()

    def undo(self) -> None:
        """Go back to the text before the newest continuation."""
        if self.earlier:
            self.text = self.earlier.pop()

    def extend(self, loaded: LoadedModel, sampling: Sampling, stop: StopButton) -> Iterator[list[str]]:
        """Continue the text as `gpt.generate` does; a retry draws other tokens.

        Yields, each time that it has grown, sentences about what the model cannot read.
        """
        self.earlier = [*self.earlier, self.text][-MAX_TURNS:]
        if self.retries:
            sampling = sampling.reseeded("retry", self.retries)
        prompt, notes = readable(self.text, loaded)
        yield notes
        pieces = (piece for _, piece in stream(loaded.model, loaded.tokenizer, prompt, sampling))
        for piece in paced(pieces, loaded, stop):
            self.text += piece
            yield notes


def readable(text: str, loaded: LoadedModel) -> tuple[str, list[str]]:
    """What of a text a model can read, and sentences about the rest."""
    known, unseen = known_part(loaded.tokenizer, text)
    notes = notes_on_unseen(unseen)
    count = len(loaded.tokenizer.encode(known))
    if count > loaded.block_size:
        notes.append(
            f"the text has {count} tokens, more than the model's context: only its last {loaded.block_size} count"
        )
    return known, notes


def paced(pieces: Iterator[str], loaded: LoadedModel, stop: StopButton) -> Iterator[str]:
    """The pieces of a text, those of UPDATE_SECONDS in one; the first at once, none after `stop` is pressed."""
    waiting, shown = "", -math.inf
    while not stop.pressed:
        with loaded.turn():
            piece = next(pieces, None)
        if piece is None:
            break
        waiting += piece
        if waiting and time.monotonic() > shown + UPDATE_SECONDS:
            yield waiting
            waiting, shown = "", time.monotonic()
    if waiting:
        yield waiting

"""A conversation: one text that the user and a model write in turns.

Everything said is one text, which the model continues; a `Context` holds as much of its end as fits, with the keys and
values, so each answer reads only what is new.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from gpt.errors import UserError
from gpt.generation.sampling import Sampling
from gpt.generation.stream import StreamDecoder, first_ids, generate
from gpt.model.cache import Context
from gpt.tokenizers.load import Tokenizer

MESSAGE = "{}"  # the place of the user's message in a turn


class Conversation:
    """One text, written by the user and a model in turns."""

    def __init__(
        self, model: Any, tokenizer: Tokenizer, sampling: Sampling, turn: str = MESSAGE, limit: int | None = None
    ):
        self.model, self.tokenizer, self.sampling, self.limit = model, tokenizer, sampling, limit
        self.turn = turn.replace("\\n", "\n")
        self.reset()

    def reset(self) -> None:
        """Forget everything said so far."""
        self.context, self.answers, self.last = Context(self.model, limit=self.limit), 0, "\n"

    def say(self, message: str) -> list[str]:
        """Add a message; returns sentences about anything in it that the model cannot read."""
        if not message:
            return []
        new_line = "" if self.last == "\n" else "\n"
        text, unseen = known_part(self.tokenizer, new_line + self.turn.replace(MESSAGE, message))
        left_out = [character for character in unseen if character in message]
        notes = notes_on_unseen(left_out)
        ids = self.tokenizer.encode(text)
        if not self.context.ids.size:
            ids = np.array([*self.tokenizer.beginning, *ids], dtype=np.int64)
        if len(ids) > self.context.block_size:
            notes.append(
                f"the message is longer than the model's context: only its last {self.context.block_size} tokens count"
            )
        if text:
            self.context.append(ids)
        return notes

    def answer(self) -> Iterator[str]:
        """Yield the model's continuation in pieces. Whatever ends it, what was written belongs to the conversation."""
        if not self.context.ids.size:
            self.context.append(first_ids(self.tokenizer, ""))
        self.answers += 1
        sampling = self.sampling.reseeded("answer", self.answers)
        decoder, count = StreamDecoder(self.tokenizer, sampling.stop_texts()), 0
        try:
            for (token,) in generate(self.context, sampling, self.tokenizer.vocab_size):
                count += 1
                yield decoder.add(token)
                if decoder.ended:
                    self._replace_newest(count, decoder.written)
                    return
            yield decoder.finish()
        finally:
            self.last = decoder.written[-1:] or self.last

    def recall(self, answer: str) -> None:
        """Add an answer that the model gave earlier, without its being computed again."""
        self.answers += 1
        self._append(answer)
        self.last = answer[-1:] or self.last

    def _replace_newest(self, count: int, written: str) -> None:
        """Put the written text in place of the answer's tokens, the last of which only end it."""
        self.context.drop(count)
        self._append(written)

    def _append(self, answer: str) -> None:
        kept, _ = known_part(self.tokenizer, answer)
        if kept:
            self.context.append(self.tokenizer.encode(kept))


def notes_on_unseen(characters: Sequence[str]) -> list[str]:
    """A sentence about characters that the model does not know, if there are any."""
    return [f"unknown to the model and left out: {' '.join(map(repr, characters))}"] if characters else []


def known_part(tokenizer: Tokenizer, text: str) -> tuple[str, list[str]]:
    """The text without the characters that a tokenizer cannot encode, and those characters, sorted."""
    unseen: list[str] = []
    try:
        tokenizer.encode(text)
    except UserError:
        unseen = [character for character in sorted(set(text)) if not is_encodable(tokenizer, character)]
    return "".join(character for character in text if character not in unseen), unseen


def is_encodable(tokenizer: Tokenizer, character: str) -> bool:
    """Whether a tokenizer can encode a character."""
    try:
        tokenizer.encode(character)
    except UserError:
        return False
    return True

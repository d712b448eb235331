"""A dialog with a model that was tuned to chat: messages of a user and the model, written by its own template.

The whole dialog is written anew for each answer, as templates may depend on all of it. What it has in common with the
tokens in the context, which is nearly all, is not run through the model again.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from gpt.errors import UserError
from gpt.generation.sampling import Sampling
from gpt.generation.stream import StreamDecoder, generate
from gpt.generation.templates import ChatTemplate
from gpt.model.cache import Context
from gpt.tokenizers.load import Tokenizer


class Dialog:
    """Messages, and the context of the model that answers them: of `limit` tokens, if that is less than it has.

    The model must be in evaluation mode. UserError if the `system` prompt leaves no room for a message.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Tokenizer,
        sampling: Sampling,
        template: ChatTemplate,
        system: str = "",
        limit: int | None = None,
    ):
        self.model, self.tokenizer, self.sampling = model, tokenizer, sampling
        self.template, self.limit = template, limit
        self.system = [{"role": "system", "content": system}] if system else []
        self.reset()
        if system and (length := len(self._ids({"role": "user", "content": ""}))) >= self._room():
            raise UserError(
                f"--system: leaves no room for a message: it has {length} tokens with the chat template, and the model "
                f"has room for {self._room()}{self._remedy()}"
            )

    def reset(self) -> None:
        """Forget everything but the system prompt."""
        self.messages: list[dict[str, str]] = []
        self.context, self.answers = Context(self.model, limit=self.limit), 0

    def say(self, message: str) -> list[str]:
        """Add a user's message; returns sentences about what the model will not see."""
        if message:
            self.messages.append({"role": "user", "content": message})
        forgotten = 0
        while len(ids := self._ids()) > self._room() and len(self.messages) > 1:
            forgotten += 1
            del self.messages[: 1 + sum(m["role"] == "assistant" for m in self.messages[1:2])]
        if len(ids) > self._room():
            del self.messages[-1:]
            about = "template and --system" if self.system else "template"
            raise UserError(
                f"the message has {len(ids)} tokens with its {about}, and the model has room for "
                f"{self._room()}{self._remedy()}"
            )
        return ["the beginning of the dialog no longer fits the model's context and is forgotten"] if forgotten else []

    def _room(self) -> int:
        """Tokens of a dialog that leave half of the context, or as much as an answer may have, for the answer."""
        return self.context.block_size - min(self.sampling.tokens, self.context.block_size // 2)

    def _remedy(self) -> str:
        """What to do about a text that is too long."""
        size = self.context.block_size
        reserved = f"{size - self._room()} of its context's {size} are reserved for the answer"
        return f", as {reserved}: shorten it, or reserve fewer with --tokens N"

    def _ids(self, *more: dict[str, str]) -> np.ndarray:
        """The tokens (T,) of the dialog, and of `more` messages."""
        return self.tokenizer.encode(self.template.render([*self.system, *self.messages, *more]), special=True)

    def answer(self) -> Iterator[str]:
        """Yield the model's answer in pieces, up to a stop token. Whatever ends it, it belongs to the dialog."""
        ids = self._ids()
        known = self.context.ids[0][: len(ids)]
        common = int(np.cumprod(known == ids[: len(known)]).sum())
        self.context.drop(self.context.ids.shape[1] - common)
        self.context.append(ids[common:])
        self.answers += 1
        sampling = self.sampling.reseeded("answer", self.answers)
        decoder = StreamDecoder(self.tokenizer, sampling.stop_texts())
        try:
            for (token,) in generate(self.context, sampling, self.tokenizer.vocab_size):
                yield decoder.add(token)
                if decoder.ended:
                    return
            yield decoder.finish()
        finally:
            self.messages.append({"role": "assistant", "content": decoder.written})

"""The thread that has the model: it writes the texts of all requests together, a token of each at a time.

A step of its loop lets texts go that nobody waits for, reads some of the next prompt, and writes one token of each text
in the batch. So a text joins and leaves between two tokens of the others ("continuous batching"; Yu et al. 2022, Orca),
and a long prompt delays them by READ_TOKENS at a time.
"""

from __future__ import annotations

import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

import tinytensor as tt
from gpt.errors import UserError
from gpt.generation.sampling import Sampling, TokenSampler
from gpt.generation.stream import StreamDecoder
from gpt.model.batch import Batch, Prompts
from gpt.serve.errors import ApiError, overloaded
from gpt.tokenizers.load import Tokenizer

READ_TOKENS = 256  # of prompts in each step: enough for large products, not long to wait for
ENDING = "the server is being ended"


class Piece(NamedTuple):
    """What is new of a text: some of it, how many tokens it has now, and why it is complete, or what went wrong."""

    text: str = ""
    tokens: int = 0
    finish: str | None = None  # "stop" or "length"
    error: ApiError | None = None


class Choice:
    """A text that continues a prompt (T,), with choice i of the sampling's seed; `tell` gets its pieces.

    cancelled: set by whoever no longer wants it.
    """

    def __init__(
        self,
        prompt: np.ndarray,
        sampling: Sampling,
        i: int,
        stops: Sequence[str],
        tokenizer: Tokenizer,
        tell: Callable[[Piece], Any],
    ):
        self.prompt, self.length, self.tell, self.cancelled = prompt, sampling.tokens, tell, False
        self.vocab_size, self.tokens = tokenizer.vocab_size, 0
        self.sampler, self.decoder = TokenSampler(sampling, i, prompt), StreamDecoder(tokenizer, stops)

    def advance(self, logits: np.ndarray) -> bool:
        """Draw the next token from logits (V,) and tell what it adds; whether the text goes on."""
        try:
            piece = self._draw(logits[: self.vocab_size])
        except UserError as error:  # logits that are no numbers: the other texts may have better ones
            piece = Piece(error=ApiError(500, str(error)))
        except Exception as error:  # a mistake in the program: it ends this text, not the others
            piece = Piece(error=failure(error))
        self.tell(piece)
        return piece.finish is None and piece.error is None

    def _draw(self, logits: np.ndarray) -> Piece:
        text = self.decoder.add(self.sampler.draw(logits))
        self.tokens += 1
        finish = "stop" if self.decoder.ended else "length" if self.tokens == self.length else None
        if finish == "length":
            text += self.decoder.finish()
        return Piece(text, self.tokens, finish)


def failure(error: Exception) -> ApiError:
    """What clients are told of an exception while their texts are written; its traceback goes to stderr."""
    reason = "out of memory" if isinstance(error, MemoryError) else "an error of the program"
    traceback.print_exception(error, file=sys.stderr)
    return ApiError(500, f"the text could not be written: {reason}")


class Engine:
    """Writes up to `max_batch` texts of up to `context` tokens at once, prompts included; `max_queue` may wait.

    The model must be in evaluation mode.
    """

    def __init__(
        self, model: Any, tokenizer: Tokenizer, device: tt.Device, max_batch: int, max_queue: int, context: int
    ):
        self.model, self.tokenizer, self.device = model, tokenizer, device
        self.context, self.max_batch, self.capacity = context, max_batch, max_batch + max_queue
        self.batch, self.writing = Batch(model, max_batch, context), list[Choice]()  # by row
        self.reading: list[Choice] = []  # texts that have begun, but whose prompts are still being read
        self.prompts: Prompts | None = None
        self._waiting, self._changed, self._ended = deque[Choice](), threading.Condition(), False
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def end(self) -> None:
        """Let the thread end after its current step, and all texts with an error. Does not wait."""
        self._ended = True  # without the lock, which the interrupted thread may hold
        threading.Thread(target=self._notify, daemon=True).start()

    def join(self) -> None:
        """Wait until the thread has ended."""
        self._thread.join()

    def submit(self, choices: Sequence[Choice]) -> None:
        """Begin with all of these texts as soon as there is room. ApiError if there are too many."""
        with self._changed:
            self._waiting = deque(choice for choice in self._waiting if not choice.cancelled)
            unfinished = len(self._waiting) + len(self.writing) + len(self.reading)
            if self._ended:
                raise ApiError(503, ENDING)
            if unfinished + len(choices) > self.capacity:
                raise overloaded()
            self._waiting.extend(choices)
            self._changed.notify()

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify()

    def _run(self) -> None:
        self.device.use()  # the current GPU is a property of the thread
        while not self._ended:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self.writing or self.reading or self._ended)
            try:
                self._step()
            except Exception as error:
                self._abandon(failure(error))
        self._abandon(ApiError(503, ENDING))
        while self._waiting:
            self._waiting.popleft().tell(Piece(error=ApiError(503, ENDING)))

    def _step(self) -> None:
        for row in reversed(range(len(self.writing))):
            if self.writing[row].cancelled:
                self._leave(row)
        self._read()
        if not self.writing:
            return
        logits = self.batch.logits([choice.sampler.seen[-1] for choice in self.writing])
        for row in reversed(range(len(self.writing))):  # so that a text that moves to a free row has had its token
            if not self.writing[row].advance(logits[row]):
                self._leave(row)

    def _read(self) -> None:
        """Read up to READ_TOKENS of the next prompts, as long as there are rows for their texts."""
        room = READ_TOKENS
        while room > 0 and (prompts := self._begin()):
            room -= prompts.read(room)
            if not prompts.is_read:
                return
            for row, (choice, logits) in enumerate(zip(self.reading, prompts.logits(), strict=True)):
                if not choice.cancelled and choice.advance(logits):
                    self.batch.join(prompts, row)
                    self.writing.append(choice)
            self.reading, self.prompts = [], None

    def _begin(self) -> Prompts | None:
        """The prompts that are being read, else the next ones, as many as make one pass; None if there is none."""
        if all(choice.cancelled for choice in self.reading):
            self.reading, self.prompts = [], None
        if self.prompts is not None:
            return self.prompts
        longest, free = 0, self.max_batch - len(self.writing)
        with self._changed:
            while self._waiting and len(self.reading) < free:
                longest = max(longest, len(self._waiting[0].prompt))
                if self.reading and (len(self.reading) + 1) * longest > READ_TOKENS:
                    break
                choice = self._waiting.popleft()
                if not choice.cancelled:
                    self.reading.append(choice)
        if self.reading:
            self.prompts = Prompts(self.model, [choice.prompt for choice in self.reading])
        return self.prompts

    def _leave(self, row: int) -> None:
        self.batch.leave(row)
        last = self.writing.pop()
        if row < len(self.writing):
            self.writing[row] = last

    def _abandon(self, error: ApiError) -> None:
        """End the texts that were begun with an error."""
        begun = self.writing + self.reading
        self.reading, self.prompts = [], None
        for row in reversed(range(len(self.writing))):
            self._leave(row)
        for choice in begun:
            choice.tell(Piece(error=error))

"""The generation loop: the model is fed its own tokens, which become text as soon as a character is complete."""

import codecs
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import tinytensor as tt
from gpt.errors import UserError
from gpt.files import replace_text
from gpt.generation.sampling import Sampling, TokenSampler
from gpt.model.cache import Context
from gpt.tokenizers.load import Tokenizer
from gpt.weights.load import load_model


def generate(context: Context, sampling: Sampling, vocab_size: int | None = None) -> Iterator[list[int]]:
    """Yield `sampling.tokens` times the next token of each text of a `Context`, a list, and append it there.

    The context holds at least one token, its model is in evaluation mode. Only the first `vocab_size` logits count, for
    models whose vocabulary is padded beyond the tokenizer's. What text i draws depends on the seed and i alone.
    """
    samplers = [TokenSampler(sampling, i, ids) for i, ids in enumerate(context.ids)]
    for _ in range(sampling.tokens):
        tokens = [sampler.draw(logits[:vocab_size]) for sampler, logits in zip(samplers, context.logits(), strict=True)]
        context.append(np.array(tokens)[:, None])
        yield tokens


class StopText:
    """Looks for a stop text in text that comes a character at a time (Knuth, Morris and Pratt 1977).

    The work is linear in the text that comes, however long the stop text is: only what is matched of it is looked at.
    matched: the length of the longest suffix of the text so far that is a prefix of the stop text.
    """

    def __init__(self, stop: str):
        self.stop, self.matched = stop, 0
        self.borders = [0, 0]  # of the first n characters: the longest proper prefix that is also a suffix; as needed

    def add(self, character: str) -> bool:
        """Whether the stop text is complete with the next character of the text; after that, no more may come."""
        if self.matched == len(self.borders):
            self.borders.append(self._longer(self.borders[-1], self.stop[self.matched - 1]))
        self.matched = self._longer(self.matched, character)
        return self.matched == len(self.stop)

    def _longer(self, matched: int, character: str) -> int:
        """The new length of the match, if it was `matched` before this character."""
        while matched and self.stop[matched] != character:
            matched = self.borders[matched]
        return matched + (self.stop[matched] == character)


class StreamDecoder:
    """Tokens to text as they come, in whole characters, up to the first stop text or the end of the document.

    ended: whether a stop text or the end was reached. written: all text that was returned so far.
    """

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str] = ()):
        self.tokenizer, self.stops = tokenizer, [StopText(stop) for stop in stops]
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")  # keeps the bytes of an unfinished character
        self.held, self.written, self.ended = "", "", False

    def add(self, token: int) -> str:
        """The text that is certain after `token`; empty while a character or a stop text may be unfinished."""
        if self.ended:
            return ""
        if token in self.tokenizer.stop_ids:
            return self.finish()
        return self._release(self.decoder.decode(self.tokenizer.decode_bytes([token])))

    def finish(self) -> str:
        """The text that was held back, when no more tokens come."""
        rest = "" if self.ended else self._release(self.decoder.decode(b"", final=True), final=True)
        self.ended = True
        return rest

    def _release(self, text: str, final: bool = False) -> str:
        place = self._find_stop(text)
        text = self.held + text
        if place is not None:
            text, self.held, self.ended = text[:place], "", True
        else:
            keep = 0 if final else max((stop.matched for stop in self.stops), default=0)
            text, self.held = text[: len(text) - keep], text[len(text) - keep :]
        self.written += text
        return text

    def _find_stop(self, text: str) -> int | None:
        """Where a stop text begins in what is held back and this new text; None if there is none.

        Of several it is the one that is complete first, so that the result does not depend on the token borders, and of
        those the longest.
        """
        for end, character in enumerate(text, len(self.held) + 1):
            complete = [len(stop.stop) for stop in self.stops if stop.add(character)]
            if complete:
                return end - max(complete)
        return None


def stream(
    model: Any,
    tokenizer: Tokenizer,
    prompt: str | np.ndarray,
    sampling: Sampling,
    samples: int = 1,
    special: bool = False,
) -> Iterator[tuple[int, str]]:
    """Yield (i, text) as text i of the batch grows by a piece; all begin with the prompt, which is not repeated.

    prompt: a text, or token ids (T,). special: whether what looks like a special token in a text is one.
    """
    context = Context(model, samples)
    context.append(first_ids(tokenizer, prompt, special) if isinstance(prompt, str) else prompt)
    decoders = [StreamDecoder(tokenizer, sampling.stop_texts()) for _ in range(samples)]
    for tokens in generate(context, sampling, tokenizer.vocab_size):
        yield from ((i, decoder.add(token)) for i, (decoder, token) in enumerate(zip(decoders, tokens, strict=True)))
        if all(decoder.ended for decoder in decoders):
            return
    yield from ((i, decoder.finish()) for i, decoder in enumerate(decoders))


def first_ids(tokenizer: Tokenizer, prompt: str, special: bool = False) -> Sequence[int] | np.ndarray:
    """The tokens to begin with: the prompt's, else the end of a previous document, a newline, or the first token."""
    if prompt or tokenizer.beginning:
        return [*tokenizer.beginning, *tokenizer.encode(prompt, special=special)]
    if tokenizer.end_of_text is not None:
        return [tokenizer.end_of_text]
    try:
        return tokenizer.encode("\n")
    except UserError:
        return [0]


def write_sample(
    directory: Path, device: tt.Device | str, tokens: int = 500, question: np.ndarray | None = None
) -> str:
    """Write text from the best model of a run to its `sample.txt`; returns a sentence about it.

    question: the token ids (T,) of a dialog up to where an answer begins, which are then in the file before the answer.
    """
    model, tokenizer = load_model(directory, device)
    path = directory / "sample.txt"
    asked, prompt = ("", "") if question is None else (tokenizer.decode(question), question)
    text = "".join(piece for _, piece in stream(model, tokenizer, prompt, Sampling(tokens=tokens)))
    replace_text(path, f"{asked}{text}\n")
    return f"sample {'text' if question is None else 'answer'}: {path}"

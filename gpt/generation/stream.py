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


class StreamDecoder:
    """Tokens to text as they come, in whole characters, up to the first stop text or the end of the document.

    ended: whether a stop text or the end was reached. written: all text that was returned so far.
    """

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str] = ()):
        self.tokenizer, self.stops = tokenizer, stops
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
        text = self.held + text
        # of several stop texts, the one that is complete first, so that the result does not depend on the token borders
        found = [(place + len(stop), place) for stop in self.stops if (place := text.find(stop)) >= 0]
        if found:
            text, self.held, self.ended = text[: min(found)[1]], "", True
        else:
            keep = 0 if final else self._partial_stop(text)
            text, self.held = text[: len(text) - keep], text[len(text) - keep :]
        self.written += text
        return text

    def _partial_stop(self, text: str) -> int:
        """The length of the longest suffix of the text that is a prefix of a stop text."""
        lengths = [n for stop in self.stops for n in range(1, len(stop)) if text.endswith(stop[:n])]
        return max(lengths, default=0)


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

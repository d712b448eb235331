"""Text from a trained model: `python -m gpt.generate DIR --prompt "..."`.

Floor 5, above `cache`, `pretrained` and `cli`. `distribution` and `pick` are the whole of sampling and pure; `generate`
is the loop that feeds the model its own words; `Text` turns them into text as they come. Read `gpt.chat` next.
"""

import codecs
import io
import sys
from dataclasses import dataclass

import numpy as np

import tinytensor as tt
from gpt.cache import Context
from gpt.cli import make_parser, parse, run_command
from gpt.config import build, check_options, option
from gpt.errors import UserError
from gpt.files import replace_file
from gpt.pretrained import load_model
from kernels.cpu.blocks import use_threads
from tinytensor.parallel import available_cores


@dataclass(frozen=True)
class Sampling:
    """How to choose each token from the model's probabilities. Raises UserError for impossible values."""

    tokens: int = option(200, "tokens to write after the prompt", at_least=1)
    temperature: float = option(0.8, "below 1 more likely, above 1 more surprising; 0 always the likeliest", at_least=0)
    top_k: int = option(0, "choose among the K likeliest tokens only; 0 among all", at_least=0)
    top_p: float = option(1.0, "choose among the likeliest tokens that together reach this share", above=0, at_most=1)
    min_p: float = option(0.0, "leave out tokens below this share of the likeliest one's", at_least=0, at_most=1)
    repetition_penalty: float = option(1.0, "above 1, tokens that were there before are less likely", above=0)
    stop: str = option("", "end before this text, which may hold \\n and several texts separated by |")
    seed: int = option(1, "the same seed writes the same text", at_least=0)

    def __post_init__(self):
        check_options(self)

    def stops(self):
        """The texts that `stop` names."""
        return [text for text in self.stop.replace("\\n", "\n").split("|") if text]


@dataclass(frozen=True)
class Request:
    """What to continue, and where."""

    prompt: str = option("", "text to continue; without one, the text begins with a new line or document")
    samples: int = option(1, "continuations to write, all at once", at_least=1)
    device: str = option("auto", "auto, cpu, cuda, cuda:N or emulated")

    def __post_init__(self):
        check_options(self)


def distribution(logits, sampling, seen=()):
    """Probabilities (V,) float64 of the next token from logits (V,), by the rules of `sampling` in this order.

    Repetition penalty on the tokens `seen` (Keskar et al. 2019, arXiv:1909.05858), temperature, top-k, top-p
    (Holtzman et al. 2020, arXiv:1904.09751), and min-p (Nguyen et al. 2024, arXiv:2407.01082). Temperature 0 puts
    everything on the likeliest token, the first of several.
    """
    logits = np.array(logits, dtype=np.float64)
    if sampling.repetition_penalty != 1:
        penalty, some = sampling.repetition_penalty, np.unique(np.asarray(seen, dtype=np.int64))
        logits[some] = np.where(logits[some] > 0, logits[some] / penalty, logits[some] * penalty)
    if sampling.temperature == 0:
        return (np.arange(len(logits)) == logits.argmax()).astype(np.float64)
    weights = np.exp((logits - logits.max()) / sampling.temperature)
    if sampling.top_k or sampling.top_p < 1:
        order = likeliest(logits, sampling.top_k)
        sizes = weights[order] / weights[order].sum()
        # Keep a token while those likelier than it fall short of top_p: never fewer than one.
        kept = order[np.cumsum(sizes) - sizes < sampling.top_p]
        everything, weights = weights, np.zeros_like(weights)
        weights[kept] = everything[kept]
    weights[weights < sampling.min_p * weights.max()] = 0.0
    return weights / weights.sum()


def likeliest(logits, count):
    """The tokens of the `count` largest logits (V,), or with 0 of all, in descending order, equal ones by number."""
    if 0 < count < len(logits):
        least = np.partition(logits, -count)[-count]  # a fraction of the time of sorting all
        some = np.flatnonzero(logits >= least)
    else:
        some = np.arange(len(logits))
    return some[np.argsort(-logits[some], kind="stable")][: count or None]


def pick(probabilities, uniform):
    """The token at a uniform draw in [0, 1) of the cumulative distribution (V,); never one of probability zero."""
    cumulative = np.cumsum(probabilities)
    return int(np.searchsorted(cumulative, uniform * cumulative[-1], side="right"))


def generate(context, sampling, vocab_size=None):
    """Yield `sampling.tokens` times the next token of each text of a `Context`, a list, and append it there.

    The context holds one token at least, its model is in evaluation mode. Only the first `vocab_size` logits count, for
    models whose vocabulary is padded beyond the tokenizer's. What text i draws depends on the seed and i alone.
    """
    seen = [list(row) for row in context.ids]
    keys = [tt.fold(sampling.seed, "sample", i) for i in range(len(seen))]
    randoms = [np.random.Generator(np.random.Philox(key=key)) for key in keys]
    for _ in range(sampling.tokens):
        tokens = [
            pick(distribution(logits[:vocab_size], sampling, words), random.random())
            for logits, words, random in zip(context.logits(), seen, randoms, strict=True)
        ]
        for words, token in zip(seen, tokens, strict=True):
            words.append(token)
        context.append(np.array(tokens)[:, None])
        yield tokens


class Text:
    """Tokens to text as they come, in whole characters, up to the first stop text or the end of the document.

    ended: whether it has come to that. written: all text that was given out.
    """

    def __init__(self, tokenizer, stops=()):
        self.tokenizer, self.stops = tokenizer, stops
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")  # keeps the bytes of an unfinished character
        self.held, self.written, self.ended = "", "", False

    def add(self, token):
        """The text that is certain once `token` is there; empty while a character or a stop text may be unfinished."""
        if self.ended:
            return ""
        if token == self.tokenizer.end_of_text:
            return self.finish()
        return self._give(self.decoder.decode(self.tokenizer.decode_bytes([token])))

    def finish(self):
        """What was held back, when no more tokens come."""
        rest = "" if self.ended else self._give(self.decoder.decode(b"", final=True), final=True)
        self.ended = True
        return rest

    def _give(self, text, final=False):
        text = self.held + text
        # of several stop texts, the one that is complete first, so that it does not matter how the text is cut
        found = [(place + len(stop), place) for stop in self.stops if (place := text.find(stop)) >= 0]
        if found:
            text, self.held, self.ended = text[: min(found)[1]], "", True
        else:
            keep = 0 if final else self._beginning_of_stop(text)
            text, self.held = text[: len(text) - keep], text[len(text) - keep :]
        self.written += text
        return text

    def _beginning_of_stop(self, text):
        """The length of the longest end of the text that a stop text begins with."""
        lengths = [n for stop in self.stops for n in range(1, len(stop)) if text.endswith(stop[:n])]
        return max(lengths, default=0)


def stream(model, tokenizer, prompt, sampling, samples=1):
    """Yield (i, text) as text i of the batch grows by a piece; all begin with the prompt, which is not repeated."""
    context = Context(model, samples)
    context.append(first_ids(tokenizer, prompt))
    texts = [Text(tokenizer, sampling.stops()) for _ in range(samples)]
    for tokens in generate(context, sampling, tokenizer.vocab_size):
        yield from ((i, text.add(token)) for i, (text, token) in enumerate(zip(texts, tokens, strict=True)))
        if all(text.ended for text in texts):
            return
    yield from ((i, text.finish()) for i, text in enumerate(texts))


def first_ids(tokenizer, prompt):
    """The tokens to begin with: the prompt's, else the end of a document before, a new line, or the first token."""
    if prompt:
        return tokenizer.encode(prompt)
    if tokenizer.end_of_text is not None:
        return [tokenizer.end_of_text]
    try:
        return tokenizer.encode("\n")
    except UserError:
        return [0]


def write_sample(directory, device, tokens=500):
    """Write text from the best model of a run to its `sample.txt`; returns a sentence about it."""
    model, tokenizer = load_model(directory, device)
    path = directory / "sample.txt"
    text = "".join(piece for _, piece in stream(model, tokenizer, "", Sampling(tokens=tokens)))
    replace_file(path, lambda beside: beside.write_text(text + "\n", encoding="utf-8"))
    return f"sample text: {path}"


def accept_any_text():
    """Make the standard streams replace what their encoding cannot hold, instead of failing."""
    for stream in (sys.stdin, sys.stdout):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def show(text):
    """Write to stdout at once."""
    sys.stdout.write(text)
    sys.stdout.flush()


def show_all(prompt, samples, pieces):
    """Show one text as it comes, or several once they are complete."""
    if samples == 1:
        show(prompt)
        for _, piece in pieces:
            show(piece)
        show("\n")
        return
    texts = [prompt] * samples
    for i, piece in pieces:
        texts[i] += piece
    for i, text in enumerate(texts):
        show(f"--- {i + 1} ---\n{text}\n")


def main(argv=None):
    """The command: write the prompt and its continuation to stdout as they come."""
    groups = {"what to write": Request, "how to choose tokens": Sampling}
    parser = make_parser("python -m gpt.generate DIR", "Continue a text with a trained model.", groups)
    parser.add_argument("directory", metavar="DIR", help="a run, or a model directory: RUN/best, or GPT-2's")
    settings = parse(parser, groups, argv)
    request, sampling = build(Request, settings), build(Sampling, settings)
    use_threads(available_cores())
    accept_any_text()
    model, tokenizer = load_model(settings["directory"], tt.device(request.device))
    pieces = stream(model, tokenizer, request.prompt, sampling, request.samples)
    show_all(request.prompt, request.samples, pieces)
    return 0


def console_script():
    """The exit code of the command `tinytensor-generate`."""
    return run_command(main)


if __name__ == "__main__":
    sys.exit(console_script())

"""Text from a trained model: `python -m gpt.generate DIR --prompt "..."`.

Floor 5, above `pretrained` and `cli`. `distribution` and `pick` are the whole of sampling and pure;
`generate` is the loop that feeds the model its own words. The last file of the package.
"""

import sys
from dataclasses import dataclass

import numpy as np

import tinytensor as tt
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
    seed: int = option(1, "the same seed writes the same text", at_least=0)

    def __post_init__(self):
        check_options(self)


@dataclass(frozen=True)
class Request:
    """What to continue, and where."""

    prompt: str = option("", "text to continue; without one, the text begins with a new line")
    device: str = option("auto", "auto, cpu, cuda, cuda:N or emulated")


def distribution(logits, sampling):
    """Probabilities (V,) float64 of the next token from logits (V,): temperature, then top-k, then top-p."""
    logits = np.asarray(logits, dtype=np.float64)
    if sampling.temperature == 0:
        return (np.arange(len(logits)) == logits.argmax()).astype(np.float64)
    weights = np.exp((logits - logits.max()) / sampling.temperature)
    order = np.argsort(-logits, kind="stable")
    if sampling.top_k:
        weights[order[sampling.top_k :]] = 0.0
    probabilities = weights / weights.sum()
    if sampling.top_p < 1:
        # Keep a token while those likelier than it fall short of top_p: never fewer than one.
        before = np.cumsum(probabilities[order]) - probabilities[order]
        probabilities[order[before >= sampling.top_p]] = 0.0
    return probabilities / probabilities.sum()


def pick(probabilities, uniform):
    """The token at a uniform draw in [0, 1) of the cumulative distribution (V,); never one of probability zero."""
    cumulative = np.cumsum(probabilities)
    return int(np.searchsorted(cumulative, uniform * cumulative[-1], side="right"))


def generate(model, ids, sampling, vocab_size=None):
    """Yield `sampling.tokens` token numbers that continue `ids`, not empty, by a model in evaluation mode.

    Beyond the block size the context is the newest `block_size` tokens. Only the first `vocab_size` logits count,
    for models whose vocabulary is padded beyond the tokenizer's.
    """
    context = list(ids)
    random = np.random.Generator(np.random.Philox(key=tt.fold(sampling.seed, "sample")))
    for _ in range(sampling.tokens):
        logits = next_logits(model, context[-model.config.block_size :])[:vocab_size]
        context.append(pick(distribution(logits, sampling), random.random()))
        yield context[-1]


def next_logits(model, context):
    """The model's logits, (V,) NumPy, for the token after a context of at most block_size tokens."""
    # no_grad spans this call only: held across a yield, it would leak into the caller
    with tt.no_grad():
        logits = model(np.asarray(context, dtype=np.int64)[None])  # (1, T) -> (1, T, V)
    return tt.to_numpy(logits.data[0, -1])


def stream_text(model, tokenizer, prompt, sampling):
    """Yield the prompt, then the text of each new token. Without a prompt, a new line is continued, not shown."""
    yield prompt
    for token in generate(model, first_ids(tokenizer, prompt), sampling, tokenizer.vocab_size):
        yield tokenizer.decode([token])


def first_ids(tokenizer, prompt):
    """The tokens to begin with: the prompt's, or a new line, or where the text has none, the first token."""
    if prompt:
        return tokenizer.encode(prompt).tolist()
    try:
        return tokenizer.encode("\n").tolist()
    except UserError:
        return [0]


def write_sample(directory, device, tokens=500):
    """Write text from the best model of a run to its `sample.txt`; returns a sentence about it."""
    model, tokenizer = load_model(directory, device)
    path = directory / "sample.txt"
    text = "".join(stream_text(model, tokenizer, "", Sampling(tokens=tokens)))
    replace_file(path, lambda beside: beside.write_text(text + "\n", encoding="utf-8"))
    return f"sample text: {path}"


def main(argv=None):
    """The command: write the prompt and its continuation to stdout as they come."""
    groups = {"what to write": Request, "how to choose tokens": Sampling}
    parser = make_parser("python -m gpt.generate DIR", "Continue a text with a trained model.", groups)
    parser.add_argument("directory", metavar="DIR", help="a run, or a model directory such as RUN/best")
    settings = parse(parser, groups, argv)
    request, sampling = build(Request, settings), build(Sampling, settings)
    use_threads(available_cores())
    model, tokenizer = load_model(settings["directory"], tt.device(request.device))
    for text in stream_text(model, tokenizer, request.prompt, sampling):
        sys.stdout.write(text)
        sys.stdout.flush()
    sys.stdout.write("\n")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))

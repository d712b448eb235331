"""How fast text is written: milliseconds a token at several positions, against `transformers` where it is installed.

    python benchmarks/generate.py [--threads N] [--rounds N] [--json FILE]

The model has random weights and, unless told otherwise, the shape of GPT-2 with 124M parameters. Both sides keep their
keys and values, write greedily with batch 1, and take turns at all positions, so that whatever else the machine does
hits all; their logits are compared before anything is timed. Quoted are medians. The cache is `gpt/model/cache.py`.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
from tqdm import tqdm

try:
    import torch
    from torch import tensor
    from transformers import GPT2LMHeadModel
except ImportError:
    GPT2LMHeadModel = None

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import tinytensor as tt
from benchmarks.timing import milliseconds, timed
from gpt.model import GPT, GPTConfig
from gpt.model.cache import Context
from gpt.tokenizers.characters import CharTokenizer
from gpt.weights.directory import create_model_directory, save_weights
from kernels.cpu.threads import set_num_threads

TOLERANCE = 1e-3  # of logits


class Ours:
    """A text that tinytensor writes: `step` adds tokens and returns the logits after them, `rewind` takes them back."""

    name = "tinytensor"

    def __init__(self, model, ids):
        self.context = Context(model)
        self.logits = self.step(ids)

    def step(self, ids):
        self.context.append(ids)
        return self.context.logits()[0]

    def rewind(self, count):
        self.context.drop(count)


class Theirs:
    """The same text written by `transformers`."""

    name = "transformers"

    def __init__(self, model, ids):
        self.model, self.past = model, None
        self.logits = self.step(ids)

    def step(self, ids):
        out = self.model(tensor([ids]), past_key_values=self.past, use_cache=True, logits_to_keep=1)
        self.past = out.past_key_values
        return out.logits[0, -1].numpy()

    def rewind(self, count):
        self.past.crop(-count)


def models(args):
    """[(side, its model)] with the same random weights; `transformers` only if it is installed."""
    config = GPTConfig(args.vocabulary, args.positions, args.layers, args.heads, args.width)
    with tt.seeded(1, "weights"):
        model = GPT(config).eval()
    if GPT2LMHeadModel is None:
        return [(Ours, model)]
    torch.set_num_threads(args.threads)
    torch.set_grad_enabled(False)
    with tempfile.TemporaryDirectory() as directory:
        create_model_directory(Path(directory), "gpt", config, CharTokenizer("a"))
        save_weights(Path(directory), config, model.state_dict())
        return [(Ours, model), (Theirs, GPT2LMHeadModel.from_pretrained(directory).eval())]


def texts(args):
    """{position: the sides' texts, that many random tokens long}, their logits compared."""
    sides, started = models(args), {}
    for position in args.at:
        prompt = np.random.default_rng(position).integers(0, args.vocabulary, position).tolist()
        started[position] = [side(model, prompt) for side, model in sides]
        for text in started[position][1:]:
            np.testing.assert_allclose(text.logits, started[position][0].logits, atol=TOLERANCE)
    return started


def race(started, rounds, tokens):
    """{position: {side: median seconds a token}}; in each round every side takes its turn at every position."""
    seconds = {position: {side.name: [] for side in sides} for position, sides in started.items()}
    for _ in tqdm(range(rounds), unit="round", leave=False):
        for position, sides in started.items():
            for side in sides:
                seconds[position][side.name] += turn(side, tokens)
    return {
        position: {name: statistics.median(times) for name, times in row.items()} for position, row in seconds.items()
    }


def turn(side, tokens):
    """Seconds of each of `tokens` greedy tokens, which are then taken back."""
    seconds, token = [], 0
    for _ in range(tokens):
        with timed() as t:
            token = int(side.step([token]).argmax())
        seconds.append(t.seconds)
    side.rewind(tokens)
    return seconds


def arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    numbers = {
        "vocabulary": (50257, "tokens the model knows"),
        "positions": (1024, "block size"),
        "layers": (12, "transformer blocks"),
        "heads": (12, "attention heads"),
        "width": (768, "width of the residual stream"),
        "threads": (len(os.sched_getaffinity(0)), "threads of each side"),
        "rounds": (5, "turns of each side at each position"),
        "tokens": (8, "tokens written in each turn"),
    }
    for name, (default, text) in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N", help=f"{text} (default {default})")
    parser.add_argument("--at", type=int, nargs="+", default=[16, 250, 500, 750, 1000], help="positions to measure at")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results here too")
    return parser.parse_args(argv)


def report(results):
    """The table of a race."""
    names = list(next(iter(results.values())))
    yield "position" + "".join(f"{name:>14}" for name in names) + ("   ratio" if len(names) > 1 else "")
    for position, medians in results.items():
        row = f"{position:8}" + "".join(f"{milliseconds(seconds):>14}" for seconds in medians.values())
        yield row + (f"{medians[Theirs.name] / medians[Ours.name]:8.2f}" if len(names) > 1 else "")
    ours = [medians[Ours.name] for medians in results.values()]
    yield f"slowest position of {Ours.name} / fastest: {max(ours) / min(ours):.2f}"


def main(argv=None):
    args = arguments(argv)
    set_num_threads(args.threads)
    load = os.getloadavg()[0]
    results = race(texts(args), args.rounds, args.tokens)
    print(f"milliseconds a token, {args.threads} threads, {load:.1f} processes running before")
    print(*report(results), sep="\n")
    if args.json:
        args.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()

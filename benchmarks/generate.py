"""How fast text is written: tokens a second with each kind of weights, against `transformers` where it is installed.

    python benchmarks/generate.py [--shape NAME] [--threads N] [--rounds N] [--json FILE]

The model has random weights and, unless told otherwise, the shape of GPT-2 with 124M parameters. Measured are single
texts at several positions, a batch of texts, and the reading of a long prompt. All sides keep their keys and values,
write greedily, and take turns at everything, so that whatever else the machine does hits all; their logits are compared
before anything is timed. Quoted are medians, and the ratio to `transformers`, whose weights are float32. The cache is
`gpt/model/cache.py`, the weights are `gpt/generation/packed.py`.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

try:
    import torch
    from torch import tensor
    from transformers import AutoModelForCausalLM
except ImportError:
    AutoModelForCausalLM = None

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.random_model import SHAPES, add_numbers, add_shape, write_model
from benchmarks.timing import timed
from gpt.generation.packed import WEIGHTS, pack_weights
from gpt.model.cache import Context
from gpt.weights.load import load_model
from kernels.cpu.memory import keep_freed_memory
from kernels.cpu.threads import set_num_threads

THEIRS = "transformers"
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.1, "int8": 0.5, THEIRS: 1e-3}  # of logits


class Ours:
    """Texts that tinytensor writes: `step` adds tokens (B, T) and returns the logits, `rewind` takes tokens back."""

    def __init__(self, model, ids):
        self.context = Context(model, len(ids))
        self.logits = self.step(ids)

    def step(self, ids):
        self.context.append(ids)
        return self.context.logits()

    def rewind(self, count):
        self.context.drop(count)


class Theirs:
    """The same texts written by `transformers`."""

    def __init__(self, model, ids):
        self.model, self.past = model, None
        self.logits = self.step(ids)

    def step(self, ids):
        out = self.model(tensor(ids), past_key_values=self.past, use_cache=True, logits_to_keep=1)
        self.past = out.past_key_values
        return out.logits[:, -1].numpy()

    def rewind(self, count):
        self.past.crop(-count)


def models(args):
    """{name of a side: (its class, its model)}, all with the same random weights; `transformers` if installed."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory)
        write_model(path, args.shape)
        sides = {}
        for kind in args.weights:
            model, _ = load_model(path, "cpu")
            pack_weights(model, kind)
            sides[kind] = Ours, model
        if AutoModelForCausalLM is not None:
            torch.set_num_threads(args.threads)
            torch.set_grad_enabled(False)
            sides[THEIRS] = Theirs, AutoModelForCausalLM.from_pretrained(path).eval()
        return sides


def start(sides, vocabulary, batch, position):
    """{name: that side's texts}: `batch` of `position` random tokens each, their logits compared."""
    prompts = np.random.default_rng(position).integers(0, vocabulary, (batch, position)).tolist()
    started = {name: side(model, prompts) for name, (side, model) in sides.items()}
    reference = started[THEIRS if THEIRS in started else next(iter(started))].logits  # float32, as far as there is one
    for name, texts in started.items():
        np.testing.assert_allclose(texts.logits, reference, atol=TOLERANCE[name])
    return started


def race(sides, args):
    """{what is measured: {side: median tokens a second}}; in each round every side takes its turn at everything."""
    vocabulary, tasks = SHAPES[args.shape].vocab_size, {}
    for batch, position in [*((1, position) for position in args.at), (args.batch, args.batch_at)]:
        texts = "a text" if batch == 1 else f"{batch} texts"
        tasks[f"{texts}, at {position}"] = partial(write, start(sides, vocabulary, batch, position), args.tokens)
    prompt = np.random.default_rng(0).integers(0, vocabulary, (1, args.prompt)).tolist()
    tasks[f"a prompt of {args.prompt}"] = partial(read, sides, prompt)
    speeds = {task: {name: [] for name in sides} for task in tasks}
    for _ in tqdm(range(args.rounds), unit="round", leave=False):
        for task, measure in tasks.items():
            for name in sides:
                speeds[task][name] += measure(name)
    return {task: {name: statistics.median(values) for name, values in row.items()} for task, row in speeds.items()}


def write(started, tokens, name):
    """Tokens a second at each of `tokens` greedy steps of a side, which are then taken back."""
    side, speeds = started[name], []
    newest = side.logits.argmax(axis=1)
    for _ in range(tokens):
        with timed() as t:
            newest = side.step(newest[:, None].tolist()).argmax(axis=1)
        speeds.append(len(newest) / t.seconds)
    side.rewind(tokens)
    return speeds


def read(sides, prompt, name):
    """Tokens a second at which a side reads a prompt."""
    side, model = sides[name]
    with timed() as t:
        side(model, prompt)
    return [len(prompt[0]) / t.seconds]


def arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    numbers = {
        "threads": (len(os.sched_getaffinity(0)), "threads of each side"),
        "rounds": (5, "turns of each side at everything"),
        "tokens": (8, "tokens written in each turn"),
        "batch": (8, "texts written at once"),
        "batch-at": (250, "their position"),
        "prompt": (1000, "tokens of the prompt that is read"),
    }
    add_shape(parser)
    add_numbers(parser, numbers)
    parser.add_argument("--at", type=int, nargs="+", default=[16, 250, 1000], help="positions to measure at")
    parser.add_argument("--weights", nargs="+", default=WEIGHTS, choices=WEIGHTS, help="kinds of weights to measure")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results here too")
    return parser.parse_args(argv)


def report(results):
    """The table of a race: tokens a second, and the ratio to `transformers`."""
    names = list(next(iter(results.values())))
    yield f"{'':20}" + "".join(f"{name:>18}" for name in names)
    for task, row in results.items():
        cells = [
            f"{row[name]:.1f}" + (f" ({row[name] / row[THEIRS]:.2f} x)" if THEIRS in row else "") for name in names
        ]
        yield f"{task:20}" + "".join(f"{cell:>18}" for cell in cells)


def main(argv=None):
    args = arguments(argv)
    keep_freed_memory()
    set_num_threads(args.threads)
    load = os.getloadavg()[0]
    results = race(models(args), args)
    print(f"tokens a second, {args.threads} threads, {load:.1f} processes running before")
    print(*report(results), sep="\n")
    if args.json:
        args.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()

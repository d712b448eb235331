"""How fast a text is written here and by llama.cpp, from the same weights: bfloat16 against F16, int8 against Q8_0.

    python benchmarks/vs_llama_cpp.py [--threads N] [--at N] [--rounds N]

Needs `pip install llama-cpp-python`, which compiles llama.cpp for this processor. The model has random weights and the
shape of GPT-2 with 124M parameters. Both sides write greedily and take turns of a few tokens; their logits are compared
before anything is timed. Quoted are medians.
"""

import argparse
import os
import statistics
import sys
import tempfile
from pathlib import Path

import llama_cpp
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.generate import Ours, write
from benchmarks.random_model import SHAPES, add_numbers, write_model
from gpt.export import export_gguf
from gpt.generation.packed import pack_weights
from gpt.weights.load import load_model
from kernels.cpu.memory import keep_freed_memory
from kernels.cpu.threads import set_num_threads

SHAPE = "gpt2-124m"
VOCABULARY = SHAPES[SHAPE].vocab_size
PAIRS = {"bfloat16": "f16", "int8": "q8_0"}  # our kind of weights and llama.cpp's
TOLERANCE = {"bfloat16": 0.05, "int8": 0.5}  # of logits


class LlamaCpp:
    """A text that llama.cpp writes, with the methods of `Ours`."""

    def __init__(self, path, ids, threads):
        size = SHAPES[SHAPE].block_size
        self.model = llama_cpp.Llama(str(path), n_ctx=size, n_batch=size, n_threads=threads, verbose=False)
        self.length = 0
        self.logits = self.step(ids)

    def step(self, ids):
        """Add tokens (1, T); returns the logits (1, V)."""
        tokens = (llama_cpp.llama_token * len(ids[0]))(*ids[0])  # the batch only points to them
        if llama_cpp.llama_decode(self.model.ctx, llama_cpp.llama_batch_get_one(tokens, len(tokens))):
            raise RuntimeError("llama_decode failed")
        self.length += len(tokens)
        logits = llama_cpp.llama_get_logits_ith(self.model.ctx, -1)
        return np.ctypeslib.as_array(logits, shape=(1, self.model.n_vocab()))[:, :VOCABULARY].copy()

    def rewind(self, count):
        """Take tokens back."""
        self.length -= count
        llama_cpp.llama_memory_seq_rm(llama_cpp.llama_get_memory(self.model.ctx), 0, self.length, -1)


def race(sides, args):
    """{side: median seconds a token}."""
    speeds = {name: [] for name in sides}
    for _ in range(args.rounds):
        for name in sides:
            speeds[name] += write(sides, args.tokens, name)
    return {name: 1 / statistics.median(values) for name, values in speeds.items()}


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    numbers = {
        "threads": (len(os.sched_getaffinity(0)), "threads of each side"),
        "at": (100, "position of the tokens"),
        "rounds": (15, "turns of each side"),
        "tokens": (4, "tokens written in each turn"),
    }
    add_numbers(parser, numbers)
    args = parser.parse_args(argv)
    keep_freed_memory()
    set_num_threads(args.threads)
    ids = np.random.default_rng(0).integers(0, VOCABULARY, (1, args.at)).tolist()
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "model"
        path.mkdir()
        write_model(path, SHAPE)
        for kind, outtype in PAIRS.items():
            export_gguf(path, path / f"{outtype}.gguf", outtype)
            model, _ = load_model(path, "cpu")
            pack_weights(model, kind)
            sides = {outtype: LlamaCpp(path / f"{outtype}.gguf", ids, args.threads), kind: Ours(model, ids)}
            np.testing.assert_allclose(sides[kind].logits, sides[outtype].logits, atol=TOLERANCE[kind])
            theirs, ours = race(sides, args).values()
            print(
                f"at {args.at}: llama.cpp {outtype} {1e3 * theirs:.1f} ms a token, {kind} here {1e3 * ours:.1f} ms",
                end="",
            )
            print(f", {theirs / ours:.2f} times as fast")


if __name__ == "__main__":
    main()

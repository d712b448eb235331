"""Models with random weights for benchmarks: the shapes of two that many people know."""

import tinytensor as tt
from gpt.model import GPT, GPTConfig
from gpt.tokenizers.characters import CharTokenizer
from gpt.weights.directory import write_export
from gpt.weights.families.registry import export_format

FIRST_CHARACTER = 0x10000  # beyond it there is room for any vocabulary
SHAPES = {
    "gpt2-124m": GPTConfig(vocab_size=50257, block_size=1024, n_layer=12, n_head=12, n_embd=768),
    "smollm2-135m": GPTConfig(  # a Llama
        vocab_size=49152,
        block_size=8192,
        n_layer=30,
        n_head=9,
        n_kv_head=3,
        n_embd=576,
        n_inner=1536,
        bias=False,
        activation="swiglu",
        norm_layer="rms",
        positions="rotary",
        rotary_theta=100000.0,
    ),
}


def add_shape(parser):
    """Give a parser the flag `--shape`, one of SHAPES."""
    names = list(SHAPES)
    parser.add_argument("--shape", default=names[0], choices=names, help=f"shape of the model (default {names[0]})")


def add_numbers(parser, numbers):
    """Give a parser a flag for each name of {name: (default, help)}, whose value is an integer."""
    for name, (default, text) in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N", help=f"{text} (default {default})")


def write_model(path, shape):
    """Write a model of one of SHAPES as `transformers` reads it, and a vocabulary of as many characters."""
    config = SHAPES[shape]
    tokenizer = CharTokenizer(map(chr, range(FIRST_CHARACTER, FIRST_CHARACTER + config.vocab_size)))
    with tt.seeded(1, "weights"):
        write_export(path, export_format("gpt", config), GPT(config), tokenizer)

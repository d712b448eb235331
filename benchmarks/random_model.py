"""A model with random weights for benchmarks, and the flags that give its shape: GPT-2's with 124M parameters."""

import tinytensor as tt
from gpt.model import GPT, GPTConfig
from gpt.tokenizers.characters import CharTokenizer
from gpt.weights.directory import create_model_directory, save_weights

FIRST_CHARACTER = 0x10000  # beyond it there is room for any vocabulary
SHAPE = {
    "vocabulary": (50257, "tokens the model knows"),
    "positions": (1024, "block size"),
    "layers": (12, "transformer blocks"),
    "heads": (12, "attention heads"),
    "width": (768, "width of the residual stream"),
}


def add_numbers(parser, numbers):
    """Give a parser a flag for each name of {name: (default, help)}, whose value is an integer."""
    for name, (default, text) in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N", help=f"{text} (default {default})")


def write_model(path, args):
    """Write a model of the shape that the flags of SHAPE give, and a vocabulary of as many characters."""
    config = GPTConfig(args.vocabulary, args.positions, args.layers, args.heads, args.width)
    tokenizer = CharTokenizer(map(chr, range(FIRST_CHARACTER, FIRST_CHARACTER + args.vocabulary)))
    create_model_directory(path, "gpt", config, tokenizer)
    with tt.seeded(1, "weights"):
        save_weights(path, config, GPT(config).state_dict())

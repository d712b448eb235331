"""What a run is made of: the model's shape, the training recipe, and the named presets.

Floor 5, above `errors`. Both configurations are frozen dataclasses whose fields carry their help text and
bounds, so the command line (`gpt.cli`, read next) and the error messages are made from this file alone.
"""

import dataclasses
import difflib
import operator
from dataclasses import dataclass

from gpt.errors import UserError

BOUNDS = {"at least": operator.ge, "at most": operator.le, "above": operator.gt, "below": operator.lt}


def option(default, help, *, choices=None, **bounds):
    """A dataclass field that is also a flag; `bounds` are `at_least`, `at_most`, `above`, `below`."""
    limits = {name.replace("_", " "): limit for name, limit in bounds.items()}
    return dataclasses.field(default=default, metadata={"help": help, "choices": choices, "bounds": limits})


def flag(name):
    """The flag of a field: `n_embd` -> `--n-embd`."""
    return "--" + name.replace("_", "-")


def nearest(name, names):
    """` (did you mean X?)` for the name in `names` that looks most like `name`, or nothing."""
    matches = difflib.get_close_matches(name, list(names), n=1, cutoff=0.5)
    return f" (did you mean {matches[0]}?)" if matches else ""


def check_options(config):
    """Raise UserError for the first field of a dataclass that is outside its choices or bounds."""
    for field in dataclasses.fields(config):
        value, choices = getattr(config, field.name), field.metadata["choices"]
        if choices and value not in choices:
            hint = nearest(str(value), choices)
            raise UserError(f"{flag(field.name)} {value}: must be one of {', '.join(choices)}{hint}")
        for bound, limit in field.metadata["bounds"].items():
            if not BOUNDS[bound](value, limit):  # a nan fails every comparison, so it stops here too
                raise UserError(f"{flag(field.name)} {value}: must be {bound} {limit}")


@dataclass(frozen=True)
class GPTConfig:
    """Shape of a model. Raises UserError for an impossible one."""

    vocab_size: int = option(0, "tokens the model knows; 0 takes the tokenizer's number", at_least=0)
    block_size: int = option(128, "longest context, in tokens", at_least=1)
    n_layer: int = option(4, "transformer blocks", at_least=1)
    n_head: int = option(4, "attention heads in each block", at_least=1)
    n_embd: int = option(128, "width of the residual stream; a multiple of --n-head", at_least=1)
    dropout: float = option(0.0, "probability of dropping an activation", at_least=0, below=1)
    bias: bool = option(True, "biases in the linear layers and layer norms, as in GPT-2")
    activation: str = option("gelu", "non-linearity of the feed-forward layers", choices=("gelu", "relu"))
    norm: str = option("pre", "layer norm before each sublayer, or after its residual", choices=("pre", "post"))
    tied: bool = option(True, "share the token embedding with the output layer")

    def __post_init__(self):
        check_options(self)
        if self.n_embd % self.n_head:
            raise UserError(f"--n-embd {self.n_embd}: must be a multiple of --n-head {self.n_head}")


@dataclass(frozen=True)
class TrainConfig:
    """A training recipe. Raises UserError for an impossible one."""

    data: str = option("pydocs", "pydocs, stdlib, a UTF-8 text file, a folder of them, or a prepared directory")
    model: str = option("gpt", "kind of model", choices=("gpt", "bigram"))
    init_from: str = option("", "model to start from: a run, a model directory, or hf:NAME such as hf:gpt2")
    device: str = option("auto", "auto, cpu, cuda, cuda:N or emulated")
    threads: int = option(0, "cores to use on the CPU, 0 for all; the same number gives the same bits", at_least=0)
    seed: int = option(1, "every random choice of the run follows from it", at_least=0)
    steps: int = option(1500, "updates of the weights", at_least=1)
    batch_size: int = option(16, "windows in one forward pass", at_least=1)
    accumulation: int = option(1, "forward passes whose gradients make one update", at_least=1)
    lr: float = option(1e-3, "highest learning rate, reached after the warm-up", above=0, below=float("inf"))
    min_lr: float = option(1e-4, "learning rate at the end of the cosine", at_least=0)
    warmup: int = option(100, "updates over which the learning rate rises from zero", at_least=0)
    beta1: float = option(0.9, "AdamW's memory of the gradient", at_least=0, below=1)
    beta2: float = option(0.99, "AdamW's memory of the squared gradient", at_least=0, below=1)
    weight_decay: float = option(0.1, "decay of the matrices; biases and norms have none", at_least=0)
    clip: float = option(1.0, "largest global gradient norm; 0 never clips", at_least=0)
    eval_interval: int = option(250, "updates between evaluations", at_least=1)
    eval_batches: int = option(20, "batches in an evaluation, the same ones every time", at_least=1)
    log_interval: int = option(10, "updates between rows of metrics.jsonl", at_least=1)
    checkpoint_interval: int = option(250, "updates between checkpoints", at_least=1)
    keep: int = option(2, "newest checkpoints to keep, besides the best model", at_least=1)

    def __post_init__(self):
        check_options(self)
        if self.min_lr > self.lr:
            raise UserError(f"--min-lr {self.min_lr}: must be at most --lr {self.lr}")


# What the beginner's course gives both of its GPTs.
COURSE = {
    "n_embd": 384,
    "batch_size": 128,
    "dropout": 0.2,
    "activation": "relu",
    "norm": "post",
    "tied": False,
    "steps": 3000,
    "lr": 3e-4,
    "min_lr": 3e-5,
}

# A preset is the difference from the defaults above.
PRESETS = {
    "default": {"block_size": 64, "batch_size": 12, "bias": False, "steps": 2000, "lr": 3e-3, "min_lr": 3e-4},
    "bigram": {
        "model": "bigram",
        "threads": 1,
        "block_size": 8,
        "batch_size": 4,
        "steps": 30000,
        "beta2": 0.9999,
        "lr": 1e-2,
        "min_lr": 0.0,
        "weight_decay": 0.0,
        "clip": 0.0,
        "eval_interval": 5000,
        "eval_batches": 3500,
        "log_interval": 100,
        "checkpoint_interval": 5000,
    },
    "nanogpt-cpu": {
        "block_size": 64,
        "batch_size": 12,
        "steps": 2000,
        "bias": False,
        "eval_interval": 500,
        "eval_batches": 200,
    },
    "course-v1": COURSE | {"n_layer": 8, "n_head": 8, "block_size": 64},
    "course-v2": COURSE | {"n_layer": 1, "n_head": 1, "block_size": 32},
    "shakespeare": {
        "n_layer": 6,
        "n_head": 6,
        "n_embd": 384,
        "block_size": 256,
        "batch_size": 64,
        "dropout": 0.2,
        "bias": False,
        "steps": 5000,
        "eval_batches": 200,
    },
    "gpt2": {
        "vocab_size": 50257,
        "n_layer": 12,
        "n_head": 12,
        "n_embd": 768,
        "block_size": 1024,
        "batch_size": 12,
        "accumulation": 40,
        "steps": 600000,
        "lr": 6e-4,
        "min_lr": 6e-5,
        "warmup": 2000,
        "beta2": 0.95,
        "eval_interval": 1000,
        "eval_batches": 200,
        "checkpoint_interval": 1000,
    },
}


def field_names(cls):
    """Names of a dataclass's fields, in order."""
    return [field.name for field in dataclasses.fields(cls)]


def build(cls, settings):
    """An instance of the dataclass `cls` from those entries of `settings` that name its fields."""
    return cls(**{name: settings[name] for name in field_names(cls) if name in settings})

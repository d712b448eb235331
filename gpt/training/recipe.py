"""How a model is trained: the settings, and the named presets.

A preset is a set of differences from the defaults of `GPTConfig` and `TrainConfig`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gpt.errors import UserError
from gpt.model.config import LAYERS
from gpt.options import DEVICE_HELP, check_options, option
from tinytensor.optim import SCHEDULES

MOST_SPLITS = 8  # more parts of a product would be too small for BLAS


@dataclass(frozen=True)
class TrainConfig:
    """A training recipe. Raises UserError for an impossible one."""

    data: str = option(
        "pydocs", "corpus: pydocs, stdlib, a file, folder or hf:NAME@REVISION, or what gpt.prepare wrote"
    )
    val_share: float = option(
        0.0, "share of the text for validation; 0 is a tenth, at most 16 MiB", at_least=0, below=1
    )
    model: str = option("gpt", "kind of model", choices=("gpt", "bigram"))
    init_from: str = option("", "model to start from: a run, a model directory, or hf:NAME@REVISION, such as hf:gpt2")
    lora_rank: int = option(
        0, "train adapters of this rank beside frozen weights (LoRA); 0 trains the weights", at_least=0
    )
    lora_alpha: float = option(
        0.0, "adapters are scaled by this / rank; 0 for twice the rank", at_least=0, below=float("inf")
    )
    lora_targets: str = option(
        "", "layers that get adapters, such as c_attn,mlp.c_fc, or by the names of the model's family; all by default"
    )
    freeze: str = option("", "parameters to leave as they are, such as transformer.wte,transformer.h.0; * is any name")
    chat_template: str = option("", "for dialogs: chatml, or a file with a template, instead of the model's own")
    device: str = option("auto", DEVICE_HELP)
    dtype: str = option(
        "float32",
        "of activations and products; weights are float32. 16 bits need a GPU, bfloat16 one from 2020 on (8.0)",
        choices=("float32", "bfloat16", "float16"),
    )
    matmul: str = option(
        "float32", "with tf32, products of float32 keep 10 bits on a GPU's tensor cores", choices=("float32", "tf32")
    )
    processes: int = option(0, "CPU processes that work on the shares, 0 for one per core", at_least=0)
    shares: int = option(
        0, "parts of a batch, whose number decides how sums are rounded; 0 for one per core", at_least=0
    )
    seed: int = option(1, "every random choice of the run follows from it", at_least=0)
    steps: int = option(1500, "updates of the weights", at_least=1)
    batch_size: int = option(16, "windows in one forward pass", at_least=1)
    grad_accum_steps: int = option(1, "forward passes whose gradients are accumulated for one update", at_least=1)
    optimizer: str = option(
        "adamw",
        "muon: Muon for hidden matrices, AdamW for the rest; with --init-from it is adamw by default, with a cosine "
        "schedule and a warm-up",
        choices=("adamw", "muon"),
    )
    lr: float = option(1e-3, "AdamW's peak learning rate, reached after the warm-up", above=0, below=float("inf"))
    min_lr: float = option(1e-4, "learning rate at the end of the schedule", at_least=0)
    schedule: str = option("cosine", "how the learning rate decays after the warm-up", choices=tuple(SCHEDULES))
    muon_lr: float = option(0.04, "Muon's peak learning rate, scheduled as --lr is", above=0, below=float("inf"))
    warmup_steps: int = option(100, "updates over which the learning rate rises linearly", at_least=0)
    beta1: float = option(0.9, "AdamW's decay rate of the first moment", at_least=0, below=1)
    beta2: float = option(0.99, "AdamW's decay rate of the second moment", at_least=0, below=1)
    weight_decay: float = option(
        0.1, "weight decay of matrices; biases and layer norms have none", at_least=0, below=float("inf")
    )
    grad_clip: float = option(1.0, "largest global gradient norm; 0 disables clipping", at_least=0)
    eval_interval: int = option(250, "updates between evaluations", at_least=1)
    eval_batches: int = option(20, "batches in an evaluation, the same ones every time", at_least=1)
    sample_interval: int = option(1000, "updates between samples of text on the console; 0 for none", at_least=0)
    log_interval: int = option(10, "updates between rows of metrics.jsonl", at_least=1)
    checkpoint_interval: int = option(250, "updates between checkpoints", at_least=1)
    keep_checkpoints: int = option(2, "newest checkpoints to keep, besides the best model", at_least=1)

    def __post_init__(self) -> None:
        check_options(self)
        if self.min_lr > self.lr:
            raise UserError(f"--min-lr {self.min_lr}: must be at most --lr {self.lr}")
        if self.shares > self.windows:
            raise UserError(f"--shares {self.shares}: must be at most {self.windows}, the windows in a batch")
        if self.lora_rank:
            self._check_lora()
        elif self.lora_alpha or self.lora_targets:
            given = f"--lora-alpha {self.lora_alpha}" if self.lora_alpha else f"--lora-targets {self.lora_targets}"
            raise UserError(f"{given}: is for adapters: add --lora-rank, such as --lora-rank 8")

    def _check_lora(self) -> None:
        """Raise UserError for what LoRA cannot be combined with."""
        if not self.init_from:
            raise UserError(f"--lora-rank {self.lora_rank}: needs --init-from and the model that gets adapters")
        if self.model != "gpt":
            raise UserError(
                f"--lora-rank {self.lora_rank}: --model {self.model} has no layers that could have adapters"
            )
        for name in self.adapted_layers:
            if name not in LAYERS:  # `inherit` has found those that the flag names; this one is from a file
                raise UserError(f"--lora-targets {name}: must be one of {', '.join(LAYERS)}")
        if self.optimizer == "muon":
            raise UserError("--optimizer muon: is for whole matrices, not for the thin ones of LoRA: use adamw")
        if self.freeze:
            raise UserError(f"--freeze {self.freeze}: with --lora-rank all but the adapters is frozen: leave it out")

    @property
    def adapter_alpha(self) -> float:
        """What adapters are multiplied by, times their rank."""
        return self.lora_alpha or 2 * self.lora_rank

    @property
    def adapted_layers(self) -> list[str]:
        """The layers of a block that have adapters, by our names."""
        return self.lora_targets.split(",") if self.lora_rank else []

    @property
    def splits(self) -> int | None:
        """Into how many parts primitives divide their work on the CPU, whatever number of cores there are.

        As many as there are shares, up to a limit; with one, on which all threads work, as many as there were threads.
        """
        return min(self.shares, MOST_SPLITS) if self.shares > 1 else self.processes or None

    @property
    def windows(self) -> int:
        """How many windows an update of the weights is computed from."""
        return self.batch_size * self.grad_accum_steps


def choose_shares(train: TrainConfig, on_gpu: bool, cores: int, ranks: int = 1) -> int:
    """How many shares a step of a new run has: one for each GPU, or for each core that has a window to work on.

    With several ranks it is a power of two for each, which other numbers of ranks can divide, too.
    UserError if there are fewer windows than ranks.
    """
    if ranks > train.windows:
        raise UserError(f"--batch-size {train.batch_size}: has fewer windows than the {ranks} ranks: raise it")
    each = 1 if on_gpu else min(cores, train.windows // ranks)
    return each if ranks == 1 else ranks << (each.bit_length() - 1)


def require_used(train: TrainConfig, given: Mapping[str, Any]) -> None:
    """Raise UserError for one of the flags `given` that would change nothing, so that it must be a mistake."""
    if "muon_lr" in given and train.optimizer != "muon":
        raise UserError(
            f"--muon-lr {train.muon_lr}: --optimizer {train.optimizer} does not use it: add --optimizer muon"
        )
    if given.get("lora_rank") == 0:
        raise UserError("--lora-rank 0: must be at least 1; leave it out to train the weights themselves")
    if given.get("matmul") == "tf32" and train.dtype != "float32":
        raise UserError(f"--matmul tf32: is of float32, and --dtype {train.dtype} has none: leave one of them out")
    if given.get("positions") == "rotary" and train.model == "bigram":
        raise UserError("--positions rotary: --model bigram has no positions: leave one of them out")


# {former name of a TrainConfig field: its name now}: runs saved under the former names still resume, and a former flag
# on the command line is answered with the new one.
RENAMED = {
    "threads": "processes",
    "accumulation": "grad_accum_steps",
    "warmup": "warmup_steps",
    "clip": "grad_clip",
    "keep": "keep_checkpoints",
}

# What both GPTs of the course in docs/course.md have in common.
COURSE: dict[str, Any] = {
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

# The recipe of docs/speedrun.md; it needs no other learning rate for another number of steps.
SPEEDRUN = {
    "positions": "rotary",
    "bias": False,
    "optimizer": "muon",
    "schedule": "linear",
    "warmup_steps": 0,
    "lr": 3e-3,
    "min_lr": 6e-5,
}

# Where Muon does not fit: its rate would undo a model of --init-from, and a bigram has no hidden matrices.
WITHOUT_MUON = {"optimizer": "adamw", "schedule": "cosine", "warmup_steps": 100}

PRESETS: dict[str, dict[str, Any]] = {
    "default": SPEEDRUN | {"block_size": 128, "batch_size": 8, "steps": 2000},
    "bigram": {
        "model": "bigram",
        "processes": 1,
        "block_size": 8,
        "batch_size": 4,
        "steps": 30000,
        "beta2": 0.9999,
        "lr": 1e-2,
        "min_lr": 0.0,
        "weight_decay": 0.0,
        "grad_clip": 0.0,
        "eval_interval": 5000,
        "eval_batches": 3500,
        "sample_interval": 10000,
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
    "shakespeare": SPEEDRUN
    | {"n_embd": 192, "block_size": 256, "batch_size": 6, "steps": 4000, "eval_interval": 500, "eval_batches": 200},
    "gpt2": {
        "vocab_size": 50257,
        "n_layer": 12,
        "n_head": 12,
        "n_embd": 768,
        "block_size": 1024,
        "batch_size": 12,
        "grad_accum_steps": 40,
        "steps": 600000,
        "lr": 6e-4,
        "min_lr": 6e-5,
        "warmup_steps": 2000,
        "beta2": 0.95,
        "eval_interval": 1000,
        "eval_batches": 200,
        "checkpoint_interval": 1000,
    },
}

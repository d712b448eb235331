"""A run directory: what is trained, on which tokens, and how far it has come.

It contains

    config.json tokenizer.json meta.json train.bin val.bin    written once, when the run is created
    metrics.jsonl checkpoints/step-000500/                    the record, and what `--resume` starts from
    best/                                                     the model with the lowest validation loss
    loss.png sample.txt                                       written at the end
"""

import dataclasses
import itertools
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gpt.errors import UserError
from gpt.files import replace_json, writing
from gpt.model import GPTConfig
from gpt.options import flag
from gpt.tokenizers.load import Tokenizer
from gpt.training.checkpoint import Checkpoint, Progress, require_checkpoint, save_checkpoint
from gpt.training.data import open_data, require_windows
from gpt.training.metrics import Metrics
from gpt.training.recipe import RENAMED, TrainConfig
from gpt.weights.directory import create_model_directory, save_weights
from tinytensor.parallel import available_cores

RUN_FILE = "config.json"
RUN_FORMAT = "tinytensor run 1"
# What may change when a run is resumed: where it is computed, and for how long.
RESUMABLE = {"device", "processes", "steps"}


@dataclass
class Run:
    """An existing run directory and the configuration in it."""

    directory: Path
    preset: str
    model: GPTConfig
    train: TrainConfig

    def __post_init__(self) -> None:
        self.metrics = Metrics(self.directory / "metrics.jsonl")
        self.best = self.directory / "best"
        self.checkpoints = self.directory / "checkpoints"

    def save_config(self) -> None:
        """Write `config.json`; a directory that has it is a run."""
        content = {
            "format": RUN_FORMAT,
            "preset": self.preset,
            "model": asdict(self.model),
            "train": asdict(self.train),
        }
        replace_json(self.directory / RUN_FILE, content)

    def save(self, progress: Progress, model: Any, optimizer: Any) -> None:
        """Write a checkpoint; the metrics up to it are flushed to the disk first."""
        self.metrics.sync()
        checkpoint = Checkpoint(progress, model.state_dict(), optimizer.state_dict())
        save_checkpoint(self.checkpoints, checkpoint, self.train.keep_checkpoints)

    def record_val_loss(self, progress: Progress, val_loss: float, model: Any) -> None:
        """Record a validation loss; the model with the lowest so far becomes the run's best one."""
        progress.val_loss = val_loss
        if progress.best_val_loss is None or val_loss < progress.best_val_loss:
            progress.best_val_loss, progress.best_step = val_loss, progress.step
            save_weights(self.best, self.model, model.state_dict())

    def restore(self, model: Any, optimizer: Any) -> tuple[Progress, list[str]]:
        """Load the newest valid checkpoint, if there is one: its Progress, and sentences about invalid ones."""
        checkpoint, invalid = require_checkpoint(self.checkpoints)
        progress = Progress()
        if checkpoint:
            progress = checkpoint.progress
            try:
                model.load_state_dict(checkpoint.model)
                optimizer.load_state_dict(checkpoint.optimizer)
            except ValueError as error:
                raise UserError(f"{self.checkpoints}: does not fit the model in {RUN_FILE} ({error})") from None
        if progress.step > self.train.steps:
            raise UserError(f"--steps {self.train.steps}: the run is already at step {progress.step}")
        self.metrics.truncate(progress.step)
        self.save_config()  # with --steps and --device as they are from now on
        return progress, invalid


def create_run(out: str, preset: str, model: GPTConfig, train: TrainConfig) -> Run:
    """Make a new run directory: tokens, tokenizer, configuration. UserError, and no directory, if anything is wrong."""
    check_free(out)
    write_data = open_data(train.data, train.init_from)
    # All cores of this machine, even if another one resumes the run: their number determines how sums are rounded.
    train = dataclasses.replace(train, processes=train.processes or available_cores())
    with writing(out or "runs"):
        directory = make_directory(out, preset)
    try:
        with writing(directory):
            tokenizer = write_data(directory)
            require_windows(directory, train.data, model.block_size)
            model = fit_vocabulary(model, tokenizer)
            run = Run(directory, preset, model, train)
            create_model_directory(run.best, train.model, model, tokenizer)
        run.save_config()
    except BaseException:  # Ctrl-C too: an incomplete run is useless, and would block the next attempt
        shutil.rmtree(directory, ignore_errors=True)
        raise
    return run


def fit_vocabulary(model: GPTConfig, tokenizer: Tokenizer) -> GPTConfig:
    """The model's configuration with the tokenizer's vocabulary size, unless a larger one was asked for."""
    if 0 < model.vocab_size < tokenizer.vocab_size:
        raise UserError(f"--vocab-size {model.vocab_size}: must be at least the tokenizer's {tokenizer.vocab_size}")
    return dataclasses.replace(model, vocab_size=model.vocab_size or tokenizer.vocab_size)


def check_free(out: str) -> None:
    """Raise UserError if `--out` names something that exists and is not an empty directory."""
    path = Path(out) if out else None
    if path is None or not path.exists():
        return
    if (path / RUN_FILE).exists():
        raise UserError(f"--out {out}: already contains a run; resume it with --resume {out} or choose another --out")
    if not path.is_dir() or any(path.iterdir()):
        raise UserError(f"--out {out}: exists and is not an empty directory; choose another --out")


def make_directory(out: str, preset: str) -> Path:
    """Create the directory `out`, or without one the first free of runs/PRESET-1, runs/PRESET-2, ..."""
    if out:
        Path(out).mkdir(parents=True, exist_ok=True)
        return Path(out)
    for number in itertools.count(1):
        path = Path("runs", f"{preset}-{number}")
        try:
            path.mkdir(parents=True)
            break
        except FileExistsError:
            continue
    return path


def open_run(directory: str | Path, changes: Mapping[str, Any]) -> Run:
    """The run in `directory`, with `changes` to what may change. UserError if it is none, or for other changes."""
    path = Path(directory)
    for name in changes:
        if name not in RESUMABLE:
            allowed = ", ".join(flag(field) for field in sorted(RESUMABLE))
            raise UserError(f"{flag(name)}: is fixed when a run is created; with --resume only {allowed} can change")
    if not path.is_dir():
        raise UserError(f"--resume {directory}: no such directory")
    content = read_run_file(path)
    try:
        saved = {RENAMED.get(name, name): value for name, value in content["train"].items()}
        model, train = GPTConfig(**content["model"]), TrainConfig(**{**saved, **changes})
        return Run(path, content["preset"], model, train)
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"--resume {directory}: its {RUN_FILE} is corrupt ({error})") from None


def read_run_file(path: Path) -> dict[str, Any]:
    """The parsed `config.json` of a run; UserError if it is missing, something else, or corrupt."""
    try:
        content = json.loads((path / RUN_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"--resume {path}: is not the directory of a run (no {RUN_FILE})") from None
    except (OSError, ValueError) as error:
        raise UserError(f"--resume {path}: its {RUN_FILE} is corrupt ({error})") from None
    if not isinstance(content, dict) or content.get("format") != RUN_FORMAT:
        raise UserError(f"--resume {path}: is not the directory of a run (its {RUN_FILE} is something else)")
    return content

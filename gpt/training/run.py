"""A run directory: what is trained, on which tokens, and how far it has come.

It contains

    config.json tokenizer.json meta.json train.bin val.bin    written once, when the run is created
    metrics.jsonl checkpoints/step-000500/                    the record, and what `--resume` starts from
    best/                                                     the model with the lowest validation loss
    base/                                                     with LoRA, the weights that its adapters are added to
    manifest.json                                             what these files were, which a resumption verifies
    loss.png sample.txt                                       written at the end, loss.png also at an early one
"""

import dataclasses
import itertools
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tinytensor as tt
from gpt.corpus.tokens import Tokens, open_tokens, verify_tokens
from gpt.directories import new_directory, require_free
from gpt.errors import UserError
from gpt.files import read_json, replace_json, sync, writing
from gpt.model import GPTConfig
from gpt.model.lora import load_saved_state, saved_state
from gpt.options import flag
from gpt.tokenizers.load import Tokenizer
from gpt.training.checkpoint import (
    Checkpoint,
    Progress,
    discard_checkpoints,
    load_newest,
    prune_checkpoints,
    remove_leftovers,
    save_checkpoint,
    saved_checkpoints,
    step_of,
)
from gpt.training.data import open_data, require_windows
from gpt.training.manifest import Manifest
from gpt.training.metrics import Metrics
from gpt.training.recipe import RENAMED, TrainConfig, choose_shares
from gpt.weights.adapters import BASE, LoRA, base_of, create_adapter_directory
from gpt.weights.directory import BEST, WEIGHTS_FILE, create_model_directory, save_weights
from gpt.weights.load import store_base
from tinytensor.parallel import ONE_RANK, Communicator, own_cores

RUN_FILE = "config.json"
RUN_FORMAT = "tinytensor run 1"
# What may change when a run is resumed: where it is computed, and how rounded; for how long; and what is shown of it.
RESUMABLE = {"device", "dtype", "matmul", "processes", "sample_interval", "shares", "steps"}


@dataclass
class Run:
    """An existing run directory and the configuration in it."""

    directory: Path
    preset: str
    model: GPTConfig
    train: TrainConfig

    def __post_init__(self) -> None:
        self.manifest = Manifest(self.directory)

    @property
    def metrics(self) -> Metrics:
        """The rows logged so far."""
        return Metrics(self.directory / "metrics.jsonl")

    @property
    def best(self) -> Path:
        """The directory of the best model."""
        return self.directory / BEST

    @property
    def start(self) -> str:
        """The model that the weights come from that no checkpoint has: with LoRA those that are frozen.

        UserError if these are missing.
        """
        return str(base_of(self.best)) if self.train.lora_rank else self.train.init_from

    @property
    def checkpoints(self) -> Path:
        """The directory of the checkpoints."""
        return self.directory / "checkpoints"

    def config(self) -> dict[str, Any]:
        """The settings by group."""
        return {"model": asdict(self.model), "train": asdict(self.train)}

    def save_config(self) -> None:
        """Write `config.json`; a directory that has it is a run."""
        replace_json(self.directory / RUN_FILE, {"format": RUN_FORMAT, "preset": self.preset, **self.config()})

    def keep_base(self) -> None:
        """With LoRA, put the frozen weights into a new run, and into its manifest."""
        if self.train.lora_rank:
            store_base(self.train.init_from, self.directory / BASE)
            self.manifest.create(self.config(), 0)

    def last_step(self) -> int:
        """The step of the newest checkpoint, valid or not; 0 without one."""
        return max(map(step_of, saved_checkpoints(self.checkpoints)), default=0)

    def verify(self) -> None:
        """Raise UserError if a file that a resumption reads is not what it was; see `gpt.training.manifest`."""
        self.manifest.verify(self.config(), RESUMABLE)

    def tokens(self) -> Tokens:
        """The tokens to train on, verified."""
        tokens = open_tokens(self.directory)
        verify_tokens(self.directory, self.model.vocab_size)
        return tokens

    def save(self, progress: Progress, model: Any, optimizer: Any) -> None:
        """Write a checkpoint; the metrics up to it are flushed to the disk first."""
        digest = self.metrics.save()
        checkpoint = Checkpoint(progress, saved_state(model), optimizer.state_dict(), digest)
        save_checkpoint(self.checkpoints, checkpoint, self.train.keep_checkpoints)
        self.manifest.record_checkpoint(progress.step)

    def record_val_loss(self, progress: Progress, val_loss: float, model: Any) -> None:
        """Record a validation loss; the model with the lowest so far becomes the run's best one."""
        progress.val_loss = val_loss
        if progress.best_val_loss is None or val_loss < progress.best_val_loss:
            progress.best_val_loss, progress.best_step = val_loss, progress.step
            self._save_best(model)

    def _save_best(self, model: Any) -> None:
        """Replace the best weights; the manifest knows the new ones before they are in place."""
        beside = self.directory / ".best.tmp"
        try:
            with writing(self.best):
                beside.mkdir(exist_ok=True)
                save_weights(beside, self.model, saved_state(model))
                self.manifest.record_best(beside / WEIGHTS_FILE)
                os.replace(beside / WEIGHTS_FILE, self.best / WEIGHTS_FILE)
                sync(self.best)
        finally:
            shutil.rmtree(beside, ignore_errors=True)

    def restore(self, model: Any, optimizer: Any, from_scratch: bool = False) -> tuple[Progress, list[str]]:
        """Load the newest valid checkpoint, if there is one: its Progress, and sentences about what is invalid.

        from_scratch: begin at step 0 where no valid checkpoint remains, which is a UserError otherwise.
        """
        checkpoint, notes = load_newest(self.checkpoints)
        progress = Progress()
        if checkpoint and from_scratch:
            raise UserError(f"--from-scratch: {self.checkpoints} has a valid checkpoint; resume it without the flag")
        if checkpoint:
            progress = checkpoint.progress
            try:
                load_saved_state(model, checkpoint.model)
                optimizer.load_state_dict(checkpoint.optimizer)
            except ValueError as error:
                raise UserError(f"{self.checkpoints}: does not fit the model in {RUN_FILE} ({error})") from None
            if not notes and progress.step < (self.manifest.checkpoint or 0):
                notes = [f"{self.checkpoints}: the checkpoint of step {self.manifest.checkpoint} is missing"]
            if self.manifest.checkpoint is None and self.model.dropout:
                notes.append(
                    f"{self.directory}: has no manifest; if version 0.1.0 made it, dropout now draws other masks, so "
                    "the rest of the run is not what that version would have computed"
                )
        elif from_scratch:
            discard_checkpoints(self.checkpoints)
        else:
            self._require_no_progress(notes)
            if self.metrics.rows():
                notes = [f"{self.checkpoints}: no checkpoint was saved yet; the run begins again at step 0"]
        if progress.step > self.train.steps:
            raise UserError(f"--steps {self.train.steps}: the run is already at step {progress.step}")
        with writing(self.checkpoints):
            remove_leftovers(self.checkpoints)
            prune_checkpoints(self.checkpoints, progress.step, self.train.keep_checkpoints)
        notes += self.metrics.truncate(progress.step, checkpoint.metrics if checkpoint else None)
        self.manifest.record_checkpoint(progress.step)
        self.save_config()  # with --steps and --device as they are from now on
        return progress, notes

    def _require_no_progress(self, notes: list[str]) -> None:
        """Raise UserError if the run had checkpoints, or must have had some, although there is no valid one."""
        saved = self.manifest.checkpoint
        if saved is None:  # the run of an earlier version
            saved = max((row["step"] for row in self.metrics.rows()), default=0)
            saved = saved if saved >= self.train.checkpoint_interval else 0
        if notes or saved:
            found = "; ".join(notes) or f"{self.checkpoints}: has no checkpoint, but the run has reached step {saved}"
            raise UserError(
                f"{found}: no valid checkpoint remains; restore one from a copy, or begin again with --from-scratch"
            )


@contextmanager
def create_run(
    out: str, preset: str, model: GPTConfig, train: TrainConfig, ranks: Communicator = ONE_RANK
) -> Iterator[Run]:
    """Yield a new run, complete but beside its place, which it takes once the block has ended.

    Without `out`, its place is the first free of runs/PRESET-1, runs/PRESET-2, ... UserError if anything is wrong; if
    that or another exception is raised, also in the block, no directory is left.
    """
    check_free(out)
    write_data = open_data(train.data, train.init_from, train.val_share, train.chat_template)
    # as many as this machine has cores, even if another one resumes the run: their number decides how sums are rounded
    on_gpu, cores = tt.device(train.device).name != "cpu", own_cores(train.processes, ranks)
    train = dataclasses.replace(train, shares=train.shares or choose_shares(train, on_gpu, cores, ranks.size))
    if train.shares == 1:  # threads divide each operation, and their number decides the same
        train = dataclasses.replace(train, processes=cores)
    place = Path(os.path.realpath(out)) if Path(out).is_symlink() else Path(out)
    numbered = (path for n in itertools.count(1) if not (path := Path("runs", f"{preset}-{n}")).exists())
    with new_directory([place] if out else numbered, place.name or preset) as new:
        with writing(out or "runs"):
            tokenizer = write_data(new.path)
            require_windows(new.path, train.data, model.block_size)
            run = Run(new.path, preset, fit_vocabulary(model, tokenizer), train)
            if train.lora_rank:
                lora = LoRA(train.lora_rank, train.adapter_alpha, tuple(train.adapted_layers))
                create_adapter_directory(run.best, run.model, tokenizer, lora)
            else:
                create_model_directory(run.best, train.model, run.model, tokenizer)
        run.tokens()
        run.save_config()
        run.manifest.create(run.config(), 0)
        yield run
    run.directory = run.manifest.directory = new.path


def fit_vocabulary(model: GPTConfig, tokenizer: Tokenizer) -> GPTConfig:
    """The model's configuration with the tokenizer's vocabulary size, unless a larger one was asked for."""
    if 0 < model.vocab_size < tokenizer.vocab_size:
        raise UserError(f"--vocab-size {model.vocab_size}: must be at least the tokenizer's {tokenizer.vocab_size}")
    return dataclasses.replace(model, vocab_size=model.vocab_size or tokenizer.vocab_size)


def check_free(out: str) -> None:
    """Raise UserError if `--out` names something that exists and is not an empty directory."""
    if (Path(out) / RUN_FILE).exists() and out:
        raise UserError(f"--out {out}: already contains a run; resume it with --resume {out} or choose another --out")
    if out:
        require_free(Path(out), f"--out {out}")


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
        run = Run(path, content["preset"], GPTConfig(**content["model"]), TrainConfig(**saved))
    except UserError as error:
        raise UserError(f"{path / RUN_FILE}: {error}") from None
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"--resume {directory}: its {RUN_FILE} is corrupt ({error})") from None
    run.train = dataclasses.replace(run.train, **changes)
    if not run.train.shares:
        run.train = dataclasses.replace(run.train, shares=former_shares(path, run.train))
    return run


def former_shares(path: Path, train: TrainConfig) -> int:
    """The number of shares that gives the bits of an earlier version, which had none; UserError if there is none."""
    if tt.device(train.device).name != "cpu":
        return 1
    # up to three processes were added in today's order; micro-batches were added one by one
    shares = min(train.processes, train.batch_size)
    if train.grad_accum_steps > 1 or (shares > 1 and not shares == train.processes <= 3):
        raise UserError(
            f"--resume {path}: was begun by a version that added gradients in another order; with --shares {shares} it "
            "resumes, rounded differently from here on"
        )
    return shares


def read_run_file(path: Path) -> dict[str, Any]:
    """The parsed `config.json` of a run; UserError if it is missing, something else, or corrupt."""
    try:
        content = read_json(path / RUN_FILE)
    except FileNotFoundError:
        raise UserError(f"--resume {path}: is not the directory of a run (no {RUN_FILE})") from None
    except (OSError, ValueError) as error:
        raise UserError(f"--resume {path}: its {RUN_FILE} is corrupt ({error})") from None
    if content.get("format") != RUN_FORMAT:
        raise UserError(f"--resume {path}: is not the directory of a run (its {RUN_FILE} is something else)")
    return content

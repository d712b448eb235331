"""A run directory: what is trained, on which tokens, and how far it has come.

Floor 5, above `data`, `checkpoint`, `metrics` and `pretrained`. It holds

    config.json tokenizer.json meta.json train.bin val.bin    written once, when the run is created
    metrics.jsonl checkpoints/step-000500/                    the record, and what `--resume` goes on from
    best/                                                     the model with the lowest validation loss
    loss.png sample.txt                                       written at the end

Read `gpt.training.trainer` next.
"""

import dataclasses
import itertools
import json
import shutil
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from gpt.corpus.embedded import open_corpus
from gpt.errors import UserError
from gpt.files import replace_json, writing
from gpt.options import GPTConfig, TrainConfig, flag
from gpt.tokenizers.characters import CharTokenizer
from gpt.tokenizers.load import load_tokenizer
from gpt.training.batches import is_prepared, link_tokens, measure, open_tokens, prepare
from gpt.training.checkpoint import Checkpoint, Progress, require_checkpoint, save_checkpoint
from gpt.training.metrics import Metrics
from gpt.weights.load import create_model_directory, load_model_tokenizer, same_tokens, save_weights
from tinytensor.parallel import available_cores

FORMAT = "tinytensor run 1"
# What may change when a run goes on: where it is computed, and for how long.
RESUMABLE = {"device", "steps", "threads"}


@dataclass
class Run:
    """An existing run directory and the configuration in it."""

    directory: Path
    preset: str
    model: GPTConfig
    train: TrainConfig

    def __post_init__(self):
        self.metrics = Metrics(self.directory / "metrics.jsonl")
        self.best = self.directory / "best"
        self.checkpoints = self.directory / "checkpoints"

    def save_config(self):
        """Write `config.json`; a directory that has it is a run."""
        content = {
            "format": FORMAT,
            "preset": self.preset,
            "model": asdict(self.model),
            "train": asdict(self.train),
        }
        replace_json(self.directory / "config.json", content)

    def save(self, progress, model, optimizer):
        """Write a checkpoint; the metrics up to it reach the disk first."""
        self.metrics.sync()
        checkpoint = Checkpoint(progress, model.state_dict(), optimizer.state_dict())
        save_checkpoint(self.checkpoints, checkpoint, self.train.keep)

    def note_val_loss(self, progress, val_loss, model):
        """Note a validation loss; the model with the lowest so far becomes the run's best one."""
        progress.val_loss = val_loss
        if progress.best_val_loss is None or val_loss < progress.best_val_loss:
            progress.best_val_loss, progress.best_step = val_loss, progress.step
            save_weights(self.best, self.model, model.state_dict())

    def restore(self, model, optimizer):
        """Load the newest whole checkpoint, if there is one: its Progress, and sentences about damaged ones."""
        checkpoint, damaged = require_checkpoint(self.checkpoints)
        progress = Progress()
        if checkpoint:
            progress = checkpoint.progress
            try:
                model.load_state_dict(checkpoint.model)
                optimizer.load_state_dict(checkpoint.optimizer)
            except ValueError as error:
                raise UserError(f"{self.checkpoints}: is of another model than config.json says ({error})") from None
        if progress.step > self.train.steps:
            raise UserError(f"--steps {self.train.steps}: the run is already at step {progress.step}")
        self.metrics.truncate(progress.step)
        self.save_config()  # with --steps or --device as they are from now on
        return progress, damaged


def create_run(out, preset, model, train):
    """Make a new run directory: tokens, tokenizer, configuration. All that can be wrong is checked first."""
    check_free(out)
    tokenizer, write_tokens = read_data(train.data, model.block_size, train.init_from)
    model = fit_vocabulary(model, tokenizer)
    # All cores of this machine, even if another one resumes the run: their number decides how sums are rounded.
    train = dataclasses.replace(train, threads=train.threads or available_cores())
    with writing(out or "runs"):
        directory = make_directory(out, preset)
    run = Run(directory, preset, model, train)
    try:
        with writing(directory):
            write_tokens(directory)
            require_windows(directory, train.data, model.block_size)
            tokenizer.save(directory)
            create_model_directory(run.best, train.model, model, tokenizer)
        run.save_config()
    except BaseException:  # Ctrl-C too: half a run is of no use, and would be in the way of the next attempt
        shutil.rmtree(directory, ignore_errors=True)
        raise
    return run


def read_data(name, block_size, init_from):
    """The tokenizer for `--data name`, and a function that writes the tokens, or where they are, into a directory.

    With `init_from`, the tokenizer is that model's; UserError if the data has been prepared with another one.
    """
    given = load_model_tokenizer(init_from) if init_from else None
    if is_prepared(name):
        tokenizer = load_tokenizer(name)
        if given and not same_tokens(tokenizer, given):
            raise UserError(
                f"--data {name}: has another tokenizer than --init-from {init_from}; prepare the text again with "
                "--tokenizer and the model's directory"
            )
        return tokenizer, partial(link_tokens, name, block_size)
    corpus = open_corpus(name)
    length = measure(corpus, block_size)
    tokenizer = given or CharTokenizer.train(corpus.pieces())
    return tokenizer, partial(prepare, corpus, tokenizer, length)


def fit_vocabulary(model, tokenizer):
    """The model's configuration with the tokenizer's vocabulary size, unless a larger one was asked for."""
    if 0 < model.vocab_size < tokenizer.vocab_size:
        raise UserError(f"--vocab-size {model.vocab_size}: must be at least the tokenizer's {tokenizer.vocab_size}")
    return dataclasses.replace(model, vocab_size=model.vocab_size or tokenizer.vocab_size)


def require_windows(directory, data, block_size):
    """Raise UserError if the tokens written are too few for one window: there may be far fewer than characters."""
    tokens = open_tokens(directory)
    least = min(len(tokens.train), len(tokens.val))
    if least <= block_size:
        raise UserError(
            f"--data {data}: leaves {least} tokens in a split, fewer than the {block_size + 1} of one window: use a "
            "longer text or a smaller --block-size"
        )


def check_free(out):
    """Raise UserError if `--out` names something that is there and not an empty directory."""
    path = Path(out) if out else None
    if path is None or not path.exists():
        return
    if (path / "config.json").exists():
        raise UserError(f"--out {out}: already holds a run; go on with --resume {out} or choose another --out")
    if not path.is_dir() or any(path.iterdir()):
        raise UserError(f"--out {out}: exists and is not an empty directory; choose another --out")


def make_directory(out, preset):
    """Create the directory `out`, or without one the first free of runs/PRESET-1, runs/PRESET-2, ..."""
    if out:
        Path(out).mkdir(parents=True, exist_ok=True)
        return Path(out)
    for number in itertools.count(1):
        path = Path("runs", f"{preset}-{number}")
        try:
            path.mkdir(parents=True)
            return path
        except FileExistsError:
            continue


def open_run(directory, changes):
    """The run in `directory`, with `changes` to its device or steps. UserError if it is none, or else changes."""
    path = Path(directory)
    for name in changes:
        if name not in RESUMABLE:
            allowed = ", ".join(flag(field) for field in sorted(RESUMABLE))
            raise UserError(f"{flag(name)}: is fixed when a run is created; with --resume only {allowed} can change")
    if not path.is_dir():
        raise UserError(f"--resume {directory}: no such directory")
    content = read_config(path)
    try:
        model, train = GPTConfig(**content["model"]), TrainConfig(**{**content["train"], **changes})
        run = Run(path, content["preset"], model, train)
    except (KeyError, TypeError) as error:
        raise UserError(f"--resume {directory}: its config.json is damaged ({error})") from None
    return run


def read_config(path):
    """The parsed `config.json` of a run; UserError if it is missing, foreign or damaged."""
    try:
        content = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"--resume {path}: is not the directory of a run (no config.json)") from None
    except (OSError, ValueError) as error:
        raise UserError(f"--resume {path}: its config.json is damaged ({error})") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"--resume {path}: is not the directory of a run (its config.json is something else)")
    return content

"""What a training shows while it runs: a progress bar, the losses of each evaluation, samples of text, and its end.

The training does not depend on any of it: samples are drawn by generators of their own, and the model is left as it
was. Rows of `metrics.jsonl` have the loss of one batch, so that they are functions of the step; what is shown of the
training loss is the mean of the last logged ones, since that of one batch is noisy.
"""

import sys
import textwrap
import time
from collections import deque
from typing import Any

import numpy as np
from tqdm import tqdm

import tinytensor as tt
from gpt.corpus.tokens import META_FILE, Tokens, open_tokens
from gpt.dialogs.masking import first_question
from gpt.generation.sampling import Sampling
from gpt.generation.stream import stream, write_sample
from gpt.tokenizers.load import load_tokenizer
from gpt.training.checkpoint import Progress
from gpt.training.metrics import WINDOW, Row, divergence, write_plot
from gpt.training.run import Run
from gpt.training.trainer import due

SAMPLE_TOKENS, SAMPLE_SECONDS = 100, 0.5  # of a sample, which ends at whichever comes first


class Report:
    """The metrics and the console of a training; within `with`, its progress bar, which only a terminal gets."""

    def __init__(self, run: Run, model: Any, progress: Progress):
        self.run, self.model, self.progress = run, model, progress
        self.device, self.tokenizer = tt.device(run.train.device), load_tokenizer(run.directory)
        self.question = question(run)
        logged = [row["train_loss"] for row in run.metrics.rows() if "train_loss" in row]
        self.recent = deque(logged, maxlen=WINDOW)

    def __enter__(self) -> "Report":
        total, done = self.run.train.steps, self.progress.step
        self.bar = tqdm(total=total, initial=done, unit="step", mininterval=0.5, dynamic_ncols=True, disable=None)
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def begin(self, val_loss: float) -> None:
        """Record and show the model before its first step."""
        if not self.run.metrics.rows():  # else an earlier attempt, of which no checkpoint remains, has
            self.run.metrics.append({"step": 0, "val_loss": val_loss, "seconds": 0.0})
        self._write(f"step 0: val loss {val_loss:.3f}")
        self._show_sample()

    def log(self, row: Row) -> None:
        """Append a row to the metrics and show its losses."""
        self.run.metrics.append(row)
        self.recent.append(row["train_loss"])
        train_loss = sum(self.recent) / len(self.recent)
        memory = self.device.memory()
        gib = f", {memory[0] / 2**30:.1f}/{memory[1] / 2**30:.1f} GiB" if memory else ""
        state = f"loss {train_loss:.4f}, {row['tokens_per_second']:,} tokens/s{gib}"
        self.bar.set_postfix_str(state, refresh=False)
        if "val_loss" in row:
            self._write(f"step {row['step']}: train loss {train_loss:.3f}, val loss {row['val_loss']:.3f}")

    def advance(self) -> None:
        """Move the bar on by a step, and show a sample if one is due."""
        self.bar.update()
        self._show_sample()

    def _show_sample(self) -> None:
        step, interval = self.progress.step, self.run.train.sample_interval
        if interval and due(step, interval, self.run.train.steps):
            text = "".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in self._sample())
            self._write(f"sample at step {step}:\n" + textwrap.indent(text.strip("\n"), "    "))

    def _sample(self) -> str:
        """A short text by the model as it is now; of a model of dialogs a question, and its answer."""
        asked = self.question
        text, end = "" if asked is None else self.tokenizer.decode(asked), time.perf_counter() + SAMPLE_SECONDS
        prompt = "" if asked is None else asked
        self.model.eval()
        try:
            for _, piece in stream(self.model, self.tokenizer, prompt, Sampling(tokens=SAMPLE_TOKENS)):
                text += piece
                if time.perf_counter() > end:
                    break
        finally:
            self.model.train()
        return text

    def _write(self, text: str) -> None:
        """Print above the bar."""
        self.bar.write(text)
        sys.stdout.flush()


def question(run: Run) -> np.ndarray | None:
    """What samples of a model of dialogs answer, token ids (T,): the beginning of the first one in validation."""
    tokens = open_tokens(run.directory)
    if tokens.val_answers is None:
        return None
    return first_question(tokens.val, tokens.val_answers, run.model.block_size // 2)


def describe_model(kind: str, model: Any, device: tt.Device) -> str:
    """A line about the model, and about what of it is trained if that is not all."""
    count = model.num_parameters()
    trained = sum(parameter.data.size for parameter in model.parameters() if parameter.requires_grad)
    part = f", {trained:,} of them trained," if trained < count else ""
    return f"model: {kind} with {count:,} parameters{part} on {device.name}"


def describe(tokens: Tokens) -> str:
    """A line about the data, and about what of it could not be read."""
    skipped = f"; {tokens.unreadable} unreadable skipped, see {META_FILE}" if tokens.unreadable else ""
    sizes = f"{len(tokens.train):,} tokens to train on, {len(tokens.val):,} to validate"
    return f"data: {tokens.source}, {sizes}{skipped}"


def finish(run: Run, progress: Progress) -> None:
    """Print how the run ended, or how to resume it, and plot its losses; after its last step, write a sample."""
    ended, rows = progress.step >= run.train.steps, run.metrics.rows()
    if ended:
        best = f"{progress.best_val_loss:.4f} at step {progress.best_step}"
        print(f"val loss {progress.val_loss:.4f} at the end, best {best}")
    if sentence := divergence(rows, run.model.vocab_size):
        print(f"warning: {sentence}", file=sys.stderr)
    print(write_plot(rows, run.directory / "loss.png"))
    if ended:
        asked = question(run)
        print(write_sample(run.directory, tt.device(run.train.device), question=asked))
        if asked is None:
            print(f'more text: python -m gpt.generate {run.directory} --prompt "..." --tokens 500')
        else:
            print(f"talk to it: python -m gpt.chat {run.directory}")
    else:
        print(f"stopped at step {progress.step}; to resume: python train.py --resume {run.directory}")

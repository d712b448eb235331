"""The record of a run: one JSON row per logged step, and a plot of it.

Apart from the two timing fields, rows are functions of the step, so a run that was interrupted and resumed has the rows
of one that was not.
"""

import json
import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from gpt.files import reading, replace_file, replace_text, require_regular, sha256, writing

Row = dict[str, Any]

FAR_ABOVE = 1.0  # nats per token
SLOWER = "lower --lr (or Muon's --muon-lr), raise --warmup-steps or set --grad-clip"
WINDOW = 10  # logged training losses over which a mean is shown: that of one batch is noisy
MAX_REASON = 100  # characters of matplotlib's errors, which list everything that they would accept


class Metrics:
    """The rows of `metrics.jsonl`, which are appended one by one."""

    def __init__(self, path: Path):
        self.path = path

    def append(self, row: Row) -> None:
        """Add a row (a dict of numbers)."""
        with writing(self.path), open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def rows(self) -> list[Row]:
        """All rows that can be read."""
        return self.read()[0]

    def read(self) -> tuple[list[Row], list[str]]:
        """All rows that can be read, and sentences about the others, but for a last line that a crash truncated."""
        rows, invalid = [], []
        content = b""
        with reading(self.path):
            if self.path.exists():
                require_regular(self.path)
                content = self.path.read_bytes()
        for number, line in enumerate(content.splitlines(keepends=True), 1):
            if row := parse_row(line):
                rows.append(row)
            elif line.endswith(b"\n"):
                invalid.append(f"{self.path}: line {number} is corrupt and left out")
        return rows, invalid

    def truncate(self, step: int, digest: str | None = None) -> list[str]:
        """Remove the rows after `step`, which the run will write again; returns sentences about what is wrong.

        digest: what `save` returned at that step, if that is known.
        """
        rows, invalid = self.read()
        replace_text(self.path, "".join(json.dumps(row) + "\n" for row in rows if row["step"] <= step))
        if digest and not invalid and sha256(self.path) != digest:
            invalid.append(f"{self.path}: its rows up to step {step} are not those that were saved")
        return invalid

    def save(self) -> str:
        """Flush the rows to the disk; returns their SHA-256."""
        with writing(self.path):
            with open(self.path, "a", encoding="utf-8") as file:
                os.fsync(file.fileno())
            return sha256(self.path)


def parse_row(line: bytes) -> Row | None:
    """The row on a line, or None if it is not one."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    valid = isinstance(row, dict) and type(row.get("step")) is int and all(map(_is_number, row.values()))
    return row if valid else None


def _is_number(value: object) -> bool:
    """Whether it is a float, or a whole number that one can hold."""
    return type(value) is float or (type(value) is int and abs(value) < 2**63)


def divergence(rows: list[Row], vocab_size: int) -> str | None:
    """A sentence if the validation loss ended far above that of uniform guesses, or the training loss above its start.

    vocab_size: how many tokens there are to guess from. A model that began with another's weights may have begun far
    above uniform guesses; then it is its first validation loss that counts.
    """
    trained = [row["train_loss"] for row in rows if "train_loss" in row]
    evaluated = [row["val_loss"] for row in rows if "val_loss" in row]
    if not trained or not evaluated:
        return None
    uniform = math.log(vocab_size)
    first = next((row["val_loss"] for row in rows if row.get("step") == 0 and "val_loss" in row), uniform)
    if evaluated[-1] <= max(uniform, first) + FAR_ABOVE and trained[-1] <= trained[0] + FAR_ABOVE:
        return None
    reason = f"it diverged: {SLOWER}"
    if trained[-1] <= min(trained[0], uniform):
        reason = "it has overfitted: train for fewer --steps, or on more text"
    return (
        f"the training loss began at {trained[0]:.4g} and ended at {trained[-1]:.4g}, the validation loss at "
        f"{evaluated[-1]:.4g}, and uniform guesses have {uniform:.4g}; {reason}"
    )


def smoothed(losses: Sequence[float]) -> list[float]:
    """The mean of each loss and its neighbors, WINDOW // 2 on either side; near an end, the fewer that both sides have.

    As many on both sides, since a mean over those before alone would lag behind a loss that falls.
    """
    sides = [min(i, len(losses) - 1 - i, WINDOW // 2) for i in range(len(losses))]
    return [sum(losses[i - side : i + side + 1]) / (2 * side + 1) for i, side in enumerate(sides)]


def _curve(rows: list[Row], key: str) -> tuple[list[int], list[float]]:
    found = [row for row in rows if key in row]
    return [row["step"] for row in found], [row[key] for row in found]


def write_plot(rows: Iterable[Row], path: Path) -> str:
    """Plot training and validation loss over the steps into a PNG; returns a sentence about it."""
    try:
        from matplotlib.figure import Figure  # an extra, and slow to import; Figure alone needs no display
    except ImportError:
        return "loss.png not written: it needs matplotlib, pip install -e '.[plot]'"
    except (OSError, ValueError, RuntimeError) as error:  # of its settings, such as MPLBACKEND, and its own files
        return f"loss.png not written: matplotlib cannot be used ({str(error)[:MAX_REASON]})"
    figure = Figure(figsize=(8, 5), layout="tight")
    axes = figure.subplots()
    rows = list(rows)
    steps, losses = _curve(rows, "train_loss")
    axes.plot(steps, losses, color="C0", alpha=0.3, linewidth=1, label="training batch")
    axes.plot(steps, smoothed(losses), color="C0", linewidth=1.5, label="training batches, smoothed")
    axes.plot(*_curve(rows, "val_loss"), "o-", color="C1", linewidth=1, markersize=4, label="validation")
    axes.set(xlabel="step", ylabel="loss (nats per token)")
    axes.grid(alpha=0.3)
    axes.legend()
    replace_file(path, lambda temporary: figure.savefig(temporary, dpi=120, format="png"))
    return f"loss curve: {path}"

"""The record of a run: one JSON row per logged step, and a plot of it.

Apart from the two timing fields, rows are functions of the step, so a run that was interrupted and resumed has the rows
of one that was not.
"""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gpt.files import replace_file, replace_text, writing

Row = dict[str, Any]


class Metrics:
    """The rows of `metrics.jsonl`, which are appended one by one."""

    def __init__(self, path: Path):
        self.path = path

    def append(self, row: Row) -> None:
        """Add a row (a dict of numbers)."""
        with writing(self.path), open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def rows(self) -> list[Row]:
        """All rows, up to the first that a crash truncated."""
        if not self.path.exists():
            return []
        rows = []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                rows.append(json.loads(line))
            except ValueError:
                break
        return rows

    def truncate(self, step: int) -> None:
        """Remove the rows after `step`; the run resumes from there and will write them again."""
        kept = [row for row in self.rows() if row["step"] <= step]
        replace_text(self.path, "".join(json.dumps(row) + "\n" for row in kept))

    def sync(self) -> None:
        """Flush the rows to the disk."""
        if self.path.exists():
            with writing(self.path), open(self.path, "a", encoding="utf-8") as file:
                os.fsync(file.fileno())


def write_plot(rows: Iterable[Row], path: Path) -> str:
    """Plot training and validation loss over the steps into a PNG; returns a sentence about it."""
    try:
        from matplotlib.figure import Figure  # an extra, and slow to import; Figure alone needs no display
    except ImportError:
        return "loss.png not written: it needs matplotlib, pip install -e '.[plot]'"
    figure = Figure(figsize=(8, 5), layout="tight")
    axes = figure.subplots()
    for key, label, style in (("train_loss", "training batch", "-"), ("val_loss", "validation", "o-")):
        points = [(row["step"], row[key]) for row in rows if key in row]
        if points:
            axes.plot(*zip(*points, strict=True), style, label=label, linewidth=1, markersize=4)
    axes.set(xlabel="step", ylabel="loss (nats per token)")
    axes.grid(alpha=0.3)
    axes.legend()
    replace_file(path, lambda temporary: figure.savefig(temporary, dpi=120, format="png"))
    return f"loss curve: {path}"

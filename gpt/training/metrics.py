"""The record of a run: one JSON row per logged step, and a picture of it.

Floor 5, beside `checkpoint`. Rows are functions of the step, but for the two timing fields, so a run that was
interrupted and resumed has the rows of one that was not. Read `gpt.training.run` next.
"""

import json
import os

from gpt.files import replace_file, writing


class Metrics:
    """The rows of `metrics.jsonl`, appended as they come."""

    def __init__(self, path):
        self.path = path

    def append(self, row):
        """Add a row (a dict of numbers)."""
        with writing(self.path), open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def rows(self):
        """All rows, up to the first that a crash cut short."""
        if not self.path.exists():
            return []
        rows = []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                rows.append(json.loads(line))
            except ValueError:
                break
        return rows

    def truncate(self, step):
        """Forget the rows after `step`; the run goes on from there and will write them again."""
        kept = [row for row in self.rows() if row["step"] <= step]
        text = "".join(json.dumps(row) + "\n" for row in kept)
        replace_file(self.path, lambda beside: beside.write_text(text, encoding="utf-8"))

    def sync(self):
        """Force the rows to the disk."""
        if self.path.exists():
            with writing(self.path), open(self.path, "a", encoding="utf-8") as file:
                os.fsync(file.fileno())


def write_plot(rows, path):
    """Draw training and validation loss over the steps into a PNG; returns a sentence about it."""
    try:
        from matplotlib.figure import Figure  # an extra, and slow to import; Figure alone needs no display
    except ImportError:
        return "loss.png left out: drawing it needs matplotlib, pip install 'tinytensor[plot]'"
    figure = Figure(figsize=(8, 5), layout="tight")
    axes = figure.subplots()
    for key, label, style in (("train_loss", "training batch", "-"), ("val_loss", "validation", "o-")):
        points = [(row["step"], row[key]) for row in rows if key in row]
        if points:
            axes.plot(*zip(*points, strict=True), style, label=label, linewidth=1, markersize=4)
    axes.set(xlabel="step", ylabel="loss (nats per token)")
    axes.grid(alpha=0.3)
    axes.legend()
    replace_file(path, lambda beside: figure.savefig(beside, dpi=120, format="png"))
    return f"loss curve: {path}"

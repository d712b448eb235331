"""How runs were trained, as HTML: their losses as one SVG, and a table of what they have and of how they differ."""

from __future__ import annotations

import html
import math
from typing import Any

from gpt.explain.curve import loss_curve, points, thinned
from gpt.model.config import parameter_count
from gpt.training.metrics import Row
from gpt.training.run import Run

WIDTH, HEIGHT = 640, 320
LEFT, RIGHT, TOP, BOTTOM = 50, 26, 12, 32  # margins around the curves
TICKS = 5

Curve = list[list[float]]  # [step, loss]


def curves_view(runs: list[Run]) -> str:
    """The losses of one or two runs, and the table. Rows that are corrupt are left out."""
    found = [(run, run.metrics.rows()) for run in runs]
    if not any(rows for _, rows in found):
        return '<p class="tt-hint">No metrics yet: a training writes them every few steps.</p>'
    lines, keys = [], []
    for number, (run, rows) in enumerate(found):
        lines += [(f"train run{number}", thinned(points(rows, "train_loss")))]
        lines += [(f"val run{number}", thinned(points(rows, "val_loss")))]
        keys.append(f'<span class="tt-key run{number}">{html.escape(run.directory.name)}</span>')
    legend = f'{"".join(keys)}<span class="tt-hint">thin: training batch, bold: validation; nats per token</span>'
    return f'<div class="tt-legend">{legend}</div>{plot(lines)}{table(found)}{remarks(*found[0])}'


def plot(lines: list[tuple[str, Curve]]) -> str:
    """An SVG of named curves with axes from the smallest to the largest values in them."""
    steps = [step for _, curve in lines for step, _ in curve]
    losses = [loss for _, curve in lines for _, loss in curve]
    if not losses:
        return ""
    right = max(steps)
    x_ticks, y_ticks = [tick for tick in ticks(0, right) if tick <= right], ticks(min(losses), max(losses))
    low, high = y_ticks[0], y_ticks[-1]

    def x(step: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * step / max(right, 1)

    def y(loss: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (high - loss) / max(high - low, 1e-9)

    parts = [f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(t):.1f}" y2="{y(t):.1f}"/>' for t in y_ticks]
    parts += [f'<text x="{LEFT - 6}" y="{y(t) + 4:.1f}" text-anchor="end">{t:.4g}</text>' for t in y_ticks]
    parts += [f'<text x="{x(t):.1f}" y="{HEIGHT - 8}" text-anchor="middle">{t:,.6g}</text>' for t in x_ticks]
    for name, curve in lines:
        places = " ".join(f"{x(step):.1f},{y(loss):.1f}" for step, loss in curve)
        parts.append(f'<polyline class="{name}" points="{places}"/>')
        if name.startswith("val"):
            parts += [f'<circle class="{name}" cx="{x(s):.1f}" cy="{y(v):.1f}" r="3"/>' for s, v in curve]
    label = "loss curves: " + ", ".join(f"{name} {curve[-1][1]:.3f}" for name, curve in lines if curve)
    return f'<svg class="tt-plot" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def ticks(low: float, high: float) -> list[float]:
    """Round numbers, about TICKS of them, the first at most `low` and the last at least `high`."""
    rough = (high - low) / TICKS or 1.0
    unit = 10.0 ** math.floor(math.log10(rough))
    unit *= next(factor for factor in (1, 2, 5, 10) if factor * unit >= rough)
    return [unit * n for n in range(math.floor(low / unit), math.ceil(high / unit) + 1)]


def table(found: list[tuple[Run, list[Row]]]) -> str:
    """What each run has reached, and the settings in which two runs differ."""
    columns = [facts(run, rows) for run, rows in found]
    settings = [{name: value for group in run.config().values() for name, value in group.items()} for run, _ in found]
    for name in settings[0]:
        values = [str(setting.get(name)) for setting in settings]
        if len(set(values)) > 1:
            for column, value in zip(columns, values, strict=True):
                column[f"--{name.replace('_', '-')}"] = value
    head = "".join(f"<th>{html.escape(run.directory.name)}</th>" for run, _ in found)
    body = "".join(
        f"<tr><th>{name}</th>{''.join(f'<td>{html.escape(column[name])}</td>' for column in columns)}</tr>"
        for name in columns[0]
    )
    return f'<table class="tt-table"><tr><th></th>{head}</tr>{body}</table>'


def facts(run: Run, rows: list[Row]) -> dict[str, str]:
    """The table's rows about one run."""
    last: dict[str, Any] = rows[-1] if rows else {"step": 0}
    val = points(rows, "val_loss")
    train = points(rows, "train_loss")
    best = min(val, key=lambda point: point[1], default=None)
    return {
        "step": f"{last['step']:,} of {run.train.steps:,}",
        "training loss": f"{train[-1][1]:.3f}" if train else "-",
        "best validation loss": f"{best[1]:.3f} at step {best[0]:,}" if best else "-",
        "tokens per second": f"{last['tokens_per_second']:,.0f}" if "tokens_per_second" in last else "-",
        "parameters": f"{parameter_count(run.train.model, run.model):,}",
    }


def remarks(run: Run, rows: list[Row]) -> str:
    """What the curve of a run that has ended says, as on the page of `gpt.explain`."""
    if not rows or rows[-1]["step"] < run.train.steps:
        return ""
    curve = loss_curve(rows, run.model.vocab_size)
    return "".join(f"<p>{html.escape(sentence)}</p>" for sentence in curve["says"]) if curve else ""

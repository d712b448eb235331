"""The loss curve of a run: fewer points than rows, and sentences that say what it shows."""

from __future__ import annotations

import math
from typing import Any

from gpt.training.metrics import Row, divergence

MAX_POINTS = 500  # of a curve, more than a screen can show
RISEN = 0.02  # nats per token above the lowest validation loss that are no longer noise
STILL_FALLING = 0.02  # nats per token in the last quarter of the steps, likewise
WIDE_GAP = 0.3  # nats per token between training and validation loss


def loss_curve(rows: list[Row], vocab_size: int) -> dict[str, Any] | None:
    """The points [step, loss] of the two losses, the loss of uniform guesses, and sentences; None without rows."""
    train, val = points(rows, "train_loss"), points(rows, "val_loss")
    if not train and not val:
        return None
    return {
        "train": thinned(train),
        "val": thinned(val),
        "uniform": round(math.log(vocab_size), 4),
        "says": list(sentences(train, val, vocab_size)) + verdict(rows, train, val, vocab_size),
    }


def points(rows: list[Row], name: str) -> list[list[float]]:
    """[step, loss] of the rows that have a finite one."""
    return [[row["step"], round(row[name], 4)] for row in rows if math.isfinite(row.get(name, math.nan))]


def thinned(curve: list[list[float]]) -> list[list[float]]:
    """At most about MAX_POINTS of the points, evenly chosen, the last one included."""
    stride = -(-len(curve) // MAX_POINTS) or 1
    return curve[::-1][::stride][::-1]


def sentences(train: list[list[float]], val: list[list[float]], vocab_size: int) -> list[str]:
    """What the numbers are."""
    says = [
        f"A model that knows nothing and finds all {vocab_size:,} tokens equally likely has a loss of "
        f"ln({vocab_size}) = {math.log(vocab_size):.3f}."
    ]
    if train:
        says.append(f"The training loss went from {train[0][1]:.3f} at step {train[0][0]} to {train[-1][1]:.3f}.")
    if val:
        loss = val[-1][1]
        says.append(
            f"The validation loss, on text that was never trained on, ended at {loss:.3f}: a perplexity of "
            f"exp({loss:.3f}) = {math.exp(min(loss, 700)):,.1f}, as if the model hesitated between that many equally "
            "likely tokens each time."
        )
    return says


def verdict(rows: list[Row], train: list[list[float]], val: list[list[float]], vocab_size: int) -> list[str]:
    """What they mean."""
    if diverged := divergence(rows, vocab_size):
        return [diverged[0].upper() + diverged[1:] + "."]
    if len(val) < 3:
        return []
    best_step, best = min(val, key=lambda point: point[1])
    end, last = val[-1]
    earlier = min(loss for step, loss in val[:-1] if step <= max(val[0][0], end * 3 / 4))
    if last > best + RISEN:
        says = [
            f"The validation loss was lowest at step {best_step}, {best:.3f}, and has risen since: the model began to "
            "memorize its training text (overfitting). This page shows the model of that step."
        ]
    elif last < earlier - STILL_FALLING:
        says = ["It was still falling at the end: more --steps would probably make the model better."]
    else:
        says = ["It was flat at the end: more --steps alone would not help much; more text or a larger model might."]
    recent = [loss for step, loss in train if step > end * 3 / 4]
    if recent and last - sum(recent) / len(recent) > WIDE_GAP:
        says.append("The gap between the two losses says how much better the model knows the text that it trained on.")
    return says

"""The frequencies of rotary positions: how far each pair of a head turns from one position to the next.

Su et al. 2021 (arXiv:2104.09864) has theta^(-2i/R) for pair i of the R numbers that are rotated. Models that are
trained on longer contexts afterwards scale them: all by the same factor, or as Llama 3 does, only those that had not
completed a turn within the context of the first training.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from gpt.errors import UserError


class Scaling(NamedTuple):
    """How the frequencies are lowered: by `factor`, between the two wavelengths context / high and context / low."""

    factor: float
    low: float = 1.0
    high: float = 4.0
    context: float = 0.0  # of the first training; 0: all frequencies are divided by the factor


def parse_scaling(text: str) -> Scaling | None:
    """The Scaling that `--rotary-scaling` names, None for an empty text. Raises UserError."""
    if not text:
        return None
    kind, _, numbers = text.partition(":")
    try:
        scaling = Scaling(*map(float, numbers.split(",")))
        count = {"linear": 1, "llama3": 4}[kind]
        possible = len(numbers.split(",")) == count and all(math.isfinite(value) for value in scaling)
        if (
            not possible
            or scaling.factor <= 0
            or not 0 < scaling.low < scaling.high
            or (count == 4) != (scaling[3] > 0)
        ):
            raise ValueError
    except (KeyError, TypeError, ValueError):
        raise UserError(
            f"--rotary-scaling {text}: must be linear:FACTOR, or llama3:FACTOR,LOW,HIGH,CONTEXT with positive numbers, "
            "LOW below HIGH"
        ) from None
    return scaling


def frequencies(size: int, theta: float, scaling: Scaling | None = None) -> tuple[float, ...]:
    """Angles per position (R/2,) of the pairs of the `size` = R numbers of a head that are rotated, in float64."""
    plain = [theta ** (-2 * i / size) for i in range(size // 2)]
    return tuple(plain if scaling is None else (_scaled(f, scaling) for f in plain))


def _scaled(frequency: float, scaling: Scaling) -> float:
    """Divided by the factor if it makes less than `low` turns within the context, kept if more than `high`."""
    if not scaling.context:
        return frequency / scaling.factor
    turns = scaling.context * frequency / (2 * math.pi)
    kept = min(1.0, max(0.0, (turns - scaling.low) / (scaling.high - scaling.low)))
    return kept * frequency + (1 - kept) * frequency / scaling.factor

"""Options of the primitives that have many: small frozen objects that both kernel packages take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class DropoutOptions:
    """The dropout mask of one call, a pure function of these numbers and of each element's (row, column).

    p: the probability that an element is dropped, 0 <= p < 1. seed: 64 bits. first_row is added (mod 2^32) to the row
    numbers that the mask is a hash of, so that a part of a batch gets the mask that its rows have in the whole batch.
    """

    p: float = 0.0
    seed: int = 0
    first_row: int = 0

    def __post_init__(self):
        if not 0 <= self.p < 1:
            raise ValueError(f"dropout: p is {self.p}: must be at least 0 and less than 1")
        if not 0 <= self.seed < 2**64:
            raise ValueError(f"dropout: seed is {self.seed}: must be an unsigned integer of 64 bits")


NO_DROPOUT = DropoutOptions()


@dataclass(frozen=True)
class AdamWOptions:
    """The numbers of one AdamW step (Loshchilov & Hutter 2017, arXiv:1711.05101); `step` counts from 1.

    grad_scale multiplies each gradient first: a number, or a float array of shape () on the parameter's device, which
    is then never copied to the host.
    """

    lr: float
    beta1: float
    beta2: float
    eps: float
    weight_decay: float
    step: int
    grad_scale: Any = 1.0

    def __post_init__(self):
        if self.step < 1:
            raise ValueError(f"adamw_update: step is {self.step}: must be at least 1")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"adamw_update: {name} is {getattr(self, name)}: must be at least 0 and less than 1")


@dataclass(frozen=True)
class MuonOptions:
    """The numbers of one Muon step of a matrix, with AdamW's meanings; beta is the momentum's decay rate.

    blocks: (rows, columns), the grid of equal parts of the matrix that are orthogonalized separately.
    """

    lr: float
    beta: float
    weight_decay: float
    blocks: tuple[int, int] = (1, 1)
    grad_scale: Any = 1.0

    def __post_init__(self):
        if not 0 <= self.beta < 1:
            raise ValueError(f"muon_update: beta is {self.beta}: must be at least 0 and less than 1")

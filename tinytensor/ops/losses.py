"""Losses: cross-entropy, fused, and mean squared error.

Shape letters as in `fused.py`.
"""

from __future__ import annotations

import math

from tinytensor.backend import kernels_for
from tinytensor.ops.arguments import as_tensor
from tinytensor.ops.dtypes import floating
from tinytensor.ops.elementwise import float16_by_kernels, square, sub, where
from tinytensor.ops.fused import log_softmax
from tinytensor.ops.indexing import checked_ids, getitem, integers, take
from tinytensor.ops.reduce import mean, sum
from tinytensor.ops.shape import reshape, unsqueeze
from tinytensor.tensor import Function, Tensor, TensorLike

IGNORE = -100  # a target that does not count, as in PyTorch


class CrossEntropy(Function):
    """y = mean_n (log sum_v exp(x_nv) - x_nt), t the target of row n;  gx_nv = g (softmax(x_n)_v - [v = t]) / count

    A row whose target is `ignore_index` does not count. Only the log-sum-exp of each row is saved, no probabilities.
    """

    def __init__(self, ignore_index):
        self.ignore_index = ignore_index

    def forward(self, x, targets):
        x = floating(x)
        losses, lse = kernels_for(x).cross_entropy_forward(x, targets, self.ignore_index)
        self.x, self.targets, self.lse = self.save(x, targets, lse)
        self.count = (targets != self.ignore_index).sum().astype(losses.dtype)
        return losses.sum() / self.count

    def vjp(self, g):
        k = kernels_for(self.x)
        return k.cross_entropy_backward(g / self.count, self.x, self.targets, self.lse, self.ignore_index), None


class LinearCrossEntropy(Function):
    """The cross-entropy of logits x w^T, w of shape (V, C), without ever holding all N x V logits

    The gradients come from the same pass over blocks of rows, as the logits are there (Hsu et al. 2024,
    arXiv:2410.10989), so the VJP has only to multiply by g.
    """

    def __init__(self, ignore_index):
        self.ignore_index = ignore_index

    def forward(self, x, weight, targets):
        k, with_grad, with_gweight = kernels_for(x), True in self.needs_grad, self.needs_grad[1]
        loss, self.gx, self.gw = k.linear_cross_entropy(
            floating(x), weight, targets, self.ignore_index, with_grad, with_gweight
        )
        return loss

    def vjp(self, g):
        # these arrays were made for this moment: no need for others of their size
        self.gx *= g
        if self.gw is not None:
            self.gw *= g
        return self.gx, self.gw, None


@float16_by_kernels
def cross_entropy(
    logits: TensorLike,
    targets: TensorLike,
    ignore_index: int = IGNORE,
    reduction: str = "mean",
    weight: TensorLike = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """-log softmax(logits)[target]: logits (..., V), integer targets (...) -> (). Composed: `composed.cross_entropy`.

    Rows whose target is `ignore_index` do not count; if none does, the mean is NaN, as in PyTorch. Targets may be on
    the host whatever the device of the logits, like the ids of `embedding`. Classes are the last axis, not the second.
    reduction: "mean", "sum", or "none" for a loss per row, 0 where it does not count, with the targets' shape.
    weight: (V,), multiplies the loss of each class; the mean is then divided by the sum of the targets' weights.
    label_smoothing: the share e of the target's 1 that is spread over all classes, (1 - e) [v = t] + e / V.
    Raises IndexError for a target outside 0 ... V - 1, TypeError for targets that are not integers, ValueError for
    another number of them and for options that are none of these.
    """
    logits = as_tensor(logits)
    if not logits.ndim or not logits.shape[-1]:
        raise ValueError(f"cross_entropy: logits have shape {logits.shape}: must be (..., V), V at least 1")
    _require_reduction("cross_entropy", reduction)
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"cross_entropy: label_smoothing {label_smoothing}: must be from 0 to 1")
    shape, classes = logits.shape[:-1], logits.shape[-1]
    rows = reshape(logits, math.prod(shape), classes)  # (..., V) -> (N, V)
    targets = _checked_targets("cross_entropy", targets, logits, shape, classes, ignore_index)
    if reduction == "mean" and weight is None and not label_smoothing:
        return CrossEntropy(ignore_index)(rows, targets)
    weight = None if weight is None else as_tensor(weight)
    if weight is not None and weight.shape != (classes,):
        raise ValueError(f"cross_entropy: weight has shape {weight.shape}: must be ({classes},), one per class")
    losses, shares = _losses_of_rows(rows, targets, ignore_index, weight, label_smoothing)
    if reduction == "none":
        return reshape(losses, shape)
    return sum(losses) if reduction == "sum" else sum(losses) / sum(shares)


def _losses_of_rows(
    rows: Tensor, targets: Tensor, ignore_index: int, weight: TensorLike, label_smoothing: float
) -> tuple[Tensor, Tensor]:
    """The loss of each row of logits (N, V), and what it weighs in the mean; both (N,), and 0 where it is ignored."""
    counted = targets.data != ignore_index
    classes = Tensor(targets.data * counted)  # a valid class also where there is none, so that it can be an index
    log_p = log_softmax(rows)  # (N, V)
    log_p_target = reshape(take(log_p, 1, unsqueeze(classes, 1)), len(classes))  # (N,)
    shares = Tensor(counted) if weight is None else where(counted, getitem(weight, classes), 0.0)  # (N,)
    losses = -log_p_target * shares
    if label_smoothing:
        uniform_loss = -mean(log_p if weight is None else log_p * weight, axis=-1)  # of targets 1 / V for every class
        losses = (1 - label_smoothing) * losses + label_smoothing * uniform_loss
    return where(counted, losses, 0.0), shares


@float16_by_kernels
def linear_cross_entropy(x: TensorLike, weight: TensorLike, targets: TensorLike, ignore_index: int = IGNORE) -> Tensor:
    """`cross_entropy(x @ weight.T, targets)` in far less memory: x (..., C), weight (V, C), targets (...) -> ().

    Composed: `composed.linear_cross_entropy`.
    """
    x, weight = as_tensor(x), as_tensor(weight)
    vocabulary = weight.shape
    if len(vocabulary) != 2 or not x.ndim or x.shape[-1] != vocabulary[1]:
        raise ValueError(
            f"linear_cross_entropy: x has shape {x.shape} and weight {vocabulary}: must be (..., C) and (V, C)"
        )
    rows = reshape(x, math.prod(x.shape[:-1]), x.shape[-1])  # (..., C) -> (N, C)
    targets = _checked_targets("linear_cross_entropy", targets, x, x.shape[:-1], vocabulary[0], ignore_index)
    return LinearCrossEntropy(ignore_index)(rows, weight, targets)


def _checked_targets(
    name: str, targets: TensorLike, like: Tensor, shape: tuple[int, ...], classes: int, ignore_index: int
) -> Tensor:
    """The targets (N,), one for each row of logits (*shape, classes), on the device of `like`."""
    given = integers(name, "targets", targets).shape
    if given != shape:  # before the values: with the classes on another axis, those are out of range too
        raise ValueError(
            f"{name}: targets have shape {given}: must be {shape}, one for each row of logits, "
            "as classes are the last axis"
        )
    return reshape(checked_ids(name, "targets", targets, like, classes, ignore_index), math.prod(shape))


def mse_loss(x: TensorLike, targets: TensorLike, reduction: str = "mean") -> Tensor:
    """(x - targets)^2, of one shape: its "mean" or "sum" -> (), or with reduction "none" itself.

    Raises ValueError for different shapes, which would broadcast to an unintended loss, and for another reduction.
    """
    x, targets = as_tensor(x), as_tensor(targets)
    if x.shape != targets.shape:
        raise ValueError(f"mse_loss: x has shape {x.shape} and targets {targets.shape}: must be the same")
    _require_reduction("mse_loss", reduction)
    squares = square(sub(x, targets))
    return {"mean": mean, "sum": sum, "none": lambda y: y}[reduction](squares)


def _require_reduction(name: str, reduction: str) -> None:
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"{name}: reduction {reduction!r}: must be 'mean', 'sum' or 'none'")

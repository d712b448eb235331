"""Einstein summation, made of permutations, reshapes and matrix products, so that its gradients are theirs.

Operands are joined two at a time from left to right. Of the labels of two operands a and b, those that both have and
are still needed become batch axes (X), those that both have and nobody else needs are contracted (K), and each keeps
its own (M of a, N of b): (X..., M, K) @ (X..., K, N) -> (X..., M, N).
"""

from __future__ import annotations

import math
import string

import numpy as np

from tinytensor.ops.arguments import as_tensor
from tinytensor.ops.elementwise import mul
from tinytensor.ops.indexing import getitem
from tinytensor.ops.linalg import matmul
from tinytensor.ops.reduce import sum
from tinytensor.ops.shape import expand, permute, reshape
from tinytensor.tensor import Tensor, TensorLike


def einsum(subscripts: str, *operands: TensorLike) -> Tensor:
    """Multiply operands along axes with the same label, sum over the labels that the result lacks.

    einsum("bhqd,bhkd->bhqk", q, k): the scores of attention. Without "->" the result has the labels that occur once, in
    alphabetical order. "..." stands for any leading axes, which broadcast; a label twice in one operand takes its
    diagonal. As in NumPy and PyTorch. Raises ValueError for subscripts that are malformed or do not fit the operands.
    """
    tensors = [as_tensor(x) for x in operands]
    *inputs, output = _parse(subscripts, [x.ndim for x in tensors])
    lengths = _lengths(subscripts, inputs, tensors)
    joined = [_diagonal(x, labels) for x, labels in zip(tensors, inputs, strict=True)]
    result, labels = joined[0]
    result, labels = _sum_unless(result, labels, {*output}.union(*[rest for _, rest in joined[1:]]))
    for i, (x, own) in enumerate(joined[1:], start=1):
        needed = {*output}.union(*[rest for _, rest in joined[i + 1 :]])
        x, own = _sum_unless(x, own, needed | {*labels})
        result, labels = _join(result, labels, x, own, needed, lengths)
    return permute(result, [labels.index(label) for label in output])


def _parse(subscripts: str, ndims: list[int]) -> list[str]:
    """The labels of each operand and of the result, "..." replaced by labels of its own."""
    left, arrow, output = subscripts.replace(" ", "").partition("->")
    inputs = left.split(",")
    words = [word.replace("...", "", 1) for word in [*inputs, output]]
    if not all(letter in string.ascii_letters for word in words for letter in word):
        raise ValueError(f"einsum: {subscripts!r}: must be letters, commas, at most one ... in each word, and one ->")
    if len(inputs) != len(ndims):
        raise ValueError(f"einsum: {subscripts!r} has {len(inputs)} operands, {len(ndims)} were given")
    extra = [n - len(word) for n, word in zip(ndims, words, strict=False)]
    for i, (n, word) in enumerate(zip(extra, inputs, strict=True)):
        if n < 0 or (n and "..." not in word):
            raise ValueError(f"einsum: {subscripts!r}: operand {i} is {word!r} and has {ndims[i]} axes")
    leading = "".join(chr(ord("0") + i) for i in range(max(extra)))  # digits and what follows are no letters
    parsed = [word.replace("...", leading[len(leading) - n :]) for word, n in zip(inputs, extra, strict=True)]
    if not arrow:
        once = sorted(label for label in {*"".join(words[:-1])} if "".join(words[:-1]).count(label) == 1)
        return [*parsed, leading + "".join(once)]
    output = output.replace("...", leading)
    if len({*output}) != len(output) or not {*output} <= {*"".join(parsed)}:
        raise ValueError(f"einsum: {subscripts!r}: each label of the result must be there once, and in an operand")
    return [*parsed, output]


def _lengths(subscripts: str, inputs: list[str], tensors: list[Tensor]) -> dict[str, int]:
    """The length of each label; 1 broadcasts."""
    lengths: dict[str, int] = {}
    for labels, x in zip(inputs, tensors, strict=True):
        for label, n in zip(labels, x.shape, strict=True):
            if lengths.setdefault(label, n) == 1:
                lengths[label] = n
            if n not in (1, lengths[label]):
                raise ValueError(f"einsum: {subscripts!r}: {label!r} has the lengths {lengths[label]} and {n}")
    return lengths


def _diagonal(x: Tensor, labels: str) -> tuple[Tensor, str]:
    """x with each label once."""
    for label in labels:
        if labels.count(label) > 1:
            first = [i for i, other in enumerate(labels) if other == label]
            others = [i for i, other in enumerate(labels) if other != label]
            index = np.arange(max(x.shape[i] for i in first))
            x = permute(x, first + others)
            x = getitem(x, tuple(index if n > 1 else np.zeros_like(index) for n in x.shape[: len(first)]))
            labels = label + "".join(labels[i] for i in others)
    return x, labels


def _sum_unless(x: Tensor, labels: str, needed: set[str]) -> tuple[Tensor, str]:
    """x summed over the labels that nobody needs."""
    axes = [i for i, label in enumerate(labels) if label not in needed]
    return (sum(x, axes) if axes else x), "".join(label for label in labels if label in needed)


def _join(a: Tensor, a_labels: str, b: Tensor, b_labels: str, needed: set[str], lengths: dict) -> tuple[Tensor, str]:
    """The product of a and b, summed over the labels both have and nobody needs; and its labels."""
    both = [label for label in a_labels if label in b_labels]
    batch = "".join(label for label in both if label in needed)
    contracted = "".join(label for label in both if label not in needed)
    a_only = "".join(label for label in a_labels if label not in b_labels)
    b_only = "".join(label for label in b_labels if label not in a_labels)
    a = _arranged(a, a_labels, batch, a_only, contracted, lengths)  # (X..., M, K)
    b = _arranged(b, b_labels, batch, contracted, b_only, lengths)  # (X..., K, N)
    y = matmul(a, b) if contracted else mul(a, b)  # K = 1 needs no sum, and products of 1 x 1 matrices are slow
    sizes = [lengths[label] for label in a_only + b_only]
    return reshape(y, *y.shape[: len(batch)], *sizes), batch + a_only + b_only


def _arranged(x: Tensor, labels: str, batch: str, rows: str, columns: str, lengths: dict) -> Tensor:
    """x with its axes in the order batch, rows, columns, the last two groups made one axis each."""
    x = permute(x, [labels.index(label) for label in batch + rows + columns])
    sizes = [[lengths[label] for label in group] for group in (rows, columns)]
    x = expand(x, *x.shape[: len(batch)], *sizes[0], *sizes[1])  # lengths of 1 broadcast
    return reshape(x, *x.shape[: len(batch)], *map(math.prod, sizes))

"""The fixed shares of a training step, and the order in which what they computed is added.

The rows of a step's batch are divided into `count` shares, whose number belongs to the run and not to the machine.
Floating-point addition is not associative, so sums over shares follow one binary tree: neighbours are added in pairs,
then the pairs, and so on; what has no neighbour moves up as it is.

    ((0 + 1) + (2 + 3)) + ((4 + 5) + 6)                 for 7 shares

Workers (processes of one machine, ranks of several) take contiguous blocks of shares. Each adds those of its own that
the tree adds, and the rest is added where the sums of several workers meet. So the bits do not depend on how many
workers there are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from kernels.cpu.threads import split_evenly

T = TypeVar("T")


@dataclass(frozen=True)
class Shares:
    """The shares `first`, ..., `stop` - 1 of a step that has `count` of them: those of one worker, or of all."""

    count: int
    first: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.first

    def split(self, workers: int) -> list[Shares]:
        """These shares in `workers` contiguous blocks of about the same size."""
        blocks = split_evenly(self.stop, workers, self.first)
        return [Shares(self.count, block.start, block.stop) for block in blocks]

    def rows(self, batch: int) -> slice:
        """The rows of a whole batch of `batch` rows that these shares consist of."""
        return slice(batch * self.first // self.count, batch * self.stop // self.count)

    def nodes(self) -> list[tuple[int, int]]:
        """The subtrees that these shares alone make up, each as (first share, the one behind the last)."""
        total: TreeSum[tuple] = TreeSum(self.count, lambda one, other: one)
        for share in range(self.first, self.stop):
            total.add(share, share + 1, ())
        return [(first, stop) for first, stop, _ in total.nodes]


def all_shares(count: int) -> Shares:
    """All shares of a step that has `count` of them."""
    return Shares(count, 0, count)


def shares_of_rank(count: int, rank: int, size: int) -> Shares:
    """The shares of one of `size` ranks. ValueError unless the blocks of all ranks are subtrees of equal size."""
    if count % size or (size > 1 and not _is_power_of_two(count // size)):
        fitting = [n for n in range(1, count + 1) if count % n == 0 and (n == 1 or _is_power_of_two(count // n))]
        raise ValueError(f"{count} shares cannot be divided among {size} ranks, but among {_any_of(fitting)}")
    return all_shares(count).split(size)[rank]


class TreeSum(Generic[T]):
    """Adds values of shares along the tree, in the order in which they come: from left to right.

    add: how two values are added; it may change and return the first. What cannot be added yet waits in `nodes`, as
    [(first share, the one behind the last, value)]; None stands for nothing to add.
    """

    def __init__(self, count: int, add: Callable[[T, T], T]):
        self.count = count
        self.nodes: list[tuple[int, int, T | None]] = []
        self._add = add

    def add(self, first: int, stop: int, value: T | None) -> None:
        """Add the sum of the shares `first` to `stop`, a subtree that follows those before it."""
        while self.nodes and self._are_siblings(self.nodes[-1][0], first, stop):
            left, _, before = self.nodes.pop()
            first = left
            value = before if value is None else value if before is None else self._add(before, value)
        self.nodes.append((first, stop, value))

    def _are_siblings(self, left: int, right: int, stop: int) -> bool:
        """Whether the tree adds the subtrees `left` to `right` and `right` to `stop`."""
        size = right - left
        return _is_power_of_two(size) and left % (2 * size) == 0 and stop == min(right + size, self.count)


def _is_power_of_two(number: int) -> bool:
    return number & (number - 1) == 0


def _any_of(numbers: list[int]) -> str:
    *most, last = map(str, numbers)
    return f"{', '.join(most)} or {last}" if most else last

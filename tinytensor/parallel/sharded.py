"""Optimizers whose state is divided among ranks (ZeRO, stage 1; Rajbhandari et al. 2020, arXiv:1910.02054).

Every rank has the whole model and the gradients of its own shares of the batch, and owns a part of the parameters:
their sums of gradients, their optimizer state and their updates. A step

1. sends each gradient to the rank that owns it (all-to-all) and adds what came along the tree of `shares.py`,
2. makes the gradient norm of sums of squares of fixed chunks, which the ranks exchange, added in one order,
3. updates the parameters that the rank owns, and
4. gathers those of the others (all-gather).

All of it is done in the order of one process, hence to the same bits. What is owned are whole matrices, where an
optimizer needs them whole (Muon), else chunks of the norm, dealt out so that all ranks have about as much state.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from tinytensor.backend import array_module, device_of, to_numpy
from tinytensor.nn import Parameter
from tinytensor.optim import Optimizer
from tinytensor.optim.clipping import NORM_CHUNK, squared_norms
from tinytensor.parallel.ranks import Communicator, split
from tinytensor.parallel.shares import TreeSum, shares_of_rank

BUCKET = 1 << 22  # values that a rank sends at once, to all others together,
MESSAGE = 1 << 16  # but no fewer to each of them, as the latency of small messages would outweigh their bytes


@dataclass(frozen=True)
class Part:
    """An optimizer to be made: its class, groups of parameters, and options."""

    kind: type[Optimizer]
    groups: list[dict[str, Any]]
    options: dict[str, Any] = field(default_factory=dict)

    def parameters(self) -> list[Parameter]:
        """All parameters, group after group."""
        return [p for group in self.groups for p in group["params"]]


class Piece(NamedTuple):
    """Values `start` to `stop` of a flat parameter: that of this number in the part `part`."""

    part: str
    number: int
    start: int
    stop: int

    @property
    def size(self) -> int:
        """How many values it has."""
        return self.stop - self.start


def divide(parts: Mapping[str, Part], size: int) -> list[list[Piece]]:
    """The pieces that each of `size` ranks owns: the largest first, to the rank that has the least state so far."""
    units = []
    for name, part in parts.items():
        for i, p in enumerate(part.parameters()):
            chunk = NORM_CHUNK if part.kind.elementwise else max(1, p.data.size)
            pieces = [Piece(name, i, start, min(start + chunk, p.data.size)) for start in range(0, p.data.size, chunk)]
            units += [(len(part.kind.state_names) * piece.size, piece) for piece in pieces]
    order = {name: i for i, name in enumerate(parts)}
    owned: list[list[Piece]] = [[] for _ in range(size)]
    load = [0] * size
    for cost, piece in sorted(units, key=lambda unit: -unit[0]):  # stable, so the same in every rank
        rank = load.index(min(load))
        owned[rank].append(piece)
        load[rank] += cost
    return [sorted(pieces, key=lambda piece: (order[piece.part], *piece[1:])) for pieces in owned]


def _chunks(pieces: Iterable[Piece]) -> Iterator[tuple[str, int, int]]:
    """The chunks of the gradient norm that the pieces consist of: part, parameter and first value."""
    for piece in pieces:
        for start in range(piece.start, piece.stop, NORM_CHUNK):
            yield piece.part, piece.number, start


class ShardedOptimizer:
    """The optimizers `parts` behind the interface of one, their state and work divided among the ranks.

    shares: how many a step has. If there are several parts, their names are prefixes in the state, and the learning
    rate is the first one's, which those of the others follow in proportion, as in `Chained`. All ranks call the same
    methods at the same time; `load_state_dict` alone is for rank 0, and reaches the others by `synchronize`.
    """

    def __init__(self, ranks: Communicator, parts: Mapping[str, Part], shares: int):
        self.ranks = ranks
        self._parts = parts
        self._parameters = {name: part.parameters() for name, part in parts.items()}
        self._shares = [shares_of_rank(shares, rank, ranks.size) for rank in range(ranks.size)]
        self._pieces = divide(parts, ranks.size)
        wholes = [Piece(name, i, 0, p.data.size) for name, ps in self._parameters.items() for i, p in enumerate(ps)]
        self._all_chunks = [*_chunks(wholes)]
        self._chunks = [[*_chunks(pieces)] for pieces in self._pieces]  # of each rank
        self._buckets = list(self._make_buckets(max(MESSAGE, BUCKET // ranks.size)))
        self._has_reserved = False
        self._own = [(piece, Parameter(self._view(piece))) for piece in self._pieces[ranks.rank]]
        self._optimizers = {
            name: part.kind(groups, **part.options) for name, part in parts.items() if (groups := self._groups(name))
        }
        rates = [part.options["lr"] for part in parts.values()]
        self._ratios = {name: rate / rates[0] for name, rate in zip(parts, rates, strict=True)}
        self._lr = rates[0]
        self._loaded: dict[str, Any] = {}

    def _groups(self, name: str) -> list[dict[str, Any]]:
        """The groups of a part with the own pieces in place of the parameters that they are of."""
        number = 0
        groups = []
        for group in self._parts[name].groups:
            numbers = range(number, number := number + len(group["params"]))
            mine = [p for piece, p in self._own if piece.part == name and piece.number in numbers]
            groups += [{**group, "params": mine}] if mine else []
        return groups

    def _make_buckets(self, most: int) -> Iterator[_Bucket]:
        sizes = [sum(piece.size for piece in pieces) for pieces in self._pieces]
        for first in range(0, max(sizes), most):
            counts = [max(0, min(most, size - first)) for size in sizes]
            spans = [
                list(self._spans(pieces, first, first + count))
                for pieces, count in zip(self._pieces, counts, strict=True)
            ]
            yield _Bucket(first, counts, spans)

    def _spans(self, pieces: list[Piece], first: int, stop: int) -> Iterator[_Span]:
        """What lies between the values `first` and `stop` of these pieces, one behind the other."""
        end = 0
        for piece in pieces:
            begin, end = end, end + piece.size
            low, high = max(begin, first), min(end, stop)
            if low < high:
                there = piece.start - begin
                yield _Span(self._parameter(piece), slice(low + there, high + there), slice(low - first, high - first))

    def _parameter(self, piece: Piece) -> Parameter:
        return self._parameters[piece.part][piece.number]

    def _view(self, piece: Piece) -> Any:
        """The values of a piece, sharing memory with its parameter; a matrix if that is all of it."""
        data = self._parameter(piece).data
        return data if piece.size == data.size else data.reshape(-1)[piece.start : piece.stop]

    @property
    def lr(self) -> float:
        """The learning rate of the first part; setting it scales the others' in proportion."""
        return self._lr

    @lr.setter
    def lr(self, lr: float) -> None:
        self._lr = lr
        for name, optimizer in self._optimizers.items():
            optimizer.lr = lr * self._ratios[name]

    def parameters(self) -> list[Parameter]:
        """All parameters, part after part."""
        return [p for parameters in self._parameters.values() for p in parameters]

    def zero_grad(self) -> None:
        """Set every grad to None."""
        for p in [*self.parameters(), *(p for _, p in self._own)]:
            p.grad = None

    def reduce(self, loss: Any, present: Sequence[bool], fused: bool = False) -> tuple[Any, Any]:
        """Add the gradients of all ranks, each for its owner, and their parts of the loss; returns loss and norm.

        loss: this rank's part, a () array. present: for each rank, whether its shares have targets, hence gradients.
        fused: as `grad_norm` has it.
        Raises ValueError if no rank has, or if a parameter has no gradient where others have one.
        """
        if not any(present):
            raise ValueError("no rank has a gradient: there are no targets in the batch")
        rank, xp = self.ranks.rank, array_module(loss)
        if not self._has_reserved:  # not earlier, as the ranks do not make their optimizers at the same time
            self.ranks.reserve(max(sum(bucket.counts) for bucket in self._buckets) * loss.dtype.itemsize)
            self._has_reserved = True
        gradients = {id(p): p.grad.reshape(-1) for p in self.parameters() if p.grad is not None}
        if present[rank] and len(gradients) < len(self.parameters()):
            raise ValueError("a parameter takes no part in the loss, which is possible with one rank only")
        summed = xp.empty(sum(piece.size for piece, _ in self._own), dtype=loss.dtype)
        for bucket in self._buckets:
            outgoing = self.ranks.outgoing(sum(bucket.counts), loss)
            if present[rank]:
                for target, spans in zip(split(outgoing, bucket.counts), bucket.spans, strict=True):
                    for span in spans:
                        target[span.place] = gradients[id(span.parameter)][span.values]
            count = bucket.counts[rank]
            received = self.ranks.all_to_all(outgoing, bucket.counts, [count] * self.ranks.size)
            summed[bucket.first : bucket.first + count] = self._sum(received, present)
        end = 0
        for piece, p in self._own:
            begin, end = end, end + piece.size
            p.data = self._view(piece)  # the parameter's array may have been replaced
            p.grad = summed[begin:end].reshape(p.shape)
        return self._loss_and_norm(loss, present, fused)

    def _sum(self, values: Any, present: Sequence[bool]) -> Any:
        """The sum of what the ranks that have something have computed, along the tree of the shares."""
        total = TreeSum(self._shares[0].count, lambda one, other: one + other)
        for shares, value, there in zip(self._shares, values, present, strict=True):
            total.add(shares.first, shares.stop, value if there else None)
        ((_, _, result),) = total.nodes
        return result

    def _loss_and_norm(self, loss: Any, present: Sequence[bool], fused: bool) -> tuple[Any, Any]:
        xp = array_module(loss)
        own = squared_norms([p.grad for _, p in self._own], fused) if self._own else []
        counts = [len(chunks) + 1 for chunks in self._chunks]
        received = self.ranks.all_gather(xp.stack([*own, xp.asarray(loss)]), counts)
        squares: dict[tuple, Any] = {}
        losses = []
        for chunks, values in zip(self._chunks, received, strict=True):
            squares.update(zip(chunks, values, strict=False))
            losses.append(values[-1])
        return self._sum(losses, present), xp.sqrt(sum(squares[chunk] for chunk in self._all_chunks))

    def step(self, grad_scale: Any = 1.0) -> None:
        """Update the own parameters, their summed gradients scaled, and gather those of the other ranks."""
        for optimizer in self._optimizers.values():
            optimizer.step(grad_scale)
        rank = self.ranks.rank
        for bucket in self._buckets:
            like = self._own[0][1].data if self._own else self.parameters()[0].data
            outgoing = self.ranks.outgoing(bucket.counts[rank], like)
            for span in bucket.spans[rank]:
                outgoing[span.place] = span.parameter.data.reshape(-1)[span.values]
            received = self.ranks.all_gather(outgoing, bucket.counts)
            for other, (values, spans) in enumerate(zip(received, bucket.spans, strict=True)):
                for span in spans if other != rank else []:
                    span.parameter.data.reshape(-1)[span.values] = values[span.place]
        for p in self.parameters():
            p.mark_changed()

    def state_dict(self) -> dict[str, Any]:
        """In rank 0 the state of all, as one process has it, on the host; elsewhere nothing. All ranks call it."""
        state: dict[str, Any] = {}
        for name, part in self._parts.items():
            prefix, parameters = self._prefix(name), self._parameters[name]
            own = self._optimizers.get(name)
            steps = np.asarray(own.steps if own else [], np.int64)
            pieces = [[piece for piece in pieces if piece.part == name] for pieces in self._pieces]
            numbers = self._to_first(steps, [len(of_rank) for of_rank in pieces])
            if self.ranks.rank == 0:
                updates = dict(zip([piece.number for of_rank in pieces for piece in of_rank], numbers, strict=True))
                state[f"{prefix}step"] = np.array([updates.get(i, 0) for i in range(len(parameters))])
            for key in part.kind.state_names:
                arrays = [to_numpy(array).reshape(-1) for array in own.state[key]] if own else []
                values = np.concatenate([np.empty(0, parameters[0].dtype), *arrays])
                received = self._to_first(values, [sum(piece.size for piece in of_rank) for of_rank in pieces])
                if self.ranks.rank == 0:
                    whole = [np.empty(p.shape, p.dtype) for p in parameters]
                    end = 0
                    for piece in (piece for of_rank in pieces for piece in of_rank):
                        begin, end = end, end + piece.size
                        whole[piece.number].reshape(-1)[piece.start : piece.stop] = received[begin:end]
                    state |= {f"{prefix}{key}.{i}": array for i, array in enumerate(whole)}
        return state

    def _prefix(self, name: str) -> str:
        return f"{name}." if len(self._parts) > 1 else ""

    def _to_first(self, values: np.ndarray, counts: list[int]) -> np.ndarray:
        """In rank 0 the values of all ranks, so many of each; nothing elsewhere."""
        others = [0] * (self.ranks.size - 1)
        receive = counts if self.ranks.rank == 0 else [0] * self.ranks.size
        return np.concatenate(self.ranks.all_to_all(values, [len(values), *others], receive))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """In rank 0: continue from a `state_dict`, once all ranks `synchronize`. ValueError if it does not fit."""
        shapes: dict[str, tuple] = {}
        for name, part in self._parts.items():
            prefix, parameters = self._prefix(name), self._parameters[name]
            shapes[f"{prefix}step"] = (len(parameters),)
            shapes |= {f"{prefix}{key}.{i}": p.shape for key in part.kind.state_names for i, p in enumerate(parameters)}
        wrong = sorted(shapes.keys() ^ state.keys()) or [
            name
            for name, shape in shapes.items()
            if np.shape(state[name]) not in ((shape, ()) if name.endswith("step") else (shape,))
        ]
        if wrong:
            raise ValueError(f"optimizer state does not fit: missing, unexpected or misshaped {', '.join(wrong)}")
        self._loaded = state

    def synchronize(self) -> None:
        """Give all ranks the parameters of rank 0, and the state that was loaded there."""
        for p in self.parameters():
            self.ranks.broadcast(p.data)
            p.mark_changed()
        if not self.ranks.any(bool(self._loaded)):
            return
        for name, part in self._parts.items():
            prefix, parameters = self._prefix(name), self._parameters[name]
            own = self._optimizers.get(name)
            steps = np.zeros(len(parameters), np.int64)
            if self.ranks.rank == 0:
                steps[...] = self._loaded[f"{prefix}step"]
            self.ranks.broadcast(steps)
            if own:
                own.steps = [int(steps[piece.number]) for piece, _ in self._own if piece.part == name]
            for key in part.kind.state_names:
                values = self._from_first(name, f"{prefix}{key}", parameters)
                end = 0
                for array in own.state[key] if own else []:
                    begin, end = end, end + array.size
                    array[...] = device_of(array).put(values[begin:end].reshape(array.shape))
        self._loaded = {}

    def _from_first(self, name: str, key: str, parameters: list[Parameter]) -> np.ndarray:
        """The values of the own pieces of a part, from the whole arrays `key` that rank 0 has loaded."""
        pieces = [[piece for piece in pieces if piece.part == name] for pieces in self._pieces]
        counts = [sum(piece.size for piece in of_rank) for of_rank in pieces]
        values = [np.empty(0, parameters[0].dtype)]
        if self.ranks.rank == 0:
            wholes = [to_numpy(self._loaded[f"{key}.{i}"]).reshape(-1) for i in range(len(parameters))]
            values += [wholes[p.number][p.start : p.stop] for of_rank in pieces for p in of_rank]
        send = counts if self.ranks.rank == 0 else [0] * self.ranks.size
        others = [0] * (self.ranks.size - 1)
        return np.concatenate(self.ranks.all_to_all(np.concatenate(values), send, [counts[self.ranks.rank], *others]))


class _Span(NamedTuple):
    """Some values of a flat parameter, and their place in a bucket of their owner."""

    parameter: Parameter
    values: slice
    place: slice


class _Bucket(NamedTuple):
    """What is sent at once: of each owner `counts` values from number `first` on, which `spans` say where to find."""

    first: int
    counts: list[int]
    spans: list[list[_Span]]

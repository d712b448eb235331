"""Selecting elements: x[index], and the rows or entries that integer arrays name.

An index may be on the host whatever the device of x; it is checked before it is moved, since NumPy raises for an index
out of range where CuPy wraps around. Checking an index that is on a GPU already synchronizes the device.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from tinytensor.backend import array_module, device_of, kernels_for
from tinytensor.ops.arguments import as_tensor, normalize_axis, torch_names
from tinytensor.tensor import Array, Function, ScatterAdd, Tensor, TensorLike, as_array, is_array, raw


class GetItem(Function):
    """y = x[index];  gx = 0, with g added at index (an element selected twice gets both gradients)

    The arrays of an index are inputs, so that a change of them is noticed; `index` has ARRAY in their places.
    """

    ARRAY = object()

    def __init__(self, index: tuple):
        self.index = index

    def forward(self, x, *arrays):
        self.save(*arrays)
        rest = iter(arrays)
        self.selected = tuple([next(rest) if part is GetItem.ARRAY else part for part in self.index])
        return x[self.selected]

    def vjp(self, g):
        return (ScatterAdd(partial(self._add_into, g)), *[None] * (len(self.needs_grad) - 1))

    def _add_into(self, g, gx):
        if GetItem.ARRAY not in self.index:  # numbers and slices select no element twice
            gx[self.selected] += g
        else:  # number the elements, select the numbers, and add g there: one scatter serves every kind of index
            positions = array_module(g).arange(gx.size).reshape(gx.shape)[self.selected]
            kernels_for(g).embedding_backward(g[..., None], positions, gx.reshape(gx.size, 1))


def getitem(x: TensorLike, index: Any) -> Tensor:
    """x[index] for integers, slices, integer arrays and boolean masks (raw or Tensors), as in NumPy.

    Raises IndexError for an index out of range, also where CuPy would wrap around; checking an index that is on the
    GPU already synchronizes the device.
    """
    x = as_tensor(x)
    parts = index if isinstance(index, tuple) else (index,)
    plain, arrays = [], []
    for part in map(_index_part, parts):
        is_plain = part is None or part is Ellipsis or type(part) in (int, slice)
        plain.append(part if is_plain else GetItem.ARRAY)
        if not is_plain:
            arrays.append(part)
    _require_in_range(x, plain, arrays)
    return GetItem(tuple(plain))(x, *[_beside(x, part) for part in arrays])


@torch_names
def gather(x: TensorLike, axis: int, index: TensorLike) -> Tensor:
    """The elements of x that `index` names along `axis`, one for each of its own: as y[i, j] = x[i, index[i, j]].

    index: integers with as many axes as x, none longer than x's but `axis` -> a tensor of index's shape. Raises
    IndexError for an integer outside 0 ... n - 1, TypeError for others than integers, ValueError for another shape.
    """
    x = as_tensor(x)
    axis, ids = normalize_axis("gather", axis, x.ndim), as_array(index)
    others = [n >= m for i, (n, m) in enumerate(zip(x.shape, ids.shape, strict=False)) if i != axis]
    if ids.ndim != x.ndim or not all(others):
        raise ValueError(
            f"gather: index has shape {ids.shape}: must have the {x.ndim} axes of x, {x.shape}, "
            f"none of them longer but axis {axis}"
        )
    return take(x, axis, checked_ids("gather", "index", index, x, x.shape[axis] if x.ndim else 1))


def take(x: Tensor, axis: int, index: TensorLike) -> Tensor:
    """`gather` for an index that is known to be right, on the device of x, and an axis counted from the front."""
    if not x.ndim:
        return GetItem(())(x)
    xp, shape = array_module(x.data), raw(index).shape
    # the other axes are indexed by their own coordinates
    grid = [xp.arange(n).reshape([-1 if i == j else 1 for j in range(x.ndim)]) for i, n in enumerate(shape)]
    arrays = [index if i == axis else coordinates for i, coordinates in enumerate(grid)]
    return GetItem((GetItem.ARRAY,) * x.ndim)(x, *arrays)


def checked_ids(
    name: str, what: str, ids: TensorLike, like: TensorLike, limit: int, ignore: int | None = None
) -> Tensor:
    """Integer ids, each in 0 ... limit - 1 or `ignore`, on the device of `like`: a Tensor there stays itself."""
    array = integers(name, what, ids)
    if _beyond(array, limit):
        counted = array if ignore is None else array[array != ignore]
        if span := _beyond(counted, limit):
            raise IndexError(f"{name}: {what} from {span[0]} to {span[1]}: must lie in 0..{limit - 1}")
    moved = device_of(raw(like)).put(array)
    return ids if isinstance(ids, Tensor) and moved is ids.data else Tensor(moved)


def _beyond(ids: Array, limit: int) -> tuple[int, int] | None:
    """The least and the greatest id if one is outside 0 ... limit - 1, else None."""
    low, high = (int(ids.min()), int(ids.max())) if ids.size else (0, -1)
    return (low, high) if low < 0 or high >= limit else None


def integers(name: str, what: str, ids: TensorLike) -> Array:
    """ids as an array of integers. Raises TypeError for another dtype, unless there are none, as in an empty list."""
    array = as_array(ids)
    if not isinstance(ids, Tensor):
        array = array.copy()  # only a Tensor's changes are noticed: the caller may fill this one with the next batch
    if array.dtype.kind in "iu":
        return array
    if array.size:
        raise TypeError(f"{name}: {what} of dtype {array.dtype}: must be integers")
    return array.astype(np.int64)


def _index_part(part):
    """A part of an index: None, Ellipsis, an int, a slice, or an array (raw or a Tensor) of integers or booleans."""
    if part is None or part is Ellipsis or isinstance(part, slice):
        return part
    if isinstance(part, (int, np.integer)) and not isinstance(part, bool):
        return int(part)
    if isinstance(part, (list, tuple, bool, range)):
        part = np.asarray(part) if np.size(part) else np.zeros(np.shape(part), np.int64)
    elif is_array(part):
        part = part.copy()  # only a Tensor's changes are noticed
    kind = raw(part).dtype.kind if hasattr(raw(part), "dtype") else None
    if kind not in ("i", "u", "b"):
        raise IndexError(f"an index of {part!r:.40}: must be integers, slices, None, ..., integer arrays or masks")
    return part


def _require_in_range(x: Tensor, plain: list, arrays: list) -> None:
    """Raise IndexError for an integer array that goes beyond its axis (NumPy raises, CuPy wraps around)."""
    taken = sum(raw(a).ndim if raw(a).dtype.kind == "b" else 1 for a in arrays)
    taken += sum(part is not None and part is not Ellipsis and part is not GetItem.ARRAY for part in plain)
    rest, axis = iter(arrays), 0
    for part in plain:
        if part is Ellipsis:
            axis += x.ndim - taken
        elif part is GetItem.ARRAY:
            array = raw(next(rest))
            if array.dtype.kind != "b" and array.size and axis < x.ndim:
                low, high, n = int(array.min()), int(array.max()), x.shape[axis]
                if low < -n or high >= n:
                    raise IndexError(f"index {low if low < -n else high} is out of range for axis {axis} of length {n}")
            axis += array.ndim if array.dtype.kind == "b" else 1
        elif part is not None:
            axis += 1


def _beside(x: Tensor, part: TensorLike) -> TensorLike:
    """An index on x's device; a Tensor that is there already stays itself, so that its changes are noticed."""
    array = device_of(x.data).put(raw(part))
    return part if array is raw(part) else as_array(array)

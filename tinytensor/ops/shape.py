"""Operations that move, select or join elements without computing on them.

Floor 2, beside `elementwise.py`. Most forwards and VJPs are views and cost nothing. Read `linalg.py` next.
"""

from __future__ import annotations

from functools import partial
from itertools import accumulate

from tinytensor.backend import array_module, kernels_for
from tinytensor.ops.elementwise import where
from tinytensor.tensor import Function, Tensor


class Reshape(Function):
    """y = x with another shape;  gx = g with x's shape"""

    def __init__(self, shape):
        self.to = shape

    def forward(self, x):
        self.shape = x.shape
        return x.reshape(self.to)

    def vjp(self, g):
        return (g.reshape(self.shape),)


class Transpose(Function):
    """y = x with its axes permuted;  gx = g with them permuted back"""

    def __init__(self, axes):
        self.axes = axes

    def forward(self, x):
        y = x.transpose(self.axes)  # raises if they are not x's axes
        self.axes = tuple(axis % x.ndim for axis in self.axes)
        return y

    def vjp(self, g):
        # the inverse permutation lists where each axis went
        return (g.transpose(sorted(range(g.ndim), key=self.axes.__getitem__)),)


class Expand(Function):
    """y = x repeated along axes of length 1, and new leading ones;  gx = g, which the engine sums down"""

    def __init__(self, shape):
        self.to = shape

    def forward(self, x):
        return array_module(x).broadcast_to(x, self.to)

    def vjp(self, g):
        return (g,)


class Concat(Function):
    """y = the inputs one after the other along `axis`;  each gx is its slice of g"""

    def __init__(self, axis):
        self.axis = axis

    def forward(self, *xs):
        self.sizes = [x.shape[self.axis] for x in xs]
        return array_module(xs[0]).concatenate(xs, axis=self.axis)

    def vjp(self, g):
        before = (slice(None),) * (self.axis % g.ndim)
        stops = accumulate(self.sizes)
        return tuple(g[(*before, slice(stop - n, stop))] for n, stop in zip(self.sizes, stops, strict=True))


class GetItem(Function):
    """y = x[index];  gx = 0, with g added at index (an element selected twice gets both gradients)"""

    def __init__(self, index):
        self.index = index

    def forward(self, x):
        return x[self.index]

    def vjp(self, g):
        return (partial(self._add_into, g),)

    def _add_into(self, g, gx):
        if _is_basic(self.index):  # slices select no element twice
            gx[self.index] += g
        else:  # number the elements, select the numbers, and add g there: one scatter serves every kind of index
            positions = array_module(g).arange(gx.size).reshape(gx.shape)[self.index]
            kernels_for(g).embedding_backward(g[..., None], positions, gx.reshape(gx.size, 1))


def _is_basic(index) -> bool:
    """Whether the tuple `index` has only integers, slices, None and Ellipsis, for which NumPy gives a view."""
    return all(part is None or part is Ellipsis or type(part) in (int, slice) for part in index)


def reshape(x, *shape) -> Tensor:
    """x with another shape of the same size: reshape(x, 2, 3) or reshape(x, (2, 3)); one length may be -1."""
    return Reshape(_flat(shape))(x)


def permute(x, *axes) -> Tensor:
    """x with its axes in the order `axes`: permute(x, 0, 2, 1) or permute(x, (0, 2, 1))."""
    return Transpose(_flat(axes))(x)


def transpose(x, axis1=None, axis2=None) -> Tensor:
    """x with two axes exchanged; without axes, all of them reversed."""
    return permute(x, *range(x.ndim)[::-1]) if axis1 is None else swapaxes(x, axis1, axis2)


def swapaxes(x, axis1: int, axis2: int) -> Tensor:
    """x with two axes exchanged."""
    axes = list(range(x.ndim))
    axes[axis1], axes[axis2] = axes[axis2], axes[axis1]
    return Transpose(tuple(axes))(x)


def expand(x, *shape) -> Tensor:
    """x broadcast to `shape`; -1 keeps a length."""
    shape = _flat(shape)
    own = (1,) * (len(shape) - x.ndim) + x.shape
    return Expand(tuple(n if length == -1 else length for n, length in zip(own, shape, strict=True)))(x)


def squeeze(x, axis=None) -> Tensor:
    """x without `axis`, which must have length 1; without all such axes if None."""
    return Reshape(x.data.squeeze(axis).shape)(x)


def unsqueeze(x, axis: int) -> Tensor:
    """x with a new axis of length 1 at `axis`."""
    return Reshape(array_module(x.data).expand_dims(x.data, axis).shape)(x)


def concat(xs, axis: int = 0) -> Tensor:
    """The tensors `xs`, at least one, in a row along `axis`; other lengths must agree."""
    if not xs:
        raise ValueError("concat: no tensors given; it needs at least one")
    return Concat(axis)(*xs)


def stack(xs, axis: int = 0) -> Tensor:
    """The tensors `xs`, of one shape, along a new axis."""
    return concat([unsqueeze(x, axis) for x in xs], axis)


def split(x, size: int | list[int], axis: int = 0) -> tuple[Tensor, ...]:
    """Pieces of x along `axis`: of `size` each (the last may be smaller), or of the sizes listed."""
    length = x.shape[axis]
    axis %= x.ndim
    sizes = [min(size, length - start) for start in range(0, length, size)] if isinstance(size, int) else size
    if sum(sizes) != length:
        raise ValueError(f"split: sizes {sizes} add up to {sum(sizes)}, axis {axis} has length {length}")
    before = (slice(None),) * axis
    return tuple(getitem(x, (*before, slice(stop - n, stop))) for n, stop in zip(sizes, accumulate(sizes), strict=True))


def getitem(x, index) -> Tensor:
    """x[index] for integers, slices, integer arrays and boolean masks (raw or Tensors), as in NumPy."""
    parts = index if isinstance(index, tuple) else (index,)
    return GetItem(tuple(part.data if isinstance(part, Tensor) else part for part in parts))(x)


def tril(x, diagonal: int = 0) -> Tensor:
    """The lower triangle of the last two axes: 0 above the given diagonal."""
    return where(array_module(x.data).tri(*x.shape[-2:], k=diagonal, dtype=bool), x, x.dtype.type(0))


def triu(x, diagonal: int = 0) -> Tensor:
    """The upper triangle of the last two axes: 0 below the given diagonal."""
    return where(array_module(x.data).tri(*x.shape[-2:], k=diagonal - 1, dtype=bool), x.dtype.type(0), x)


def _flat(arguments: tuple) -> tuple[int, ...]:
    """Accept f(x, 2, 3) and f(x, (2, 3)) alike."""
    return tuple(arguments[0]) if len(arguments) == 1 and not isinstance(arguments[0], int) else arguments

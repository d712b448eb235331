"""The table of gradient checks: every operation, the inputs it is tried on, and what it should give.

A Case is a function of Tensors, the same function of NumPy arrays as reference, and a strategy that draws the call:
arrays (float64 ones are differentiated) and options, which both functions get. `test_gradients.py` runs the table and
fails if a Function of `tinytensor.ops` is missing from it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import tinytensor as tt


@dataclass(frozen=True)
class Call:
    """fn(*arrays, **options)"""

    arrays: tuple
    options: dict = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"Call({[f'{a.shape} strides {a.strides}' for a in self.arrays]}, {self.options})"


@dataclass(frozen=True)
class Case:
    name: str
    fn: Callable[..., tt.Tensor]
    reference: Callable[..., np.ndarray]
    calls: st.SearchStrategy[Call]


# Arrays. Values come from a seeded generator, which is quicker than drawing each, and in every memory layout.

SEEDS = st.integers(0, 2**32 - 1)
LAYOUTS = {
    "contiguous": lambda x: x,
    "column-major": lambda x: np.asarray(x, order="F"),
    "reversed": lambda x: np.flip(np.flip(x).copy()),
    "every other": lambda x: np.stack([x, x], axis=-1)[..., 0],
    "read-only": lambda x: x,
}


def uniform(low=-2.0, high=2.0):
    """Values between low and high."""
    return lambda rng, shape: rng.uniform(low, high, shape)


def nonzero(rng, shape):
    """Values of either sign, 0.4 to 2 away from zero."""
    return rng.uniform(0.4, 2, shape) * rng.choice([-1, 1], shape)


def with_zeros(rng, shape):
    """Small whole numbers, many of them 0."""
    return rng.integers(-2, 3, shape).astype(np.float64)


def fractional(rng, shape):
    """Numbers at least 0.1 away from a whole one: off the jumps of a remainder by 1 or 2."""
    return rng.integers(-4, 4, shape) + rng.uniform(0.1, 0.9, shape)


def divisors(rng, shape):
    """1 or 2, of either sign."""
    return rng.choice([-2.0, -1.0, 1.0, 2.0], shape)


def distinct(offset=0.03):
    """Values on a grid 0.1 apart, each once, that miss 0 and other grids: off the kinks of abs, max, clip."""

    def draw(rng, shape):
        size = int(np.prod(shape))
        return ((rng.permutation(size) - size // 2) * 0.1 + offset).reshape(shape)

    return draw


ANY = uniform()


@st.composite
def array(draw, shape, values=ANY):
    layout = draw(st.sampled_from(sorted(LAYOUTS)))
    x = np.asarray(LAYOUTS[layout](np.asarray(values(np.random.default_rng(draw(SEEDS)), shape))))
    if layout == "read-only":
        x.flags.writeable = False
    return x


def shapes(min_dims=0, max_dims=3, min_side=0, max_side=4):
    return hnp.array_shapes(min_dims=min_dims, max_dims=max_dims, min_side=min_side, max_side=max_side)


def leading(min_side=0):
    """The leading axes of an operation on the last one."""
    return shapes(0, 2, min_side, 3)


def one(values=ANY, **options):
    """One array of any shape, with options drawn from the given strategies."""
    return st.builds(Call, st.tuples(shapes().flatmap(lambda s: array(s, values))), st.fixed_dictionaries(options))


def matrices(values=ANY):
    """One array with two axes of at least 2."""
    return st.builds(Call, st.tuples(shapes(2, 2, 2).flatmap(lambda s: array(s, values))))


@st.composite
def broadcast(draw, *values):
    """One array for each of `values`, of shapes that broadcast."""
    drawn = draw(hnp.mutually_broadcastable_shapes(num_shapes=len(values), max_dims=3, max_side=3, min_side=0))
    return Call(tuple(draw(array(s, v)) for s, v in zip(drawn.input_shapes, values, strict=True)))


@st.composite
def with_mask(draw, arrays=2, **options):
    """A boolean array, and float arrays that broadcast with it."""
    call = draw(broadcast(uniform(0, 1), *[ANY] * arrays))
    options = {name: draw(strategy) for name, strategy in options.items()}
    return Call((call.arrays[0] > 0.5, *call.arrays[1:]), options)


@st.composite
def reduced(draw, values=ANY, min_side=0, **options):
    """An array, and `axis` (None, one or several, counted from either end) and `keepdims`."""
    x = draw(array(draw(shapes(min_side=min_side)), values))
    several = st.lists(st.sampled_from(range(x.ndim)), unique=True).map(tuple) if x.ndim else st.just(())
    axis = draw(st.none() | several | (st.integers(-x.ndim, x.ndim - 1) if x.ndim else st.none()))
    if isinstance(axis, tuple) and draw(st.booleans()):
        axis = tuple(a - x.ndim for a in axis)
    options = {name: draw(strategy) for name, strategy in options.items()}
    return Call((x,), {"axis": axis, "keepdims": draw(st.booleans()), **options})


@st.composite
def reduced_with_ddof(draw, ddof=1):
    """As `reduced`, with at least two elements under each result."""
    call = draw(reduced(min_side=2).filter(lambda c: c.arrays[0].ndim and c.options["axis"] != ()))
    return Call(call.arrays, {**call.options, "ddof": draw(st.sampled_from([0, ddof]))})


@st.composite
def reshaped(draw):
    x = draw(array(draw(shapes())))
    targets = [(x.size,), x.shape[::-1], (1, *x.shape), (*x.shape, 1), (-1,)]
    if x.size:
        targets += [(-1, *x.shape[1:]), (*x.shape[:-1], -1, 1)]
    return Call((x,), {"shape": draw(st.sampled_from(targets))})


@st.composite
def permuted(draw):
    x = draw(array(draw(shapes())))
    axes = draw(st.permutations(range(x.ndim)))
    return Call((x,), {"axes": tuple(a - x.ndim * draw(st.booleans()) for a in axes)})


@st.composite
def expanded(draw):
    shape = draw(shapes())
    x = draw(array(tuple(n if draw(st.booleans()) else 1 for n in shape)))
    return Call((x,), {"shape": draw(shapes(max_dims=2)) + shape})


@st.composite
def axes(draw, count, min_dims=1, min_side=0, beyond=0):
    """An array and `count` different axes of it, from either end; of an array with `beyond` more axes."""
    x = draw(array(draw(shapes(min_dims, 3, min_side))))
    ndim = x.ndim + beyond
    drawn = draw(st.lists(st.integers(-ndim, ndim - 1), min_size=count, max_size=count))
    return Call((x,), dict(zip(("axis", "axis2"), drawn, strict=False)))


@st.composite
def squeezable(draw):
    shape = draw(shapes())
    where = draw(st.integers(0, len(shape)))
    x = draw(array((*shape[:where], 1, *shape[where:])))
    return Call((x,), {"axis": draw(st.sampled_from([where, where - x.ndim, None]))})


@st.composite
def joined(draw, same=False):
    """One to three arrays of one shape, but for the length along `axis`."""
    shape = draw(shapes(min_dims=0 if same else 1))
    axis = draw(st.integers(-len(shape) - same, len(shape) - 1 + same))
    arrays = []
    for _ in range(draw(st.integers(1, 3))):
        own = list(shape)
        if not same:
            own[axis] = draw(st.integers(0, 3))
        arrays.append(draw(array(tuple(own))))
    return Call(tuple(arrays), {"axis": axis})


@st.composite
def split_sizes(draw):
    """An array, and `size`: a length (with a rest) or a list of lengths along `axis`."""
    x = draw(array(draw(shapes(1, 3, 1))))
    axis = draw(st.integers(-x.ndim, x.ndim - 1))
    cuts = sorted(draw(st.lists(st.integers(0, x.shape[axis]), max_size=2)))
    sizes = np.diff([0, *cuts, x.shape[axis]]).tolist()
    return Call((x,), {"size": draw(st.integers(1, 3) | st.just(sizes)), "axis": axis})


@st.composite
def indexed(draw):
    """An array and any index NumPy knows: numbers, slices, None, Ellipsis, integer arrays, masks, mixtures."""
    x = draw(array(draw(shapes(1, 3, 1))))
    n = x.shape[0]
    numbers = hnp.arrays(np.int64, shapes(0, 2, 0, 3), elements=st.integers(-n, n - 1))  # with repetitions
    mask = hnp.arrays(bool, st.just(x.shape[: draw(st.integers(1, x.ndim))]))
    kinds = [hnp.basic_indices(x.shape, allow_newaxis=True), numbers, mask, numbers.map(lambda i: i.tolist() or [0])]
    kinds.append(hnp.integer_array_indices(x.shape, result_shape=shapes(1, 2, 0, 3)))
    if x.ndim > 1:
        some = hnp.arrays(np.int32, 2, elements=st.integers(-x.shape[-1], x.shape[-1] - 1))
        kinds += [st.tuples(numbers, st.just(slice(None, None, -1))), st.tuples(st.just(Ellipsis), some)]
        kinds += [st.tuples(st.just(0), st.just(None), st.just(Ellipsis), some)]
        kinds += [st.tuples(hnp.arrays(bool, n), st.just(Ellipsis), st.just(-1))]
    return Call((x,), {"index": draw(st.one_of(kinds))})


@st.composite
def gathered(draw):
    """An array, an axis from either end, and an index that may be shorter along the other axes."""
    x = draw(array(draw(shapes(1, 3, 1))))
    axis = draw(st.integers(-x.ndim, x.ndim - 1))
    shape = [draw(st.integers(0, 4 if i == axis % x.ndim else n)) for i, n in enumerate(x.shape)]
    index = draw(hnp.arrays(np.int64, tuple(shape), elements=st.integers(0, x.shape[axis] - 1)))
    return Call((x, index), {"axis": axis})


@st.composite
def repeated(draw):
    x = draw(array(draw(shapes(0, 2))))
    counts = draw(st.lists(st.integers(0, 3), min_size=x.ndim, max_size=x.ndim + 1))
    return Call((x,), {"counts": tuple(counts)})


@st.composite
def padded(draw):
    x = draw(array(draw(shapes(1))))
    widths = [draw(st.tuples(st.integers(0, 2), st.integers(0, 2))) for _ in range(x.ndim)]
    return Call((x,), {"widths": widths, "value": draw(st.sampled_from([0.0, 2.5]))})


@st.composite
def rolled(draw):
    """`shift` and `axis`: none, one, or one for each of several axes."""
    x = draw(array(draw(shapes(1, 3))))
    several = draw(st.lists(st.integers(-x.ndim, x.ndim - 1), min_size=1, max_size=2))
    shifts = [draw(st.integers(-5, 5)) for _ in several]
    kinds = [(shifts[0], None), (shifts[0], several[0]), (tuple(shifts), tuple(several))]
    shift, axis = draw(st.sampled_from(kinds))
    return Call((x,), {"shift": shift, "axis": axis})


@st.composite
def flipped(draw):
    call = draw(reduced())
    return Call(call.arrays, {"axis": call.options["axis"]})


@st.composite
def chunked(draw):
    x = draw(array(draw(shapes(1, 3))))
    return Call((x,), {"chunks": draw(st.integers(1, 5)), "axis": draw(st.integers(-x.ndim, x.ndim - 1))})


@st.composite
def ordered(draw, k=False):
    """An array without equal elements, and the options of `sort` or `topk`."""
    x = draw(array(draw(shapes(1, 3, 1)), distinct()))
    axis = draw(st.integers(-x.ndim, x.ndim - 1))
    options = {"k": draw(st.integers(0, x.shape[axis]))} if k else {}
    return Call((x,), {**options, "axis": axis, "descending": draw(st.booleans())})


@st.composite
def scanned(draw):
    x = draw(array(draw(shapes(1)), with_zeros))
    return Call((x,), {"axis": draw(st.none() | st.integers(-x.ndim, x.ndim - 1))})


@st.composite
def summation(draw):
    """Operands and subscripts for einsum: labels once or twice in each, with or without "..." and a result."""
    lengths = {label: draw(st.integers(1, 3)) for label in "abcd"}
    words = draw(st.lists(st.text("abcd", max_size=3), min_size=1, max_size=3))
    leading = draw(st.sampled_from([None, (), (2,), (2, 3)]))
    operands, inputs = [], []
    for word in words:
        dots, shape = "", ()
        if leading is not None and draw(st.booleans()):
            dots = "..."
            shape = tuple(n if draw(st.booleans()) else 1 for n in leading[draw(st.integers(0, len(leading))) :])
        operands.append(draw(array((*shape, *[lengths[label] for label in word]))))
        inputs.append(dots + word)
    left = ",".join(inputs)
    labels = sorted({*"".join(words)})
    result = "".join(draw(st.lists(st.sampled_from(labels), unique=True))) if labels else ""
    right = draw(st.sampled_from(["", "->" + ("..." if "..." in left else "") + result]))
    return Call(tuple(operands), {"subscripts": left + right})


@st.composite
def multiplied(draw):
    """Vectors, matrices and batches that broadcast, any length 0 too."""
    drawn = draw(hnp.mutually_broadcastable_shapes(signature=np.matmul.signature, max_dims=2, min_side=0, max_side=3))
    return Call(tuple(draw(array(s)) for s in drawn.input_shapes))


@st.composite
def linear_inputs(draw, halves=1):
    inputs, outputs = draw(st.integers(0, 4)), draw(st.integers(0, 4))
    x, weight = draw(array((*draw(leading()), halves * inputs))), draw(array((inputs, outputs)))
    return Call((x, weight, draw(array((outputs,)))) if draw(st.booleans()) else (x, weight))


@st.composite
def gelu_linear_inputs(draw):
    x, weight, *_ = draw(linear_inputs()).arrays
    return Call((x, weight, draw(array(weight.shape[1:])), draw(array(x.shape[-1:]))))


@st.composite
def residual_inputs(draw, norm=False):
    """x, what is added to it and a bias of that; for layer norm a weight and perhaps its bias, too."""
    call = draw(normalized())
    x, *vectors = call.arrays
    added, bias = 0.1 * draw(array(x.shape)), 0.1 * draw(array(x.shape[-1:]))
    return Call((x, added, bias, *vectors), call.options) if norm else Call((x, added, bias))


@st.composite
def ids_and_weight(draw):
    rows = draw(st.integers(1, 5))
    dtype = draw(st.sampled_from([np.int64, np.int32, np.uint16]))
    ids = draw(hnp.arrays(dtype, shapes(0, 2, 0, 4), elements=st.integers(0, rows - 1)))
    return Call((ids, draw(array((rows, draw(st.integers(0, 4)))))))


@st.composite
def normalized(draw, bias=True):
    width = draw(st.integers(1, 5))
    x = draw(array((*draw(leading()), width), distinct()))
    vectors = [draw(array((width,))) for _ in range(draw(st.integers(bias, 1 + bias)))]  # a weight, perhaps a bias
    return Call((x, *vectors), {"eps": draw(st.sampled_from([1e-5, 1e-2]))})


@st.composite
def paired(draw):
    """Two arrays of one shape, not empty."""
    shape = draw(shapes(min_side=1))
    return Call((draw(array(shape)), draw(array(shape))))


@st.composite
def scored(draw, ignore_index=tt.ops.losses.IGNORE):
    """Logits (..., V) and targets (...), some of them ignored but not all."""
    shape, classes = draw(leading(min_side=1)), draw(st.integers(1, 5))
    targets = draw(hnp.arrays(np.int64, shape, elements=st.integers(0, classes - 1)))
    ignored = draw(hnp.arrays(bool, shape))
    ignored.flat[0] = False
    logits = draw(array((*shape, classes)))
    ignore_index = draw(st.sampled_from([ignore_index, -1]))
    return Call((logits, np.where(ignored, ignore_index, targets)), {"ignore_index": ignore_index})


@st.composite
def scored_linear(draw):
    """As `scored`, the logits being x @ weight.T."""
    call = draw(scored())
    logits, targets = call.arrays
    width = draw(st.integers(1, 4))
    arrays = draw(array((*targets.shape, width))), draw(array((logits.shape[-1], width))), targets
    return Call(arrays, call.options)


@st.composite
def attended(draw, packed=False):
    """q, k, v (B, H, T, D), or qkv (B, T, 3, H, D)."""
    batch, heads, time, size = (draw(st.integers(low, 3)) for low in (0, 1, 1, 1))
    time += draw(st.sampled_from([0, 3]))
    options = {"dropout": draw(st.sampled_from([0.0, 0.4]))}
    if packed:
        return Call((draw(array((batch, time, 3, heads, size))),), options)
    return Call(tuple(draw(array((batch, heads, time, size))) for _ in range(3)), options)


@st.composite
def rotated(draw, parts=()):
    """Vectors (..., T, H, D) of an even size, or with parts (3,) queries, keys and values (B, T, 3, H, D)."""
    lead, time, heads, half = draw(shapes(len(parts), len(parts) or 2, 0, 2)), *(draw(st.integers(1, 3)) for _ in "TH2")
    return draw(array((*lead, time, *parts, heads, 2 * half)))


# References, written plainly in NumPy or Python integers.

KEY = ("gradient checks", 1)


def under_key(fn):
    """`fn` with its random draws keyed by KEY, so that it is a function."""

    def keyed(*arrays, **options):
        with tt.seeded(*KEY):
            return fn(*arrays, **options)

    return keyed


def mix(h: int) -> int:
    """The hash of `kernels/cpu/dropout.py`, with Python's integers."""
    h ^= h >> 16
    h = h * 0x21F0AAAD % 2**32
    h ^= h >> 15
    h = h * 0xD35A2D97 % 2**32
    return h ^ h >> 15


def keep_mask(seed: int, rows: int, columns: int, p: float) -> np.ndarray:
    """(rows, columns) booleans: what dropout keeps."""
    keys = [(mix(mix(seed % 2**32 ^ row) + (seed >> 32) & 0xFFFFFFFF)) for row in range(rows)]
    bits = [[mix((key + column * 0x9E3779B9) % 2**32) for column in range(columns)] for key in keys]
    return np.array(bits, dtype=np.uint64).reshape(rows, columns) >= int(p * 2**32)


def dropout(x, p):
    if p == 0:
        return x
    columns = x.shape[-1] if x.ndim > 1 else 1  # the only axis is that of the batch
    rows = int(np.prod(x.shape[:-1])) if x.ndim > 1 else x.size
    return x * keep_mask(tt.fold(*KEY, 1), rows, columns, p).reshape(x.shape) / (1 - p)


def softmax(x, axis=-1):
    return np.exp(x) / np.exp(x).sum(axis=axis, keepdims=True)


def attention(q, k, v, dropout):
    """With the whole T x T matrix of probabilities."""
    batch, heads, time, size = q.shape
    scores = np.where(np.tri(time, dtype=bool), q @ k.swapaxes(-1, -2) / np.sqrt(size), -np.inf)
    p = softmax(scores)
    if dropout:
        p = p * keep_mask(tt.fold(*KEY, 1), batch * heads * time, time, dropout).reshape(p.shape) / (1 - dropout)
    return p @ v


def packed_attention(qkv, dropout):
    return attention(*qkv.transpose(2, 0, 3, 1, 4), dropout).swapaxes(1, 2)


def rotary(x, first_position=0, theta=10000.0):
    """Each pair as a complex number, multiplied by exp(i angle)."""
    time, _, size = x.shape[-3:]
    half = size // 2
    positions = first_position + np.arange(time)[:, None, None]
    z = (x[..., :half] + 1j * x[..., half:]) * np.exp(1j * positions / theta ** (np.arange(half) / half))
    return np.concatenate([z.real, z.imag], axis=-1)


def grouped_attention(qkv, frequencies, kv_heads, scale):
    """With the keys and values of each group repeated, queries scaled beforehand, and the first pairs rotated."""
    heads, pairs = qkv.shape[2] - 2 * kv_heads, 2 * len(frequencies)
    q, k, v = np.split(qkv, [heads, heads + kv_heads], axis=2)
    z = np.exp(1j * np.arange(qkv.shape[1])[:, None, None] * np.array(frequencies))

    def turned(x):
        pair = (x[..., : pairs // 2] + 1j * x[..., pairs // 2 : pairs]) * z
        return np.concatenate([pair.real, pair.imag, x[..., pairs:]], axis=-1)

    q, k = turned(q) * scale * np.sqrt(q.shape[-1]), turned(k)
    k, v = (np.repeat(x, heads // kv_heads, axis=2) for x in (k, v))
    return packed_attention(np.stack([q, k, v], axis=2), 0.0)


@st.composite
def grouped(draw):
    batch, time, groups, shared, size = (draw(st.integers(1, 3)) for _ in range(5))
    frequencies = tuple(draw(st.lists(st.sampled_from([1.0, 0.3]), max_size=size // 2)))
    options = {"frequencies": frequencies, "kv_heads": groups, "scale": draw(st.sampled_from([0.5, 0.2]))}
    return Call((draw(array((batch, time, groups * (shared + 2), size))),), options)


def swiglu(x):
    a, b = np.split(x, 2, axis=-1)
    return a / (1 + np.exp(-a)) * b


def rotary_attention(qkv, rotary_theta):
    q, k, v = (qkv[:, :, i] for i in range(3))
    qk = [rotary(x, theta=rotary_theta) for x in (q, k)]
    return packed_attention(np.stack([*qk, v], axis=2), 0.0)


def layer_norm(x, weight, bias=0, eps=1e-5):
    centered = x - x.mean(-1, keepdims=True)
    return centered / np.sqrt((centered**2).mean(-1, keepdims=True) + eps) * weight + bias


def stacked_norm(*arrays, **options):
    return tt.stack(tt.add_layer_norm(*arrays, **options))


def stacked_norm_reference(x, added, added_bias, *vectors, eps):
    total = x + added + added_bias
    return np.stack([total, layer_norm(total, *vectors, eps=eps)])


def cross_entropy(logits, targets, ignore_index):
    losses = np.log(np.exp(logits).sum(-1)) - np.take_along_axis(logits, np.maximum(targets, 0)[..., None], -1)[..., 0]
    return losses[targets != ignore_index].mean()


def linear_cross_entropy(x, weight, targets, ignore_index):
    return cross_entropy(x @ weight.T, targets, ignore_index)


def einsum(*xs, subscripts):
    return tt.einsum(subscripts, *xs)


def pad(x, widths, value):
    return tt.pad(x, widths, value)


def topk(x, k, axis, descending):
    return tt.topk(x, k, axis, largest=descending).values


def mean_squared(x, targets):
    return ((x - targets) ** 2).mean()


def masked_fill(mask, x, value):
    return tt.masked_fill(x, mask, value)


def gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def exact_gelu(x):
    return tt.gelu(x, approximate="none")


def split_and_join(x, size, axis):
    """Each piece times a number of its own, so that none can stand in for another."""
    return tt.concat([piece * (i + 1) for i, piece in enumerate(tt.split(x, size, axis))], axis)


def split_and_join_reference(x, size, axis):
    cuts = np.arange(size, x.shape[axis], size) if isinstance(size, int) else np.cumsum(size)[:-1]
    return np.concatenate([piece * (i + 1) for i, piece in enumerate(np.split(x, cuts, axis))], axis)


def swapaxes(x, axis, axis2):
    """A method of Tensors and of arrays."""
    return x.swapaxes(axis, axis2)


def power(x, exponent):
    return x**exponent


def with_numbers(x):
    """Numbers on either side of each operator."""
    return (2 - x) * 3 / (x * x + 4) + 1 - -x / 2 + 1.5 ** (x - 1) + (x + 3) ** 2


@st.composite
def triangular(draw):
    return Call((draw(array(draw(shapes(2, 3)))),), {"diagonal": draw(st.integers(-3, 3))})


@st.composite
def clipped(draw):
    bounds = draw(st.sampled_from([{"min": -0.2, "max": 0.2}, {"min": None, "max": 0.1}, {"min": 0.0, "max": None}]))
    return Call((draw(array(draw(shapes()), distinct())),), bounds)


def clip_by_arrays(x, low, width):
    """`x` limited by tensors, the upper one above the lower one."""
    return x.clip(low, low + width)


def in_one_piece(split):
    """A function that returns several tensors, as one: each times a number of its own, then summed up in a row."""

    def joined(x, **options):
        return tt.concat([tt.reshape(piece, -1) * (i + 1) for i, piece in enumerate(split(x, **options))])

    return joined


def chunk_reference(x, chunks, axis):
    n = x.shape[axis]
    size = max(1, math.ceil(n / chunks))
    pieces = np.split(x, np.arange(size, n, size), axis)
    return np.concatenate([piece.reshape(-1) * (i + 1) for i, piece in enumerate(pieces)])


def unbind_reference(x, axis):
    return np.concatenate([piece.reshape(-1) * (i + 1) for i, piece in enumerate(np.moveaxis(x, axis, 0))])


def gather_reference(x, index, axis):
    others = tuple(slice(None) if i == axis % x.ndim else slice(n) for i, n in enumerate(index.shape))
    return np.take_along_axis(x[others], index, axis)


def sort_reference(x, axis, descending):
    return -np.sort(-x, axis) if descending else np.sort(x, axis)


def topk_reference(x, k, axis, descending):
    return np.moveaxis(np.moveaxis(sort_reference(x, axis, descending), axis, 0)[:k], 0, axis)


def norm_reference(x, p, axis, keepdims):
    powers = {1: np.abs(x), 2: x * x, math.inf: np.abs(x)}[p]
    y = (np.max if p == math.inf else np.sum)(powers, axis=axis, keepdims=keepdims)
    return np.sqrt(y) if p == 2 else y


def erf(x):
    return np.vectorize(math.erf, otypes=[float])(x)


def rms_norm(x, weight=1, eps=1e-6):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * weight


@st.composite
def scored_with_options(draw):
    """As `scored`, with a reduction, and perhaps a weight for each class and label smoothing."""
    call = draw(scored())
    logits, targets = call.arrays
    weights = [draw(array((logits.shape[-1],), uniform(0.1, 2)))] if draw(st.booleans()) else []
    options = {
        "reduction": draw(st.sampled_from(["mean", "sum", "none"])),
        "label_smoothing": draw(st.sampled_from([0.0, 0.3, 1.0])),
    }
    return Call((logits, targets, *weights), {**call.options, **options})


def cross_entropy_with_options(logits, targets, weight=None, **options):
    return tt.cross_entropy(logits, targets, weight=weight, **options)


def cross_entropy_with_options_reference(logits, targets, weight=1, *, ignore_index, reduction, label_smoothing):
    classes, counted = logits.shape[-1], targets != ignore_index
    weight = np.broadcast_to(weight, classes)
    ideal = (1 - label_smoothing) * np.eye(classes)[np.where(counted, targets, 0)] * 1.0
    share = weight[np.where(counted, targets, 0)] * counted
    log_p = np.log(softmax(logits))
    losses = -(ideal * weight * log_p).sum(-1) - label_smoothing * (weight * log_p).mean(-1)
    losses = losses * counted
    return {"none": losses, "sum": losses.sum(), "mean": losses.sum() / share.sum()}[reduction]


@st.composite
def attention_inputs(draw):
    """q, k, v with their own numbers of queries and keys, and perhaps a mask, some of whose rows see nothing."""
    lead = draw(shapes(0, 2, 1, 2))
    queries, keys, size, width = (draw(st.integers(1, 3)) for _ in range(4))
    qkv = [draw(array((*lead, n, m))) for n, m in ((queries, size), (keys, size), (keys, width))]
    kind = draw(st.sampled_from(["none", "boolean", "float", "causal"]))
    if kind == "causal":
        return Call(tuple(qkv), {"is_causal": True})
    if kind == "boolean":
        qkv.append(draw(hnp.arrays(bool, (*draw(st.sampled_from([(), lead])), queries, keys))))
    if kind == "float":
        qkv.append(draw(array((queries, keys))))
    return Call(tuple(qkv))


def free_attention_reference(q, k, v, mask=None, is_causal=False):
    scores = q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1])
    if is_causal:
        mask = np.tri(*scores.shape[-2:], dtype=bool)
    if mask is None or mask.dtype != bool:
        return softmax(scores if mask is None else scores + mask) @ v
    weights = np.exp(scores) * mask
    total = weights.sum(-1, keepdims=True)
    return weights / np.where(total == 0, 1, total) @ v


CASES = [
    # elementwise
    Case("add", tt.add, np.add, broadcast(ANY, ANY)),
    Case("sub", tt.sub, np.subtract, broadcast(ANY, ANY)),
    Case("mul", tt.mul, np.multiply, broadcast(ANY, ANY)),
    Case("div", tt.div, np.divide, broadcast(ANY, nonzero)),
    Case("pow", tt.pow, np.power, broadcast(uniform(0.4, 2), ANY)),
    Case("pow by a number", power, power, one(nonzero, exponent=st.integers(-2, 3))),
    Case("numbers", with_numbers, with_numbers, one()),
    Case("neg", tt.neg, np.negative, one()),
    Case("exp", tt.exp, np.exp, one()),
    Case("log", tt.log, np.log, one(uniform(0.3, 3))),
    Case("sqrt", tt.sqrt, np.sqrt, one(uniform(0.3, 3))),
    Case("tanh", tt.tanh, np.tanh, one()),
    Case("sigmoid", tt.sigmoid, lambda x: 1 / (1 + np.exp(-x)), one(uniform(-5, 5))),
    Case("sin", tt.sin, np.sin, one()),
    Case("cos", tt.cos, np.cos, one()),
    Case("square", tt.square, np.square, one()),
    Case("remainder", tt.remainder, np.remainder, broadcast(fractional, divisors)),
    Case("erf", tt.erf, erf, one(uniform(-7, 7))),
    Case("silu", tt.silu, lambda x: x / (1 + np.exp(-x)), one(uniform(-5, 5))),
    Case("softplus", tt.softplus, lambda x: np.log(1 + np.exp(x)), one(uniform(-5, 5))),
    Case("relu", tt.relu, lambda x: np.maximum(x, 0), one(distinct())),
    Case("gelu", tt.gelu, gelu, one(uniform(-4, 4))),
    Case("exact gelu", exact_gelu, lambda x: x * (1 + erf(x / np.sqrt(2))) / 2, one(uniform(-4, 4))),
    Case("abs", tt.abs, np.abs, one(distinct())),
    Case("maximum", tt.maximum, np.maximum, broadcast(distinct(0.03), distinct(0.06))),
    Case("minimum", tt.minimum, np.minimum, broadcast(distinct(0.03), distinct(0.06))),
    Case("where", tt.where, np.where, with_mask()),
    Case("masked_fill", masked_fill, lambda m, x, value: np.where(m, value, x), with_mask(1, value=st.just(-7.0))),
    Case("clip", tt.clip, lambda x, min, max: np.clip(x, min, max), clipped()),
    Case("clip by arrays", clip_by_arrays, clip_by_arrays, broadcast(distinct(), distinct(0.06), uniform(1, 2))),
    Case("cast", tt.cast, lambda x, dtype: x, one(dtype=st.just("float64"))),
    # reduce
    Case("sum", tt.sum, np.sum, reduced()),
    Case("mean", tt.mean, np.mean, reduced(min_side=1)),
    Case("max", tt.max, np.max, reduced(distinct(), 1)),
    Case("min", tt.min, np.min, reduced(distinct(), 1)),
    Case("var", tt.var, np.var, reduced_with_ddof()),
    Case("logsumexp", tt.logsumexp, lambda x, **options: np.log(np.sum(np.exp(x), **options)), reduced(min_side=1)),
    Case("prod", tt.prod, np.prod, reduced(with_zeros)),
    Case("norm", tt.norm, norm_reference, reduced(distinct(), 1, p=st.just(2))),
    Case("other norms", tt.norm, norm_reference, reduced(distinct(), 1, p=st.sampled_from([1, math.inf]))),
    Case("cumsum", tt.cumsum, np.cumsum, scanned()),
    Case("cumprod", tt.cumprod, np.cumprod, scanned()),
    # shape
    Case("reshape", lambda x, shape: tt.reshape(x, *shape), np.reshape, reshaped()),
    Case("permute", lambda x, axes: tt.permute(x, *axes), np.transpose, permuted()),
    Case("transpose", tt.transpose, np.transpose, one()),
    Case("swapaxes", swapaxes, swapaxes, axes(2)),
    Case("expand", lambda x, shape: tt.expand(x, *shape), np.broadcast_to, expanded()),
    Case("squeeze", tt.squeeze, np.squeeze, squeezable()),
    Case("unsqueeze", tt.unsqueeze, np.expand_dims, axes(1, min_dims=0, beyond=1)),
    Case("concat", lambda *xs, axis: tt.concat(xs, axis), lambda *xs, axis: np.concatenate(xs, axis), joined()),
    Case("stack", lambda *xs, axis: tt.stack(xs, axis), lambda *xs, axis: np.stack(xs, axis), joined(same=True)),
    Case("split", split_and_join, split_and_join_reference, split_sizes()),
    Case("chunk", in_one_piece(tt.chunk), chunk_reference, chunked()),
    Case("unbind", in_one_piece(tt.unbind), unbind_reference, axes(1, min_side=1)),
    Case("repeat", lambda x, counts: tt.repeat(x, *counts), lambda x, counts: np.tile(x, counts), repeated()),
    Case("pad", pad, lambda x, widths, value: np.pad(x, widths, constant_values=value), padded()),
    Case("flip", tt.flip, np.flip, flipped()),
    Case("roll", tt.roll, np.roll, rolled()),
    Case("contiguous", tt.contiguous, lambda x: x, one()),
    Case("contiguous transposed", lambda x: tt.contiguous(x.T), lambda x: x.T, matrices()),
    # order
    Case("sort", lambda x, **options: tt.sort(x, **options).values, sort_reference, ordered()),
    Case("topk", topk, topk_reference, ordered(k=True)),
    # indexing
    Case("gather", lambda x, index, axis: tt.gather(x, axis, index), gather_reference, gathered()),
    Case("getitem", tt.getitem, lambda x, index: x[index], indexed()),
    Case("tril", tt.tril, lambda x, diagonal: np.tril(x, diagonal), triangular()),
    Case("triu", tt.triu, lambda x, diagonal: np.triu(x, diagonal), triangular()),
    # linalg
    Case("matmul", tt.matmul, np.matmul, multiplied()),
    Case("einsum", einsum, lambda *xs, subscripts: np.einsum(subscripts, *xs), summation()),
    # fused
    Case("softmax", tt.softmax, softmax, axes(1)),
    Case("log_softmax", tt.log_softmax, lambda x, axis: np.log(softmax(x, axis)), axes(1)),
    Case("layer_norm", tt.layer_norm, layer_norm, normalized()),
    Case("bias_add", tt.bias_add, lambda x, added, bias=0: x + added + bias, residual_inputs()),
    Case("add_layer_norm", stacked_norm, stacked_norm_reference, residual_inputs(norm=True)),
    Case("linear", tt.linear, lambda x, weight, bias=0: x @ weight + bias, linear_inputs()),
    Case("gelu_linear", tt.gelu_linear, lambda x, weight, bias=0: gelu(x) @ weight + bias, linear_inputs()),
    Case(
        "gelu_linear with a bias before",
        tt.gelu_linear,
        lambda x, weight, bias, x_bias: gelu(x + x_bias) @ weight + bias,
        gelu_linear_inputs(),
    ),
    Case(
        "swiglu_linear",
        tt.swiglu_linear,
        lambda x, weight, bias=0: swiglu(x) @ weight + bias,
        linear_inputs(halves=2),
    ),
    Case("embedding", tt.embedding, lambda ids, weight: weight[ids], ids_and_weight()),
    Case("dropout", under_key(tt.dropout), dropout, one(p=st.sampled_from([0.0, 0.3, 0.9]))),
    Case("causal_attention", under_key(tt.causal_attention), attention, attended()),
    Case("packed_causal_attention", under_key(tt.packed_causal_attention), packed_attention, attended(packed=True)),
    Case(
        "rotary",
        tt.rotary,
        rotary,
        st.builds(
            lambda x, *options: Call((x,), dict(zip(("first_position", "theta"), options, strict=True))),
            rotated(),
            st.integers(0, 9),
            st.sampled_from([10000.0, 2.0]),
        ),
    ),
    Case(
        "packed_causal_attention with rotary positions",
        tt.packed_causal_attention,
        rotary_attention,
        st.builds(lambda x, theta: Call((x,), {"rotary_theta": theta}), rotated((3,)), st.sampled_from([10000.0, 2.0])),
    ),
    Case("packed_causal_attention of grouped queries", tt.packed_causal_attention, grouped_attention, grouped()),
    Case("cross_entropy", tt.cross_entropy, cross_entropy, scored()),
    Case("linear_cross_entropy", tt.linear_cross_entropy, linear_cross_entropy, scored_linear()),
    Case("mse_loss", tt.mse_loss, mean_squared, paired()),
    Case(
        "cross_entropy with options",
        cross_entropy_with_options,
        cross_entropy_with_options_reference,
        scored_with_options(),
    ),
    Case("rms_norm", tt.rms_norm, rms_norm, normalized(bias=False)),
    Case(
        "scaled_dot_product_attention",
        tt.scaled_dot_product_attention,
        free_attention_reference,
        attention_inputs(),
    ),
]

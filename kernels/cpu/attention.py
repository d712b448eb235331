"""Causal self-attention in blocks: memory grows with T, not T^2.

The queries, keys and values come packed as qkv (B, T, 3, H, D), the layout in which one matrix product yields them.
With grouped queries (Ainslie et al. 2023, arXiv:2305.13245) there are fewer keys and values, G heads of each, one for
every R = H / G neighboring heads of queries: (B, T, H + 2 G, D), which is how the first layout lies in memory, too.

In forward a block of queries meets only the keys up to its last query, in backward a block of keys only the queries
from its first on: few masked scores are computed, and only one block is held at a time. The backward pass recomputes
the probabilities from the scores and the log-sum-exp of each row (Dao et al. 2022, arXiv:2205.14135, algorithm 4):

    p = exp(s - lse),  dp = g v^T,  ds = p (dp - rowsum(g y)),  gq = ds k,  gk = ds^T q,  gv = p^T g

Dropout scales p by m / (1 - p_drop), m from `dropout.keep_mask`; the same factor then applies to dp.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np

from kernels import shapes
from kernels.cpu.blocks import as_rows, c_order
from kernels.cpu.compiled import compiled
from kernels.cpu.dropout import keep_mask
from kernels.cpu.softmax import softmax_pass
from kernels.cpu.threads import parallel_map
from kernels.options import NO_DROPOUT

BLOCK = 32  # queries or keys at a time: enough for BLAS to be fast, with few masked scores
LONG_BLOCK = 64  # for long sequences, of which masked scores are a smaller part
LONG = 512  # tokens
SCORES_BYTES = 256 * 1024  # of one block's scores, over several heads


class Part(NamedTuple):
    """What one call of a pass works on. Integers, as numba is slow to recognize slices among a loop's arguments."""

    first_batch: int
    end_batch: int
    first_head: int
    end_head: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """Of the batch and of the heads."""
        return slice(self.first_batch, self.end_batch), slice(self.first_head, self.end_head)


class PassOptions(NamedTuple):
    """`scale` and DropoutOptions. numba compiles one specialization per argument type, so the types are fixed here."""

    scale: float
    p: float
    seed: np.uint64
    first_row: int


def attention_forward(qkv, scale, dropout=NO_DROPOUT, kv_heads=None):
    """qkv (B, T, 3, H, D) -> y (B, T, H, D), lse (B, H, T): the log-sum-exp of each row of scaled scores.

    kv_heads: G, of qkv (B, T, H + 2 G, D). The dropout mask's rows are the rows of the scores, (b * H + h) * T + t.
    """
    batch, time, heads, groups, size = shapes.check_attention(qkv, kv_heads)
    y = np.empty((batch, time, heads, size), qkv.dtype)
    lse = np.empty((batch, heads, time), qkv.dtype)
    packed, options = _packed(qkv, heads, groups), _pass_options(scale, dropout)
    parts = _parts(batch, time, heads, heads // max(1, groups), qkv.itemsize)
    parallel_map(lambda part: attention_forward_pass(packed, part, options, y, lse), parts)
    return y, lse


def attention_backward(g, qkv, y, lse, scale, dropout=NO_DROPOUT, kv_heads=None):
    """g (B, T, H, D) -> gqkv of the shape of qkv, given what `attention_forward` took and returned."""
    batch, time, heads, groups, _ = shapes.check_attention_backward(g, qkv, y, lse, kv_heads)
    packed, options = _packed(qkv, heads, groups), _pass_options(scale, dropout)
    (g, y), gqkv = map(c_order, (g, y)), np.empty(packed.shape, qkv.dtype)
    parts = _parts(batch, time, heads, heads // max(1, groups), qkv.itemsize)
    parallel_map(lambda part: attention_backward_pass(g, packed, part, options, (y, lse), gqkv), parts)
    return gqkv.reshape(qkv.shape)


@compiled
def attention_forward_pass(qkv, part, options, y, lse):
    """Write y and lse of a part."""
    time, heads = qkv.shape[1], y.shape[2]
    q, k, v = _split(qkv, heads, part)
    kt = _transposed(k, options.scale)[:, :, None]  # (b, g, 1, D, T)
    group = q.shape[1:3]
    y = _grouped(y, part, group)
    lse = lse[part.slices].reshape(-1, *group, time)
    for queries in _blocks(time):
        visible = slice(queries.stop)
        p = q[..., queries, :] @ kt[..., visible]  # scores: (b, g, r, n, D) @ (b, g, 1, D, j) -> (b, g, r, n, j)
        fits, rows = _exp_fits(p), as_rows(p)
        p[..., queries] += _causal_bias(queries.stop - queries.start, p.dtype)
        lse[..., queries] = softmax_pass(rows, None if fits else rows.max(axis=1)).reshape(p.shape[:-1])
        if options.p:
            p *= _dropout_factors(p, heads, time, part, options, queries, visible)
        np.matmul(p, v[:, :, None, visible], out=y[..., queries, :])  # (..., n, j) @ (..., j, D) -> (..., n, D)


@compiled
def attention_backward_pass(g, qkv, part, options, saved, gqkv):
    """Write gqkv of a part; saved is y, lse."""
    y, lse = saved
    time, heads = qkv.shape[1], y.shape[2]
    (q, k, v), (all_gq, gk, gv) = _split(qkv, heads, part), _split(gqkv, heads, part)
    group = q.shape[1:3]
    g, y = (_grouped(a, part, group) for a in (g, y))
    lse = lse[part.slices].reshape(-1, *group, time)
    delta = np.vecdot(g, y) * options.scale  # (b, g, r, T)
    # the scale folded into k^T and v^T scales both scores and ds
    gq, (kt, vt) = np.zeros_like(q), (_transposed(x, options.scale)[:, :, None] for x in (k, v))
    for keys in _blocks(time):
        queries, n = slice(keys.start, time), keys.stop - keys.start  # those that see some of these keys
        p = q[..., queries, :] @ kt[..., keys]  # scores: (b, g, r, i, D) @ (b, g, 1, D, n) -> (b, g, r, i, n)
        p[..., :n, :] += _causal_bias(n, p.dtype)
        p -= lse[..., queries, None]
        np.exp(p, out=p)
        ds = g[..., queries, :] @ vt[..., keys]  # dp, to begin with
        if options.p:
            factors = _dropout_factors(p, heads, time, part, options, queries, keys)
            ds *= factors
        ds -= delta[..., queries, None]
        ds *= p
        if options.p:
            p *= factors
        # the queries of a group in one product: the sum over them is the sum over its rows
        np.matmul(_as_group(p).swapaxes(-1, -2), _as_group(g[..., queries, :]), out=gv[:, :, keys])
        np.matmul(_as_group(ds).swapaxes(-1, -2), _as_group(q[..., queries, :]), out=gk[:, :, keys])
        gq[..., queries, :] += ds @ k[:, :, None, keys]
    all_gq[...] = gq


def _pass_options(scale, dropout) -> PassOptions:
    return PassOptions(float(scale), float(dropout.p), np.uint64(dropout.seed), dropout.first_row % 2**32)


def _packed(qkv, heads, groups):
    """qkv in the one layout that the passes know, (B, T, H + 2 G, D), contiguous."""
    return c_order(qkv).reshape(*qkv.shape[:2], heads + 2 * groups, qkv.shape[-1])


def _split(qkv, heads, part):
    """Views of a part of qkv (B, T, H + 2 G, D): queries (b, g, r, T, D), keys and values (b, g, T, D) each."""
    groups = (qkv.shape[2] - heads) // 2
    shared = heads // groups  # R
    first, end = part.first_head // shared, part.end_head // shared
    q = _grouped(qkv, part, (end - first, shared))
    k, v = (qkv[part.slices[0], :, start + first : start + end].swapaxes(1, 2) for start in (heads, heads + groups))
    return q, k, v


def _grouped(x, part, group):
    """A view of the heads of x (B, T, N, D) that a part works on, in groups: (b, g, r, T, D)."""
    batches, heads = part.slices
    x = x[batches, :, heads]
    return x.reshape(*x.shape[:2], *group, x.shape[-1]).transpose(0, 2, 3, 1, 4)


def _as_group(x):
    """x (b, g, r, i, n) -> (b, g, r i, n); no copy if r is 1."""
    return x.reshape(*x.shape[:2], -1, x.shape[-1])


def _parts(batch, time, heads, shared, itemsize) -> list[Part]:
    """The heads in sets whose blocks of scores are of bounded size, each a multiple of the `shared` of a group."""
    together = max(1, SCORES_BYTES // max(1, _block_size(time) * time * itemsize))
    b, h = max(1, together // max(1, heads)), max(1, min(together, heads))
    h = -(-h // max(1, shared)) * shared
    return [Part(i, min(i + b, batch), j, min(j + h, heads)) for i in range(0, batch, b) for j in range(0, heads, h)]


def _blocks(time) -> list[slice]:
    size = _block_size(time)
    return [slice(start, min(start + size, time)) for start in range(0, time, size)]


def _block_size(time) -> int:
    return max(1, min(BLOCK if time <= LONG else LONG_BLOCK, time))


def _transposed(x, scale):
    """x (b, h, T, D) -> scale x^T (b, h, D, T), contiguous: BLAS is up to twice as fast with that as with a view."""
    return np.multiply(x.swapaxes(-1, -2), x.dtype.type(scale), order="C")


def _exp_fits(scores) -> bool:
    """Whether exp of these scores neither overflows nor vanishes, so that no row's maximum need be subtracted."""
    return max(scores.max(initial=0), -scores.min(initial=0)) < 2 / 3 * math.log(np.finfo(scores.dtype).max)


@functools.cache
def _causal_bias(n, dtype):
    """What to add to a diagonal block of scores: -inf where the key comes after the query, (n, n)."""
    return np.triu(np.full((n, n), -np.inf, dtype), 1)


def _dropout_factors(p, heads, time, part, options, queries, keys):
    """What dropout multiplies a block of probabilities p (b, g, r, queries, keys) by: 0 or 1 / (1 - options.p)."""
    b, h = np.arange(part.first_batch, part.end_batch), np.arange(part.first_head, part.end_head)
    positions = np.arange(time)
    rows = (b[:, None, None] * heads + h[:, None]) * time + positions[queries]  # (b, h, queries)
    keep = keep_mask(options, rows, positions[keys]).reshape(p.shape)
    return keep * p.dtype.type(1 / (1 - options.p))

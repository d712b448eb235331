"""Causal self-attention in blocks: memory grows with T, not T^2.

The queries, keys and values come packed as qkv (B, T, 3, H, D), the layout in which one matrix product yields them.
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


def attention_forward(qkv, scale, dropout=NO_DROPOUT):
    """qkv (B, T, 3, H, D) -> y (B, T, H, D), lse (B, H, T): the log-sum-exp of each row of scaled scores.

    The dropout mask's rows are the rows of the scores, (b * H + h) * T + t.
    """
    shapes.check_attention(qkv)
    batch, time, _, heads, size = qkv.shape
    y = np.empty((batch, time, heads, size), qkv.dtype)
    lse = np.empty((batch, heads, time), qkv.dtype)
    qkv, options = c_order(qkv), _pass_options(scale, dropout)
    parallel_map(lambda part: attention_forward_pass(qkv, part, options, y, lse), _parts(qkv))
    return y, lse


def attention_backward(g, qkv, y, lse, scale, dropout=NO_DROPOUT):
    """g (B, T, H, D) -> gqkv (B, T, 3, H, D), given what `attention_forward` took and returned."""
    shapes.check_attention_backward(g, qkv, y, lse)
    gqkv = np.empty(qkv.shape, qkv.dtype)
    (g, qkv, y), options = map(c_order, (g, qkv, y)), _pass_options(scale, dropout)
    parallel_map(lambda part: attention_backward_pass(g, qkv, part, options, (y, lse), gqkv), _parts(qkv))
    return gqkv


@compiled
def attention_forward_pass(qkv, part, options, y, lse):
    """Write y and lse of a part."""
    time, (batches, heads) = qkv.shape[1], part.slices
    q, k, v = qkv[batches, :, :, heads].transpose(2, 0, 3, 1, 4)  # each (b, h, T, D)
    kt = _transposed(k, options.scale)
    y, lse = y[batches, :, heads].swapaxes(1, 2), lse[part.slices]
    for queries in _blocks(time):
        visible = slice(queries.stop)
        p = q[:, :, queries] @ kt[..., visible]  # scores: (b, h, n, D) @ (b, h, D, j) -> (b, h, n, j)
        fits, rows = _exp_fits(p), as_rows(p)
        p[..., queries] += _causal_bias(queries.stop - queries.start, p.dtype)
        lse[:, :, queries] = softmax_pass(rows, None if fits else rows.max(axis=1)).reshape(p.shape[:-1])
        if options.p:
            p *= _dropout_factors(qkv, part, options, queries, visible)
        np.matmul(p, v[:, :, visible], out=y[:, :, queries])  # (b, h, n, j) @ (b, h, j, D) -> (b, h, n, D)


@compiled
def attention_backward_pass(g, qkv, part, options, saved, gqkv):
    """Write gqkv of a part; saved is y, lse."""
    time, (batches, heads) = qkv.shape[1], part.slices
    q, k, v = qkv[batches, :, :, heads].transpose(2, 0, 3, 1, 4)  # each (b, h, T, D)
    all_gq, gk, gv = gqkv[batches, :, :, heads].transpose(2, 0, 3, 1, 4)
    g, y = (a[batches, :, heads].swapaxes(1, 2) for a in (g, saved[0]))
    lse = saved[1][part.slices]
    delta = np.vecdot(g, y) * options.scale  # (b, h, T)
    # the scale folded into k^T and v^T scales both scores and ds
    gq, kt, vt = np.zeros_like(q), _transposed(k, options.scale), _transposed(v, options.scale)
    for keys in _blocks(time):
        queries, n = slice(keys.start, time), keys.stop - keys.start  # those that see some of these keys
        p = q[:, :, queries] @ kt[..., keys]  # scores: (b, h, i, D) @ (b, h, D, n) -> (b, h, i, n)
        p[:, :, :n] += _causal_bias(n, p.dtype)
        p -= lse[:, :, queries, None]
        np.exp(p, out=p)
        ds = g[:, :, queries] @ vt[..., keys]  # dp, to begin with
        if options.p:
            factors = _dropout_factors(qkv, part, options, queries, keys)
            ds *= factors
        ds -= delta[:, :, queries, None]
        ds *= p
        if options.p:
            p *= factors
        np.matmul(p.swapaxes(-1, -2), g[:, :, queries], out=gv[:, :, keys])
        np.matmul(ds.swapaxes(-1, -2), q[:, :, queries], out=gk[:, :, keys])
        gq[:, :, queries] += ds @ k[:, :, keys]
    all_gq[...] = gq


def _pass_options(scale, dropout) -> PassOptions:
    return PassOptions(float(scale), float(dropout.p), np.uint64(dropout.seed), dropout.first_row % 2**32)


def _parts(qkv) -> list[Part]:
    """The heads in groups whose blocks of scores are of bounded size."""
    batch, time, _, heads, _ = qkv.shape
    together = max(1, SCORES_BYTES // max(1, _block_size(time) * time * qkv.itemsize))
    b, h = max(1, together // max(1, heads)), max(1, min(together, heads))
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


def _dropout_factors(qkv, part, options, queries, keys):
    """What dropout multiplies a block of probabilities by: 0 or 1 / (1 - p), (b, h, queries, keys)."""
    batch, time, _, count, _ = qkv.shape
    batches, heads = part.slices
    b, h, positions = np.arange(batch)[batches], np.arange(count)[heads], np.arange(time)
    rows = (b[:, None, None] * count + h[:, None]) * time + positions[queries]  # (b, h, queries)
    return keep_mask(options, rows, positions[keys]) * qkv.dtype.type(1 / (1 - options.p))

"""Causal self-attention in blocks: memory grows with T, not T^2.

Floor 0. The queries, keys and values come packed as qkv (B, T, 3, H, D), the layout in which one matrix product
yields them. A block of queries sees only the keys up to its last one, and a block of keys is seen only by the queries
from its first one on, so what lies above the diagonal is hardly computed, and one block's scores are all that is ever
held. The backward pass computes the probabilities again from the scores and the log-sum-exp of each row (Dao et al.
2022, arXiv:2205.14135, algorithm 4):

    p = exp(s - lse),  dp = g v^T,  ds = p (dp - rowsum(g y)),  gq = ds k,  gk = ds^T q,  gv = p^T g

Dropout scales p by m / (1 - p_drop), m from `dropout.keep_mask`; the same factor then applies to dp.
"""

from __future__ import annotations

import functools
import math

import numpy as np

from kernels.cpu.blocks import as_rows, spread
from kernels.cpu.compiled import compiled
from kernels.cpu.dropout import keep_mask
from kernels.cpu.softmax import softmax_pass

BLOCK = 32  # queries or keys at a time: enough for BLAS to be fast, and little is wasted above the diagonal
LONG_BLOCK = 64  # the same for long sequences, which waste less
LONG = 512  # tokens
SCORES_BYTES = 256 * 1024  # of one block's scores, over several heads


def attention_forward(qkv, scale, dropout=0.0, seed=0):
    """qkv (B, T, 3, H, D) -> y (B, T, H, D), lse (B, H, T): the log-sum-exp of each row of scaled scores."""
    batch, time, _, heads, size = qkv.shape
    y = np.empty((batch, time, heads, size), qkv.dtype)
    lse = np.empty((batch, heads, time), qkv.dtype)
    qkv, options = np.ascontiguousarray(qkv), _options(scale, dropout, seed)
    spread(lambda group: attention_forward_pass(qkv, *group, *options, y, lse), _groups(qkv))
    return y, lse


def attention_backward(g, qkv, y, lse, scale, dropout=0.0, seed=0):
    """g (B, T, H, D) -> gqkv (B, T, 3, H, D)."""
    gqkv = np.empty(qkv.shape, qkv.dtype)
    (g, qkv, y), options = (np.ascontiguousarray(a, qkv.dtype) for a in (g, qkv, y)), _options(scale, dropout, seed)
    spread(lambda group: attention_backward_pass(g, qkv, *group, y, lse, *options, gqkv), _groups(qkv))
    return gqkv


@compiled
def attention_forward_pass(qkv, batches, heads, scale, dropout, seed, y, lse):
    """Write y and lse of a slice of the batch and a slice of the heads."""
    time = qkv.shape[1]
    q, k, v = qkv[batches, :, :, heads].transpose(2, 0, 3, 1, 4)  # each (b, h, T, D)
    kt, y, lse = _transposed(k, scale), y[batches, :, heads].swapaxes(1, 2), lse[batches, heads]
    for queries in _blocks(time):
        seen = slice(queries.stop)
        p = q[:, :, queries] @ kt[..., seen]  # scores: (b, h, n, D) @ (b, h, D, j) -> (b, h, n, j)
        fits, rows = _exp_fits(p), as_rows(p)
        p[..., queries] += _future(queries.stop - queries.start, p.dtype)
        lse[:, :, queries] = softmax_pass(rows, None if fits else rows.max(axis=1)).reshape(p.shape[:-1])
        if dropout:
            p *= _kept(batches, heads, queries, seen, qkv, dropout, seed)
        np.matmul(p, v[:, :, seen], out=y[:, :, queries])  # (b, h, n, j) @ (b, h, j, D) -> (b, h, n, D)


@compiled
def attention_backward_pass(g, qkv, batches, heads, y, lse, scale, dropout, seed, gqkv):
    """Write gqkv of a slice of the batch and a slice of the heads."""
    time = qkv.shape[1]
    q, k, v = qkv[batches, :, :, heads].transpose(2, 0, 3, 1, 4)  # each (b, h, T, D)
    all_gq, gk, gv = gqkv[batches, :, :, heads].transpose(2, 0, 3, 1, 4)
    g, y, lse = g[batches, :, heads].swapaxes(1, 2), y[batches, :, heads].swapaxes(1, 2), lse[batches, heads]
    delta = np.vecdot(g, y) * scale  # (b, h, T)
    gq, kt, vt = np.zeros_like(q), _transposed(k, scale), _transposed(v, scale)  # scores and ds are scaled then
    for keys in _blocks(time):
        seeing, n = slice(keys.start, time), keys.stop - keys.start
        p = q[:, :, seeing] @ kt[..., keys]  # scores: (b, h, i, D) @ (b, h, D, n) -> (b, h, i, n)
        p[:, :, :n] += _future(n, p.dtype)
        p -= lse[:, :, seeing, None]
        np.exp(p, out=p)
        ds = g[:, :, seeing] @ vt[..., keys]  # dp, to begin with
        if dropout:
            kept = _kept(batches, heads, seeing, keys, qkv, dropout, seed)
            ds *= kept
        ds -= delta[:, :, seeing, None]
        ds *= p
        if dropout:
            p *= kept
        np.matmul(p.swapaxes(-1, -2), g[:, :, seeing], out=gv[:, :, keys])
        np.matmul(ds.swapaxes(-1, -2), q[:, :, seeing], out=gk[:, :, keys])
        gq[:, :, seeing] += ds @ k[:, :, keys]
    all_gq[...] = gq


def _options(scale, dropout, seed):
    """In types that do not change from call to call, as a loop is compiled for each."""
    return float(scale), float(dropout), np.uint64(seed)


def _groups(qkv) -> list[tuple[slice, slice]]:
    """(slice of B, slice of H): heads to be worked on together, so that a block of their scores has bounded size."""
    batch, time, _, heads, _ = qkv.shape
    together = max(1, SCORES_BYTES // max(1, _block_size(time) * time * qkv.itemsize))
    b, h = max(1, together // max(1, heads)), max(1, min(together, heads))
    return [(i, j) for i in _slices(batch, b) for j in _slices(heads, h)]


def _blocks(time) -> list[slice]:
    return _slices(time, _block_size(time))


def _block_size(time) -> int:
    return max(1, min(BLOCK if time <= LONG else LONG_BLOCK, time))


def _slices(length, size) -> list[slice]:
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]


def _transposed(x, scale):
    """x (b, h, T, D) -> scale x^T (b, h, D, T), contiguous: BLAS is up to twice as fast with that as with a view."""
    return np.multiply(x.swapaxes(-1, -2), x.dtype.type(scale), order="C")


def _exp_fits(scores) -> bool:
    """Whether exp of these scores neither overflows nor vanishes, so that no row's maximum need be subtracted."""
    return max(scores.max(initial=0), -scores.min(initial=0)) < 2 / 3 * math.log(np.finfo(scores.dtype).max)


@functools.cache
def _future(n, dtype):
    """What to add to a diagonal block of scores: -inf where the key lies in the query's future, (n, n)."""
    return np.triu(np.full((n, n), -np.inf, dtype), 1)


def _kept(batches, heads, queries, keys, qkv, dropout, seed):
    """What dropout multiplies a block of probabilities by: 0 or 1 / (1 - dropout), (b, h, queries, keys)."""
    batch, time, _, count, _ = qkv.shape
    b, h, positions = np.arange(batch)[batches], np.arange(count)[heads], np.arange(time)
    rows = (b[:, None, None] * count + h[:, None]) * time + positions[queries]  # (b, h, queries)
    return keep_mask(seed, rows, positions[keys], dropout) * qkv.dtype.type(1 / (1 - dropout))

"""Causal self-attention in blocks of queries: memory grows with T, not T^2.

Floor 0. The queries, keys and values come packed as qkv (B, T, 3, H, D), the layout in which one matrix product
yields them. For a block of queries i0..i1 only keys up to i1 matter, so the blocks above the diagonal are never
computed, and one block's scores are all that is ever held. The backward pass computes the probabilities again from
the scores and the log-sum-exp of each row (Dao et al. 2022, arXiv:2205.14135, algorithm 4):

    p = exp(s - lse),  dp = g v^T,  ds = p (dp - rowsum(g y)),  gq = ds k,  gk = ds^T q,  gv = p^T g

Dropout scales p by m / (1 - p_drop), m from `dropout.keep_mask`; the same factor then applies to dp.
"""

from __future__ import annotations

import numpy as np

from kernels.cpu.blocks import spread
from kernels.cpu.dropout import keep_mask

QUERY_BLOCK = 128
SCORES_BYTES = 512 * 1024  # of one block of scores, over several heads


def attention_forward(qkv, scale, dropout=0.0, seed=0):
    """qkv (B, T, 3, H, D) -> y (B, T, H, D), lse (B, H, T): the log-sum-exp of each row of scaled scores."""
    batch, time, _, heads, size = qkv.shape
    y = np.empty((batch, time, heads, size), qkv.dtype)
    lse = np.empty((batch, heads, time), qkv.dtype)
    outputs = y.swapaxes(1, 2)  # (B, H, T, D)
    q, k, v = qkv.transpose(2, 0, 3, 1, 4)  # 3 x (B, H, T, D)
    q = q * qkv.dtype.type(scale)

    def work(group):
        for queries in _query_blocks(time):
            seen = slice(queries.stop)
            s = _scores(q[group][:, :, queries], k[group][:, :, seen], queries)  # (b, h, n, j)
            top = s.max(axis=-1, keepdims=True)
            s -= top
            p = np.exp(s, out=s)
            total = p.sum(axis=-1, keepdims=True)
            lse[group][:, :, queries] = (np.log(total) + top)[..., 0]
            if dropout:
                p *= _kept(group, queries, p, qkv.shape, dropout, seed)
            # (b, h, n, j) @ (b, h, j, D): dividing the small result by the sum is cheaper than dividing p
            outputs[group][:, :, queries] = (p @ v[group][:, :, seen]) / total

    spread(work, _groups(qkv))
    return y, lse


def attention_backward(g, qkv, y, lse, scale, dropout=0.0, seed=0):
    """g (B, T, H, D) -> gqkv (B, T, 3, H, D)."""
    time, scale = qkv.shape[1], qkv.dtype.type(scale)
    gqkv = np.zeros_like(qkv)
    delta = np.einsum("bthd,bthd->bht", g, y)
    q, k, v = qkv.transpose(2, 0, 3, 1, 4)  # 3 x (B, H, T, D)
    gq, gk, gv = gqkv.transpose(2, 0, 3, 1, 4)
    q = q * scale
    g = g.swapaxes(1, 2)  # (B, H, T, D)

    def work(group):
        for queries in _query_blocks(time):
            seen = slice(queries.stop)
            qi, gi, kj, vj = (
                q[group][:, :, queries],
                g[group][:, :, queries],
                k[group][:, :, seen],
                v[group][:, :, seen],
            )
            p = _scores(qi, kj, queries)  # (b, h, n, j)
            p -= lse[group][:, :, queries, None]
            np.exp(p, out=p)
            dp = gi @ vj.swapaxes(-1, -2)  # (b, h, n, D) @ (b, h, D, j) -> (b, h, n, j)
            kept = _kept(group, queries, p, qkv.shape, dropout, seed) if dropout else None
            gv[group][:, :, seen] += (p if kept is None else p * kept).swapaxes(-1, -2) @ gi
            if kept is not None:
                dp *= kept
            dp -= delta[group][:, :, queries, None]
            dp *= p  # ds
            gq[group][:, :, queries] = (dp @ kj) * scale
            gk[group][:, :, seen] += dp.swapaxes(-1, -2) @ qi  # q is scaled already

    spread(work, _groups(qkv))
    return gqkv


def _groups(qkv) -> list[tuple[slice, slice]]:
    """(slice of B, slice of H): heads to be worked on together, so that a block of their scores has bounded size."""
    batch, time, _, heads, _ = qkv.shape
    together = max(1, SCORES_BYTES // max(1, min(QUERY_BLOCK, time) * time * qkv.itemsize))
    b, h = max(1, together // max(1, heads)), max(1, min(together, heads))
    return [(slice(i, i + b), slice(j, j + h)) for i in range(0, batch, b) for j in range(0, heads, h)]


def _query_blocks(time) -> list[slice]:
    return [slice(start, min(start + QUERY_BLOCK, time)) for start in range(0, time, QUERY_BLOCK)]


def _scores(q, k, queries):
    """q (b, h, n, D), k (b, h, j, D) -> (b, h, n, j), -inf where the key lies in the query's future."""
    s = q @ k.swapaxes(-1, -2)
    n = queries.stop - queries.start
    s[..., queries.start :] += np.triu(np.full((n, n), -np.inf, s.dtype), 1)
    return s


def _kept(group, queries, p, shape, dropout, seed):
    """What dropout multiplies a block of probabilities p by: 0 or 1 / (1 - dropout), (b, h, n, j)."""
    batch, time, _, heads, _ = shape
    b, h = (np.arange(n)[part] for n, part in zip((batch, heads), group, strict=True))
    rows = (b[:, None, None] * heads + h[:, None]) * time + np.arange(queries.start, queries.stop)  # (b, h, n)
    return keep_mask(seed, rows, p.shape[-1], dropout) * p.dtype.type(1 / (1 - dropout))

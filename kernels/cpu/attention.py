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

from kernels.cpu.blocks import row_blocks
from kernels.cpu.dropout import keep_mask

QUERY_BLOCK = 128
SCORES_BYTES = 1024 * 1024  # of one block of scores, over several heads


def attention_forward(qkv, scale, dropout=0.0, seed=0):
    """qkv (B, T, 3, H, D) -> y (B, T, H, D), lse (B, H, T): the log-sum-exp of each row of scaled scores."""
    batch, time, _, heads, size = qkv.shape
    y = np.empty((batch, time, heads, size), qkv.dtype)
    lse = np.empty((batch, heads, time), qkv.dtype)
    outputs = y.swapaxes(1, 2)  # (B, H, T, D)
    for where, queries in _blocks(qkv):
        q, k, v = _heads(qkv[where], queries)
        s = _scores(q * qkv.dtype.type(scale), k, queries)  # (b, H, n, j)
        top = s.max(axis=-1, keepdims=True)
        s -= top
        p = np.exp(s, out=s)
        total = p.sum(axis=-1, keepdims=True)
        lse[where, :, queries] = (np.log(total) + top)[..., 0]
        if dropout:
            p *= _kept(where, queries, p, time, dropout, seed)
        # (b, H, n, j) @ (b, H, j, D): dividing the small result by the sum is cheaper than dividing p
        outputs[where, :, queries] = (p @ v) / total
    return y, lse


def attention_backward(g, qkv, y, lse, scale, dropout=0.0, seed=0):
    """g (B, T, H, D) -> gqkv (B, T, 3, H, D)."""
    time = qkv.shape[1]
    gqkv = np.zeros_like(qkv)
    delta = np.einsum("bthd,bthd->bht", g, y)[..., None]  # (B, H, T, 1)
    g = g.swapaxes(1, 2)  # (B, H, T, D)
    for where, queries in _blocks(qkv):
        q, k, v = _heads(qkv[where], queries)
        gq, gk, gv = _heads(gqkv[where], queries)
        q = q * qkv.dtype.type(scale)
        gy = g[where, :, queries]  # (b, H, n, D)
        p = _scores(q, k, queries)
        p -= lse[where, :, queries, None]
        np.exp(p, out=p)
        dp = gy @ v.swapaxes(-1, -2)  # (b, H, n, D) @ (b, H, D, j) -> (b, H, n, j)
        if dropout:
            kept = _kept(where, queries, p, time, dropout, seed)
            dp *= kept
            gv += (p * kept).swapaxes(-1, -2) @ gy
        else:
            gv += p.swapaxes(-1, -2) @ gy  # (b, H, j, n) @ (b, H, n, D) -> (b, H, j, D)
        dp -= delta[where, :, queries]
        dp *= p
        np.matmul(dp, k, out=gq)
        gq *= qkv.dtype.type(scale)
        gk += dp.swapaxes(-1, -2) @ q  # q is scaled already
    return gqkv


def _blocks(qkv):
    """(slice of B, slice of queries), for scores (b, H, n, j) of bounded size."""
    batch, time, _, heads, _ = qkv.shape
    rows = min(QUERY_BLOCK, time)
    for where in row_blocks(batch, heads * rows * time * qkv.itemsize, SCORES_BYTES):
        for start in range(0, time, QUERY_BLOCK):
            yield where, slice(start, min(start + QUERY_BLOCK, time))


def _heads(qkv, queries):
    """The block's queries (b, H, n, D), and the keys and values they may see (b, H, j, D), as views."""
    q, k, v = qkv.transpose(2, 0, 3, 1, 4)  # (b, T, 3, H, D) -> 3 x (b, H, T, D)
    return q[:, :, queries], k[:, :, : queries.stop], v[:, :, : queries.stop]


def _scores(q, k, queries):
    """q (b, H, n, D), k (b, H, j, D) -> (b, H, n, j), -inf where the key lies in the query's future."""
    s = q @ k.swapaxes(-1, -2)
    n = queries.stop - queries.start
    s[..., queries.start :] += np.triu(np.full((n, n), -np.inf, s.dtype), 1)
    return s


def _kept(where, queries, p, time, dropout, seed):
    """What dropout multiplies a block of probabilities p by: 0 or 1 / (1 - dropout), (b, H, n, j)."""
    _, heads, _, columns = p.shape
    head = np.arange(where.start * heads, where.stop * heads).reshape(-1, heads, 1)  # b H + h
    rows = head * time + np.arange(queries.start, queries.stop)  # (b, H, n)
    return keep_mask(seed, rows, columns, dropout) * p.dtype.type(1 / (1 - dropout))

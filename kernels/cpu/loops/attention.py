"""The loops of `kernels/cpu/attention.py`.

For each head, BLOCK_M queries at a time are multiplied with all keys up to the last of them, BLOCK_N keys per product,
so the scores of a block of queries are complete before their softmax. Keys are transposed and scaled once per head.
"""

from __future__ import annotations

import math

import numba
import numpy as np

from kernels.cpu.loops.dropout import dropout_factors
from kernels.cpu.loops.fastmath import ZERO, exp, f
from kernels.cpu.loops.jit import helper, loop
from kernels.cpu.loops.products import BLOCK_M, MAX_SMALL_PRODUCT, PADDING, product, scaled_copy, with_blas

# assuming that no element is NaN lets max vectorize; a NaN score still makes its row's sum NaN, and so y and lse
assume_no_nan = numba.njit(error_model="numpy", fastmath={"nnan", "nsz", "reassoc"})


@assume_no_nan
def maximum(x):
    """The maximum of x (n,), n at least 1."""
    row_max = x[0]
    for i in range(1, x.size):
        row_max = max(row_max, x[i])
    return row_max


@helper
def keys_per_product(size):
    """BLOCK_N: as many keys of `size` numbers as fit a product with BLOCK_M queries for which BLAS copies nothing."""
    return max(1, MAX_SMALL_PRODUCT // (BLOCK_M * size))


@helper
def compute_scores(q, kt, scores):
    """scores = q @ kt: (m, D) @ (D, j) -> (m, j)."""
    block_n = keys_per_product(kt.shape[0])
    for n in range(0, scores.shape[1], block_n):
        product(q, kt[:, n : n + block_n], scores[:, n : n + block_n], False)


@helper
def accumulate_output(p, v, y):
    """y = p @ v: (m, j) @ (j, D) -> (m, D)."""
    block_n = keys_per_product(v.shape[1])
    for n in range(0, p.shape[1], block_n):
        product(p[:, n : n + block_n], v[n : n + block_n], y, n > 0)


@helper
def accumulate_key_gradients(ds, q, gk):
    """gk += ds^T @ q: (m, j)^T @ (m, D) -> (j, D); and for the values, gv += p^T @ g."""
    block_n = keys_per_product(q.shape[1])
    for n in range(0, ds.shape[1], block_n):
        product(ds[:, n : n + block_n].T, q, gk[n : n + block_n], True)


@with_blas(loop)
def attention_forward_pass(qkv, part, options, y, lse):
    """qkv (B, T, H + 2 G, D); part, options: `Part`, `PassOptions` -> written to y (B, T, H, D) and lse (B, H, T)."""
    time, size, heads = qkv.shape[1], qkv.shape[3], y.shape[2]
    groups = (qkv.shape[2] - heads) // 2
    kt, scores = np.empty((size, time + PADDING), np.float32), np.empty((BLOCK_M, time + PADDING), np.float32)
    factors = np.ones(time, np.float32)
    for b in range(part.first_batch, part.end_batch):
        for h in range(part.first_head, part.end_head):
            key = heads + h * groups // heads
            value = key + groups
            scaled_copy(qkv[b, :, key].T, f(options.scale), kt)
            for start in range(0, time, BLOCK_M):
                stop = min(start + BLOCK_M, time)
                p = scores[: stop - start]  # all columns, so that numba knows that rows are contiguous
                compute_scores(qkv[b, start:stop, h], kt[:, :stop], p[:, :stop])
                for i in range(stop - start):
                    t = start + i
                    row_max, total = maximum(p[i, : t + 1]), ZERO
                    for j in range(stop):
                        e = exp(p[i, j] - row_max)
                        p[i, j] = e if j <= t else ZERO  # the causal mask
                        total += p[i, j]
                    lse[b, h, t] = math.log(total) + row_max
                    if options.p:
                        dropout_factors(options, (b * heads + h) * time + t, factors[:stop])
                    for j in range(stop):
                        p[i, j] *= factors[j] / total
                accumulate_output(p[:, :stop], qkv[b, :stop, value], y[b, start:stop, h])


@with_blas(loop)
def attention_backward_pass(g, qkv, part, options, saved, gqkv):
    """g (B, T, H, D), qkv (B, T, H + 2 G, D), saved: y (B, T, H, D), lse (B, H, T) -> written to gqkv, as qkv."""
    y, lse = saved
    time, size, heads = qkv.shape[1], qkv.shape[3], y.shape[2]
    groups = (qkv.shape[2] - heads) // 2
    kt, vt = np.empty((size, time + PADDING), np.float32), np.empty((size, time + PADDING), np.float32)
    p_rows, ds_rows = np.empty((BLOCK_M, time + PADDING), np.float32), np.empty((BLOCK_M, time + PADDING), np.float32)
    factors = np.ones(time, np.float32)
    for b in range(part.first_batch, part.end_batch):
        for h in range(part.first_head, part.end_head):
            key = heads + h * groups // heads
            value, shared = key + groups, h % (heads // groups) > 0  # with heads that were here before
            scaled_copy(qkv[b, :, key].T, f(options.scale), kt)
            scaled_copy(qkv[b, :, value].T, f(options.scale), vt)
            for start in range(0, time, BLOCK_M):
                stop = min(start + BLOCK_M, time)
                q, g_block = qkv[b, start:stop, h], g[b, start:stop, h]
                p, ds = p_rows[: stop - start], ds_rows[: stop - start]
                compute_scores(q, kt[:, :stop], p[:, :stop])
                compute_scores(g_block, vt[:, :stop], ds[:, :stop])  # dp, to begin with
                for i in range(stop - start):
                    t, delta = start + i, ZERO
                    for d in range(size):
                        delta += g[b, t, h, d] * y[b, t, h, d]
                    delta *= f(options.scale)
                    if options.p:
                        dropout_factors(options, (b * heads + h) * time + t, factors[:stop])
                    for j in range(stop):
                        e = exp(p[i, j] - lse[b, h, t])
                        e = e if j <= t else ZERO  # the causal mask
                        p[i, j] = e * factors[j]
                        ds[i, j] = e * (ds[i, j] * factors[j] - delta)
                accumulate_output(ds[:, :stop], qkv[b, :stop, key], gqkv[b, start:stop, h])
                # gk and gv of earlier blocks are added to; those of this block are written by the first head of a group
                accumulate_key_gradients(ds[:, :start], q, gqkv[b, :start, key])
                accumulate_key_gradients(p[:, :start], g_block, gqkv[b, :start, value])
                product(ds[:, start:stop].T, q, gqkv[b, start:stop, key], shared)
                product(p[:, start:stop].T, g_block, gqkv[b, start:stop, value], shared)

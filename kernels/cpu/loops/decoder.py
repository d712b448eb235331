"""The loop of `kernels/cpu/decoder.py`: all blocks of a GPT for the newest token of each text, by a team of threads.

It reads like the forward pass of `gpt/model`, for one token, with a barrier after each step whose result other threads
need. Shape letters: B texts, C channels, H heads of queries, G of keys and of values, D head size, F inner width.
"""

from __future__ import annotations

import numpy as np

from kernels.cpu.loops.cached_attention import attend
from kernels.cpu.loops.fastmath import ONE, exp
from kernels.cpu.loops.gelu import gelu_s
from kernels.cpu.loops.jit import helper, loop
from kernels.cpu.loops.layer_norm import layer_norm_pass
from kernels.cpu.loops.packed import packed_linear_pass
from kernels.cpu.loops.rms_norm import rms_norm_pass
from kernels.cpu.loops.rotary import rotary_pass
from kernels.cpu.loops.team import barrier, share
from kernels.cpu.threads import MEMBERS


@loop
def decode_blocks(x, blocks, cache, ends, table, scratch, team, member):
    """The member's share of all blocks, x (B, C) -> written to x, and to cache (2, L, B', G, S, D)."""
    normed, members = np.empty_like(x), team[MEMBERS]  # every thread norms for itself rather than wait for others
    qkv, y, fc, hidden, sums = scratch.qkv, scratch.y, scratch.fc, scratch.hidden, scratch.sums
    columns = share(x.shape[1], member, members)
    for layer in range(cache.shape[1]):
        keys, values = cache[0, layer], cache[1, layer]  # (B', G, S, D) each

        normalize(x, blocks.norm_1, layer, blocks.eps, blocks.rms, normed)
        linear(normed, blocks.qkv, layer, share(qkv.shape[1], member, members), qkv)
        barrier(team)
        store(qkv, keys, values, ends, table, member, members)
        barrier(team)
        attention(qkv, keys, values, ends, blocks.scale[layer], y, member, members)
        barrier(team)
        linear(y, blocks.attention_output, layer, columns, sums)
        add(sums, columns, x)
        barrier(team)

        normalize(x, blocks.norm_2, layer, blocks.eps, blocks.rms, normed)
        inner = share(hidden.shape[1], member, members)
        linear(normed, blocks.fc, layer, inner, fc)
        if blocks.gated:
            linear(normed, blocks.fc, layer, (hidden.shape[1] + inner[0], hidden.shape[1] + inner[1]), fc)
        activate(fc, blocks.gated, inner, hidden)
        barrier(team)
        linear(hidden, blocks.mlp_output, layer, columns, sums)
        add(sums, columns, x)
        barrier(team)


@helper
def of_layer(stacked, layer):
    """A layer's own of what is stacked over all layers, or None."""
    return None if stacked is None else stacked[layer]


@helper
def normalize(x, norm, layer, eps, rms, y):
    """The layer norm or RMS norm of x (B, C) -> written to y (B, C)."""
    if rms:
        rms_norm_pass(x, norm.weight[layer], eps, y)
    else:
        layer_norm_pass(x, norm.weight[layer], norm.bias[layer], eps, y, None)


@helper
def linear(x, stacked, layer, outputs, y):
    """Outputs `first` to `end` of the layer's product with x (B, I) -> written to y (B, O)."""
    first, end = outputs
    packed_linear_pass(x, stacked.values[layer], of_layer(stacked.scale, layer), first, end, y)
    for b in range(len(y)):
        for n in range(first, end):
            y[b, n] += stacked.bias[layer, n]


@helper
def add(sums, columns, x):
    """Some columns of x (B, C) += sums (B, C)."""
    for b in range(len(x)):
        for c in range(columns[0], columns[1]):
            x[b, c] += sums[b, c]


@helper
def store(qkv, keys, values, ends, table, member, members):
    """Rotate queries and keys of qkv (B, (H + 2 G) D), and add keys and values to the cache (B', G, S, D)."""
    groups, size = keys.shape[1], keys.shape[3]
    heads = qkv.shape[1] // size - 2 * groups
    shared = heads // groups
    first, end = share(len(qkv) * groups, member, members)
    for i in range(first, end):
        b, g, newest = i // groups, i % groups, ends[i // groups] - 1
        vectors = qkv[b].reshape(1, heads + 2 * groups, size)
        if len(table):
            rotary_pass(vectors[:, shared * g : shared * (g + 1)], table, shared, newest)
            rotary_pass(vectors[:, heads + g : heads + g + 1], table, 1, newest)
        keys[b, g, newest], values[b, g, newest] = vectors[0, heads + g], vectors[0, heads + groups + g]


@loop
def attention(qkv, keys, values, ends, scale, y, member, members):
    """The results of the member's share of all heads -> written to y (B, H D)."""
    groups, size = keys.shape[1], keys.shape[3]
    heads = y.shape[1] // size
    p = np.empty(ends.max(), np.float32)
    first, end = share(len(y) * heads, member, members)
    for i in range(first, end):
        (b, h), (after, h_after) = divmod(i, heads), divmod(min(i + 1, end - 1), heads)
        head, g = slice(h * size, (h + 1) * size), h * groups // heads
        following = keys[after, h_after * groups // heads, : ends[after]]
        attend(qkv[b, head], keys[b, g, : ends[b]], values[b, g, : ends[b]], following, scale, p, y[b, head])


@loop
def activate(fc, gated, columns, hidden):
    """GELU of fc (B, F), or SwiGLU of fc (B, 2 F) -> some columns of hidden (B, F)."""
    for b in range(len(fc)):
        for c in range(columns[0], columns[1]):
            x = fc[b, c]
            hidden[b, c] = x / (ONE + exp(-x)) * fc[b, hidden.shape[1] + c] if gated else x * gelu_s(x)

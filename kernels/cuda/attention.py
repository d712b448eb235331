"""Causal self-attention as `attention.cu` computes it: memory grows with T, not T^2.

Same functions as `kernels/cpu/attention.py`. This file picks the tile sizes; the algorithm is in the .cu file.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kernels import shapes
from kernels.cuda import attention_tensor
from kernels.cuda.dropout import dropout_args
from kernels.cuda.launch import SharedMemory, check, contiguous, device_namespace, launch, shared_memory
from kernels.dtypes import is_sixteen_bit
from kernels.options import NO_DROPOUT

# (BLOCK_M, BLOCK_N), best first: larger tiles read less memory per multiply-add.
BLOCK_SIZES = ((64, 64), (64, 32), (32, 32), (32, 16))


@dataclass(frozen=True)
class Plan:
    """The options of attention.cu for one kernel, and the launch they imply."""

    head: int  # the head size rounded up to a multiple of 32
    block_m: int  # rows that a thread block owns: queries, or keys in backward for the keys
    block_n: int  # rows of each tile that streams past
    owned: int  # tiles that a block owns: 1 in forward, 2 in backward

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return self.block_m // 4 * 16  # four rows of scores per thread, sixteen threads per row

    @property
    def shared(self) -> int:
        """Bytes of dynamic shared memory."""
        return 4 * (self.owned * self.block_m * self.head + self.block_n * self.head + self.block_m * self.block_n)

    @property
    def defines(self) -> dict[str, int]:
        """The macros of attention.cu."""
        return {"HEAD": self.head, "BLOCK_M": self.block_m, "BLOCK_N": self.block_n}


def plan(head_size: int, owned: int, memory: SharedMemory) -> Plan:
    """The largest tiles of which two blocks fit into a multiprocessor, so that one computes while the other loads."""
    plans = [Plan(-(-head_size // 32) * 32, block_m, block_n, owned) for block_m, block_n in BLOCK_SIZES]
    for candidate in plans:
        room = 2 * (candidate.shared + memory.reserved) <= memory.per_multiprocessor
        if room and candidate.shared <= memory.per_block:
            return candidate
    return plans[-1]


def attention_forward(qkv, scale, dropout=NO_DROPOUT, kv_heads=None):
    """qkv (B, T, 3, H, D) -> y (B, T, H, D), lse (B, H, T): the log-sum-exp of each row of scaled scores.

    kv_heads: G, of qkv (B, T, H + 2 G, D), which is how the first layout lies in memory, too.
    """
    B, T, H, G, D = _supported(shapes.check_attention(qkv, kv_heads))
    if is_sixteen_bit(qkv.dtype):
        if attention_tensor.takes(qkv):
            return attention_tensor.attention_forward(qkv, scale, dropout, kv_heads)
        y, lse = attention_forward(qkv.astype(np.float32), scale, dropout, kv_heads)
        return y.astype(qkv.dtype), lse
    xp = device_namespace(qkv)
    (qkv,) = contiguous(qkv)
    y = xp.empty((B, T, H, D), dtype=qkv.dtype)
    lse = xp.empty((B, H, T), dtype=qkv.dtype)
    if y.size:
        tiles = plan(D, 1, shared_memory(xp, qkv.device.id))
        _launch("attention_forward", tiles, B * H, T, (qkv, y, lse, T, H, G, D, scale, *dropout_args(dropout)))
    return y, lse


def attention_backward(g, qkv, y, lse, scale, dropout=NO_DROPOUT, kv_heads=None):
    """g (B, T, H, D) -> gqkv of the shape of qkv, given what `attention_forward` took and returned."""
    B, T, H, G, D = _supported(shapes.check_attention_backward(g, qkv, y, lse, kv_heads))
    if is_sixteen_bit(qkv.dtype):
        if attention_tensor.takes(qkv):
            return attention_tensor.attention_backward(g, qkv, y, lse, scale, dropout, kv_heads)
        wide = (array.astype(np.float32) for array in (g, qkv, y))
        return attention_backward(*wide, lse, scale, dropout, kv_heads).astype(qkv.dtype)
    xp = device_namespace(qkv)
    g, qkv, y, lse = contiguous(g, qkv, y, lse)
    gqkv, delta = xp.empty_like(qkv), xp.empty_like(lse)
    if not g.size:
        return gqkv
    tiles = plan(D, 2, shared_memory(xp, qkv.device.id))
    rows = B * T * H
    launch("attention.cu", "attention_delta", (-(-rows // 8),), (256,), (g, y, delta, rows, T, H, D), **tiles.defines)
    sizes = (T, H, G, D, scale, *dropout_args(dropout))
    _launch("attention_backward_queries", tiles, B * H, T, (g, qkv, lse, delta, gqkv, *sizes))
    if G == H:
        _launch("attention_backward_keys", tiles, B * H, T, (g, qkv, lse, delta, gqkv, H, 3 * H, *sizes))
        return gqkv
    gkv = xp.empty((B, T, 2 * H, D), dtype=qkv.dtype)
    _launch("attention_backward_keys", tiles, B * H, T, (g, qkv, lse, delta, gkv, 0, 2 * H, *sizes))
    gqkv[:, :, H:] = gkv.reshape(B, T, 2 * G, H // G, D).sum(axis=3)
    return gqkv


def _supported(sizes: tuple[int, int, int, int, int]) -> tuple[int, int, int, int, int]:
    """The same B, T, H, G, D, if D is not too large."""
    D = sizes[-1]
    check(D <= shapes.MAX_GPU_HEAD_SIZE, f"attention: head size {D}: must be at most {shapes.MAX_GPU_HEAD_SIZE}")
    return sizes


def _launch(kernel: str, tiles: Plan, heads: int, time: int, args: tuple) -> None:
    grid = (heads, -(-time // tiles.block_m))
    launch("attention.cu", kernel, grid, (tiles.threads,), args, shared=tiles.shared, **tiles.defines)

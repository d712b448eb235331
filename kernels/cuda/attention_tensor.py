"""Causal self-attention on tensor cores, as `attention_tensor_*.cu` compute it, for arrays of 16 bits.

Same functions as `attention.py`, for float16 and bfloat16 on GPUs of compute capability 8.0 and newer. This file picks
the tiles; the algorithm is in the .cu files.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from kernels import shapes
from kernels.cuda.dropout import dropout_args
from kernels.cuda.launch import check, contiguous, device_namespace, launch
from kernels.options import NO_DROPOUT

WARPS = 4  # to a block


@dataclass(frozen=True)
class TensorPlan:
    """The options of tensor_cores.cuh for one kernel, and the launch they imply."""

    kernel: str
    head: int  # the head size rounded up to 32, 64, 96 or 128
    m_tiles: int  # tiles of 16 rows that a warp owns
    block_n: int  # rows of each tile that streams past
    strip: int  # of them at a time
    blocks: int  # resident blocks for which registers are limited
    dropout: bool = False

    threads = 32 * WARPS

    @property
    def block_m(self) -> int:
        """Rows that a thread block owns."""
        return 16 * self.m_tiles * WARPS

    @property
    def shared(self) -> int:
        """Bytes of dynamic shared memory: two stages of two tiles, and what else each kernel keeps there."""
        kept = 0 if self.kernel == "attention_tensor_backward_queries" else self.block_m  # rows of queries, of values
        numbers = 6 * self.block_n if self.kernel == "attention_tensor_backward_keys" else 0  # of 4 bytes
        return 2 * (4 * self.block_n + kept) * self.head + 4 * numbers

    @property
    def defines(self) -> dict[str, int]:
        """The macros of tensor_cores.cuh."""
        return {
            "HEAD": self.head,
            "M_TILES": self.m_tiles,
            "BLOCK_N": self.block_n,
            "STRIP": self.strip,
            "BLOCKS": self.blocks,
            "DROPOUT": int(self.dropout),
        }


# kernel: by head size, (M_TILES, BLOCK_N, STRIP, BLOCKS): the best by analysis/issue.py that need no spilled registers
TILES = {
    "attention_tensor_forward": {32: (2, 64, 64, 2), 64: (2, 64, 64, 2), 96: (2, 32, 32, 2), 128: (2, 32, 32, 2)},
    "attention_tensor_backward_queries": {
        32: (2, 64, 32, 2),
        64: (2, 64, 16, 2),
        96: (1, 64, 32, 2),
        128: (1, 32, 32, 2),
    },
    "attention_tensor_backward_keys": {32: (2, 32, 32, 2), 64: (2, 32, 16, 2), 96: (1, 32, 32, 2), 128: (1, 32, 32, 2)},
}
# where the compiler needs more registers: compute capability 10.0 and newer
TILES_100 = {("attention_tensor_forward", 128): (2, 32, 16, 2), ("attention_tensor_backward_keys", 64): (1, 32, 32, 2)}


def plan(kernel: str, head_size: int, dropout: bool, architecture: int) -> TensorPlan:
    """How `kernel` is compiled for a head size and a compute capability, 80 for 8.0."""
    head = -(-head_size // 32) * 32
    tiles = TILES[kernel][head]
    if architecture >= 100:
        tiles = TILES_100.get((kernel, head), tiles)
    return TensorPlan(kernel, head, *tiles, dropout)


@functools.cache
def _architecture(xp, device: int) -> int:
    """A device's compute capability, 80 for 8.0."""
    return int(xp.cuda.Device(device).compute_capability)


def attention_forward(qkv, scale, dropout=NO_DROPOUT, kv_heads=None):
    """qkv (B, T, 3, H, D) -> y (B, T, H, D), float32 lse (B, H, T): the log-sum-exp of each row of scaled scores.

    kv_heads: G, of qkv (B, T, H + 2 G, D), which is how the first layout lies in memory, too.
    """
    B, T, H, G, D = _supported(qkv, scale, shapes.check_attention(qkv, kv_heads))
    xp = device_namespace(qkv)
    (qkv,) = contiguous(qkv)
    y = xp.empty((B, T, H, D), dtype=qkv.dtype)
    lse = xp.empty((B, H, T), dtype="float32")
    if y.size:
        sizes = (T, H, G, D, scale, *dropout_args(dropout))
        tiles = plan("attention_tensor_forward", D, dropout.p > 0, _architecture(xp, qkv.device.id))
        _launch(tiles, B * H, T, (qkv, y, lse, *sizes))
    return y, lse


def attention_backward(g, qkv, y, lse, scale, dropout=NO_DROPOUT, kv_heads=None):
    """g (B, T, H, D) -> gqkv of the shape of qkv, given what `attention_forward` took and returned."""
    B, T, H, G, D = _supported(qkv, scale, shapes.check_attention_backward(g, qkv, y, lse, kv_heads))
    xp = device_namespace(qkv)
    g, qkv, y, lse = contiguous(g, qkv, y, lse)
    gqkv, rows = xp.empty_like(qkv), xp.empty((B, H, T, 2), dtype="float32")
    if g.size:
        how, sizes = (dropout.p > 0, _architecture(xp, qkv.device.id)), (T, H, G, D, scale, *dropout_args(dropout))
        queries, keys = (plan(f"attention_tensor_backward_{name}", D, *how) for name in ("queries", "keys"))
        _launch(queries, B * H, T, (g, qkv, y, lse, rows, gqkv, *sizes))
        _launch(keys, B * G, T, (g, qkv, rows, gqkv, *sizes))
    return gqkv


def takes(qkv) -> bool:
    """Whether these kernels are for such an array: float16 or bfloat16, on compute capability 8.0 or newer."""
    return qkv.dtype.itemsize == 2 and _architecture(device_namespace(qkv), qkv.device.id) >= 80


def _supported(qkv, scale, sizes: tuple[int, int, int, int, int]) -> tuple[int, int, int, int, int]:
    """The same B, T, H, G, D, if the kernels can take them."""
    D = sizes[-1]
    check(D <= shapes.MAX_GPU_HEAD_SIZE, f"attention: head size {D}: must be at most {shapes.MAX_GPU_HEAD_SIZE}")
    check(takes(qkv), f"attention: qkv has dtype {qkv.dtype}: must be float16 or bfloat16, on a GPU from 8.0 on")
    check(scale > 0, f"attention: scale is {scale}: must be positive, for maxima of scores to be those of products")
    return sizes


def _launch(tiles: TensorPlan, heads: int, time: int, args: tuple) -> None:
    grid = (heads, -(-time // tiles.block_m))
    launch(f"{tiles.kernel}.cu", tiles.kernel, grid, (tiles.threads,), args, shared=tiles.shared, **tiles.defines)

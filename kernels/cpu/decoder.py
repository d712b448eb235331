"""All blocks of a GPT for the newest token of each of a few texts: a forward pass in one loop.

One token is little to compute: with a product of packed weights for each layer (`packed.py`), more time goes to calls
and to waking threads than to reading the weights. Here each thread runs through all blocks in compiled code
(`loops/decoder.py`), works on its share of every product, and meets the others at barriers. There is no NumPy pass
beside it: without numba, `gpt.model` does the same layer by layer.
Shape letters: L layers, B texts, C channels, H heads of queries, G of keys and of values, D head size, F inner width.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from kernels.cpu.compiled import loop_alone
from kernels.cpu.threads import run_alone, run_together

TEAM_BYTES = 2**22  # of a block's weights: fewer are read before several threads have met at its barriers


class Norm(NamedTuple):
    """The weights and biases of a norm, (L, C) each; zeros if it has none."""

    weight: np.ndarray
    bias: np.ndarray


class Linear(NamedTuple):
    """A linear layer's weights as in `Packed`: values (L, O, I), scale (L, O) or None; biases (L, O), zeros if none."""

    values: np.ndarray
    scale: np.ndarray | None
    bias: np.ndarray


class Blocks(NamedTuple):
    """The weights and settings of pre-norm blocks. rms: RMS norms; gated: SwiGLU, else GELU by tanh."""

    norm_1: Norm
    qkv: Linear  # O = (H + 2 G) D
    attention_output: Linear
    norm_2: Norm
    fc: Linear  # O = F, or 2 F if gated
    mlp_output: Linear
    scale: np.ndarray  # (L,), of attention scores
    eps: float
    rms: bool
    gated: bool


class Scratch(NamedTuple):
    """What one step of a block computes for the next."""

    qkv: np.ndarray  # (B, (H + 2 G) D)
    y: np.ndarray  # (B, H D)
    fc: np.ndarray  # (B, F or 2 F)
    hidden: np.ndarray  # (B, F)
    sums: np.ndarray  # (B, C)


def can_decode() -> bool:
    """Whether there are compiled loops, without which `decode` does not work."""
    return loop_alone("decode_blocks") is not None


def decode(x, blocks: Blocks, cache, ends, table):
    """x (B, C), the embeddings of the newest tokens -> what the last block gives, (B, C), in place.

    cache (2, L, B', G, S, D): keys and values of at least B texts, to which theirs are added; ends (B,): how many
    tokens each text has with the new one; table (S, 2, R/2): rotary positions as in `rotary.py`, or empty.
    """
    layers = blocks.qkv, blocks.attention_output, blocks.fc, blocks.mlp_output
    qkv, output, fc, mlp_output = (layer.values.shape[1:] for layer in layers)  # (O, I) each
    widths = qkv[0], output[1], fc[0], mlp_output[1], x.shape[1]
    scratch = Scratch(*(np.empty((len(x), width), np.float32) for width in widths))
    run = loop_alone("decode_blocks")
    start = run_together if sum(layer.values[0].nbytes for layer in layers) >= TEAM_BYTES else run_alone
    start(lambda team, member: run(x, blocks, cache, ends, table, scratch, team, member))
    return x

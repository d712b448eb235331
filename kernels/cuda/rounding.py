"""Copies of many tensors in 16 bits, rounded in one launch, as `rounding.cu` does it.

Same function as `kernels/cpu/rounding.py`.
"""

from __future__ import annotations

from kernels import shapes
from kernels.cuda.launch import STORAGE, launch
from kernels.cuda.tensors import make_table

BLOCK_VALUES = 4096  # of rounding.cu


def round_tensors(tensors, copies):
    """Write float32 tensors to copies of their shapes, all float16 or all bfloat16; all contiguous."""
    shapes.check_round_tensors(tensors, copies)
    pairs = [(x, y) for x, y in zip(tensors, copies, strict=True) if x.size]
    if pairs:
        table = make_table([*zip(*pairs, strict=True)], BLOCK_VALUES)
        args = (*table.addresses, table.sizes, table.first_blocks, table.tensors)
        launch("rounding.cu", "round_tensors", (table.blocks,), (256,), args, **STORAGE[copies[0].dtype.name])

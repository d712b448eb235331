"""The AdamW update of many parameters in one launch, as `adamw.cu` does it.

Same function as `kernels/cpu/adamw.py`.
"""

from __future__ import annotations

import math

from kernels import shapes
from kernels.cuda.launch import contiguous, device_namespace, launch
from kernels.cuda.tensors import make_table

BLOCK_VALUES = 4096  # of adamw.cu


def adamw_update(params, grads, ms, vs, options):
    """Change params, ms and vs, lists of contiguous arrays, in place, as `AdamWOptions` says; grads are like them."""
    shapes.check_adamw(params, grads, ms, vs, options.grad_scale)
    of_each = [arrays for arrays in zip(params, contiguous(*grads), ms, vs, strict=True) if arrays[0].size]
    if not of_each:
        return
    on_device = isinstance(options.grad_scale, device_namespace(params[0]).ndarray)
    kernel = "adamw_update_scaled_on_device" if on_device else "adamw_update"
    decay, beta1, beta2 = 1 - options.lr * options.weight_decay, options.beta1, options.beta2
    rate, v_scale = options.lr / (1 - beta1**options.step), 1 / math.sqrt(1 - beta2**options.step)
    coefficients = (decay, rate, v_scale, beta1, 1 - beta1, beta2, 1 - beta2, options.eps)
    table = make_table([*zip(*of_each, strict=True)], BLOCK_VALUES)
    args = (*table.addresses, table.sizes, table.first_blocks, table.tensors, options.grad_scale, *coefficients)
    launch("adamw.cu", kernel, (table.blocks,), (256,), args)

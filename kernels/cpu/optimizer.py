"""The AdamW update of one parameter, in one pass over cache-sized pieces.

Floor 0.
"""

from __future__ import annotations

import math

import numpy as np

from kernels.cpu.blocks import for_blocks
from kernels.cpu.compiled import compiled


def adamw_update(param, grad, m, v, lr, beta1, beta2, eps, weight_decay, step, grad_scale):
    """Change param, m and v (contiguous, of one shape) in place; `step` counts from 1.

    With g = grad_scale * grad: m = beta1 m + (1 - beta1) g, v = beta2 v + (1 - beta2) g^2 and
    param = param (1 - lr weight_decay) - lr (m / c1) / (sqrt(v / c2) + eps), c = 1 - beta^step.
    """
    if not param.shape == grad.shape == m.shape == v.shape:
        raise ValueError(f"adamw_update: shapes {param.shape}, {grad.shape}, {m.shape} and {v.shape} must be the same")
    if not (param.flags.c_contiguous and m.flags.c_contiguous and v.flags.c_contiguous):
        raise ValueError("adamw_update: param, m and v must be contiguous to be changed in place")
    correction = math.sqrt(1 - beta2**step)
    rate = lr / (1 - beta1**step) * correction
    eps *= correction  # the bias correction of v, taken out of the root
    arrays = [a.reshape(-1) for a in (param, grad, m, v)]
    numbers = [float(n) for n in (grad_scale, beta1, beta2, 1 - lr * weight_decay, rate, eps)]

    def work(block):
        adamw_pass(*(a[block] for a in arrays), *numbers)

    for_blocks(work, param.size, param.itemsize)


@compiled
def adamw_pass(param, grad, m, v, grad_scale, beta1, beta2, keep, rate, eps):
    """Change param, m and v (n,): m and v as above, param = keep param - rate m / (sqrt(v) + eps)."""
    g = grad * grad.dtype.type(grad_scale)
    m *= beta1
    m += (1 - beta1) * g
    g *= g
    g *= 1 - beta2
    v *= beta2
    v += g
    denominator = np.sqrt(v, out=g)
    denominator += eps
    update = np.divide(m, denominator, out=denominator)
    update *= rate
    param *= keep
    param -= update

"""The AdamW update of parameters, each in one pass over cache-sized pieces."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from kernels import shapes
from kernels.cpu.blocks import for_blocks
from kernels.cpu.compiled import compiled


class Coefficients(NamedTuple):
    """What is the same for all elements of a step, all Python floats."""

    grad_scale: float
    beta1: float
    beta2: float
    decay: float
    rate: float
    eps: float


def adamw_update(params, grads, ms, vs, options):
    """Change params, ms and vs, lists of contiguous arrays, in place, as `AdamWOptions` says; grads are like them.

    With g = grad_scale * grad: m = beta1 m + (1 - beta1) g, v = beta2 v + (1 - beta2) g^2 and
    param = param (1 - lr weight_decay) - lr (m / c1) / (sqrt(v / c2) + eps), c = 1 - beta^step.
    """
    shapes.check_adamw(params, grads, ms, vs, options.grad_scale)
    correction = math.sqrt(1 - options.beta2**options.step)
    rate = options.lr / (1 - options.beta1**options.step) * correction
    decay, eps = 1 - options.lr * options.weight_decay, options.eps * correction  # v's correction, out of the root
    numbers = options.grad_scale, options.beta1, options.beta2, decay, rate, eps
    coefficients = Coefficients._make(map(float, numbers))
    for of_one in zip(params, grads, ms, vs, strict=True):
        _update(*[a.reshape(-1) for a in of_one], coefficients)


def _update(param, grad, m, v, coefficients):
    """The update of one parameter (n,), in blocks."""
    arrays = param, grad, m, v
    for_blocks(lambda block: adamw_pass(*[a[block] for a in arrays], coefficients), param.size, param.itemsize)


@compiled
def adamw_pass(param, grad, m, v, coefficients):
    """Change param, m and v (n,): m and v as above, param = decay param - rate m / (sqrt(v) + eps)."""
    grad_scale, beta1, beta2, decay, rate, eps = coefficients
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
    param *= decay
    param -= update

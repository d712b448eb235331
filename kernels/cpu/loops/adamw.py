"""The loop of `kernels/cpu/adamw.py`."""

from __future__ import annotations

import math

from kernels.cpu.loops.fastmath import f
from kernels.cpu.loops.jit import loop


@loop
def adamw_pass(param, grad, m, v, coefficients):
    """Change param, m and v (n,) in place, given grad (n,) and `Coefficients`."""
    c = coefficients
    grad_scale, decay, rate, eps = f(c.grad_scale), f(c.decay), f(c.rate), f(c.eps)
    beta1, beta2 = f(c.beta1), f(c.beta2)
    one_minus_beta1, one_minus_beta2 = f(1 - c.beta1), f(1 - c.beta2)  # rounded last: beta2 may be close to 1
    for i in range(param.size):
        g = grad[i] * grad_scale
        m[i] = beta1 * m[i] + one_minus_beta1 * g
        v[i] = beta2 * v[i] + one_minus_beta2 * g * g
        param[i] = decay * param[i] - rate * m[i] / (math.sqrt(v[i]) + eps)

"""The AdamW update of one parameter in one pass, as `adamw.cu` does it.

Same function as `kernels/cpu/adamw.py`.
"""

from __future__ import annotations

import math

from kernels import shapes
from kernels.cuda.launch import contiguous, device_namespace, launch_elements


def adamw_update(param, grad, m, v, options):
    """Change param, m and v (contiguous, of one shape) in place, as `AdamWOptions` says."""
    shapes.check_adamw(param, grad, m, v, options.grad_scale)
    (grad,) = contiguous(grad)
    if not param.size:
        return
    on_device = isinstance(options.grad_scale, device_namespace(param).ndarray)
    kernel = "adamw_update_scaled_on_device" if on_device else "adamw_update"
    decay, beta1, beta2 = 1 - options.lr * options.weight_decay, options.beta1, options.beta2
    rate, v_scale = options.lr / (1 - beta1**options.step), 1 / math.sqrt(1 - beta2**options.step)
    coefficients = (decay, rate, v_scale, beta1, 1 - beta1, beta2, 1 - beta2, options.eps)
    args = (param, grad, m, v, param.size, options.grad_scale, *coefficients)
    launch_elements("adamw.cu", kernel, param.size, args)

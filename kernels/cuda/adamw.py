"""The AdamW update of one parameter in one pass, as `adamw.cu` does it.

Floor 0. Same function as `kernels/cpu/optimizer.py`.
"""

from __future__ import annotations

import math

from kernels.cuda.launch import array_module, check, launch_elements


def adamw_update(param, grad, m, v, lr, beta1, beta2, eps, weight_decay, step, grad_scale):
    """Change param, m and v (contiguous, of one shape) in place; `step` counts from 1.

    grad_scale: a number, or a float32 array () on the device, which is then never copied to the host.
    """
    check(param.shape == grad.shape == m.shape == v.shape, f"adamw_update: param {param.shape} and its arrays differ")
    check(step >= 1, f"adamw_update: step {step}: counts from 1")
    if not param.size:
        return
    on_device = isinstance(grad_scale, array_module(param).ndarray)
    kernel = "adamw_update_scaled_on_device" if on_device else "adamw_update"
    rate, spread = lr / (1 - beta1**step), 1 / math.sqrt(1 - beta2**step)
    settings = (1 - lr * weight_decay, rate, spread, beta1, 1 - beta1, beta2, 1 - beta2, eps)
    launch_elements("adamw.cu", kernel, param.size, (param, grad, m, v, param.size, grad_scale, *settings))

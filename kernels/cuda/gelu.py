"""GELU in its tanh form, as `gelu.cu` computes it.

Same functions as `kernels/cpu/gelu.py`.
"""

from __future__ import annotations

from kernels import shapes
from kernels.cuda.launch import contiguous, device_namespace, launch_elements


def gelu_forward(x):
    """x of any shape -> y = gelu(x)."""
    shapes.check_gelu(x)
    (x,) = contiguous(x)
    y = device_namespace(x).empty_like(x)
    if x.size:
        launch_elements("gelu.cu", "gelu_forward", x.size, (x, y, x.size))
    return y


def gelu_backward(g, x):
    """g, x of one shape -> gx = g ((1 + t) / 2 + x (1 - t^2) u' / 2); see gelu.cu."""
    shapes.check_gelu_backward(g, x)
    g, x = contiguous(g, x)
    gx = device_namespace(x).empty_like(x)
    if x.size:
        launch_elements("gelu.cu", "gelu_backward", x.size, (g, x, gx, x.size))
    return gx

"""GELU in its tanh form, as `gelu.cu` computes it.

Same functions as `kernels/cpu/gelu.py`.
"""

from __future__ import annotations

from kernels import shapes
from kernels.cuda.launch import array_module, contiguous, launch_elements


def gelu_forward(x):
    """y of the same shape, elementwise."""
    shapes.check_gelu(x)
    (x,) = contiguous(x)
    y = array_module(x).empty_like(x)
    if x.size:
        launch_elements("gelu.cu", "gelu_forward", x.size, (x, y, x.size))
    return y


def gelu_backward(g, x):
    """gx = g ((1 + t) / 2 + x (1 - t^2) u' / 2); see gelu.cu."""
    shapes.check_gelu_backward(g, x)
    g, x = contiguous(g, x)
    gx = array_module(x).empty_like(x)
    if x.size:
        launch_elements("gelu.cu", "gelu_backward", x.size, (g, x, gx, x.size))
    return gx

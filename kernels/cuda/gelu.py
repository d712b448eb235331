"""GELU in its tanh form, as `gelu.cu` computes it.

Floor 0. Same functions as `kernels/cpu/gelu.py`.
"""

from __future__ import annotations

from kernels.cuda.launch import array_module, check, contiguous, launch_elements


def gelu_forward(x):
    """y of the same shape, elementwise."""
    (x,) = contiguous(x)
    y = array_module(x).empty_like(x)
    if x.size:
        launch_elements("gelu.cu", "gelu_forward", x.size, (x, y, x.size))
    return y


def gelu_backward(g, x):
    """gx = g ((1 + t) / 2 + x (1 - t^2) u' / 2); see gelu.cu."""
    check(g.shape == x.shape, f"gelu_backward: g has shape {g.shape}, and x {x.shape}")
    g, x = contiguous(g, x)
    gx = array_module(x).empty_like(x)
    if x.size:
        launch_elements("gelu.cu", "gelu_backward", x.size, (g, x, gx, x.size))
    return gx

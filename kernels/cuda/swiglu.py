"""SwiGLU, as `swiglu.cu` computes it.

Same functions as `kernels/cpu/swiglu.py`.
"""

from __future__ import annotations

from kernels import shapes
from kernels.cuda.launch import contiguous, device_namespace, launch_elements


def swiglu_forward(x):
    """x (..., 2 F): the halves a and b -> y = a s b (..., F)."""
    shapes.check_swiglu(x)
    (x,) = contiguous(x)
    y = device_namespace(x).empty((*x.shape[:-1], x.shape[-1] // 2), dtype=x.dtype)
    if y.size:
        launch_elements("swiglu.cu", "swiglu_forward", y.size, (x, y, y.size, y.shape[-1]))
    return y


def swiglu_backward(g, x):
    """g (..., F), x (..., 2 F) -> gx (..., 2 F): ga = g b s (1 + a (1 - s)), gb = g a s."""
    shapes.check_swiglu_backward(g, x)
    g, x = contiguous(g, x)
    gx = device_namespace(x).empty_like(x)
    if g.size:
        launch_elements("swiglu.cu", "swiglu_backward", g.size, (g, x, gx, g.size, g.shape[-1]))
    return gx

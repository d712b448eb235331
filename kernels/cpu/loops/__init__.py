"""The passes over blocks that take NumPy many calls, as loops that numba compiles.

Each has the name and signature of the NumPy pass that it replaces, which documents it; `kernels/cpu/compiled.py`
chooses between them. They take only float32 and check no shapes; the primitives have. Three habits make them fast.
Constants are float32, as a Python float would make a whole loop float64, half as fast. A row's sum is a local variable,
so that it stays in a register. And a loop releases the GIL.
Read `softmax.py` first, then `fastmath.py`; `products.py` before `attention.py`.
"""

from kernels.cpu.loops.adamw import adamw_pass
from kernels.cpu.loops.attention import attention_backward_pass, attention_forward_pass
from kernels.cpu.loops.cached_attention import cached_attention_pass
from kernels.cpu.loops.decoder import decode_blocks
from kernels.cpu.loops.dropout import keep_pass
from kernels.cpu.loops.gelu import gelu_backward_pass, gelu_pass
from kernels.cpu.loops.layer_norm import layer_norm_backward_pass, layer_norm_pass
from kernels.cpu.loops.muon import muon_pass
from kernels.cpu.loops.packed import packed_linear_pass
from kernels.cpu.loops.products import product_pass
from kernels.cpu.loops.rms_norm import rms_norm_backward_pass, rms_norm_pass
from kernels.cpu.loops.rotary import rotary_pass
from kernels.cpu.loops.softmax import softmax_pass
from kernels.cpu.loops.swiglu import swiglu_backward_pass, swiglu_pass
from kernels.cpu.loops.vectors import LANES

__all__ = [
    "LANES",
    "adamw_pass",
    "attention_backward_pass",
    "attention_forward_pass",
    "cached_attention_pass",
    "decode_blocks",
    "gelu_backward_pass",
    "gelu_pass",
    "keep_pass",
    "layer_norm_backward_pass",
    "layer_norm_pass",
    "muon_pass",
    "packed_linear_pass",
    "product_pass",
    "rms_norm_backward_pass",
    "rms_norm_pass",
    "rotary_pass",
    "softmax_pass",
    "swiglu_backward_pass",
    "swiglu_pass",
]

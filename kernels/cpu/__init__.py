"""The fused primitives in NumPy.

NumPy is fast when arrays stay in the cache, nothing is allocated twice and large products go to BLAS, so
these functions work through their rows in cache-sized blocks (`blocks.py`) and write into place with `out=`.
Where numba is installed, the busiest passes over a block run as compiled loops instead (`compiled.py`, `loops/`).
`kernels.cuda` has the same functions for the GPU. Inputs are changed only where a function says so, and results
keep the input's dtype.
Read `softmax.py` first, `attention.py` last, then `loops/`.
"""

from kernels.cpu.adamw import adamw_update
from kernels.cpu.attention import attention_backward, attention_forward
from kernels.cpu.cached_attention import cached_attention_forward
from kernels.cpu.cross_entropy import cross_entropy_backward, cross_entropy_forward, linear_cross_entropy
from kernels.cpu.dropout import dropout
from kernels.cpu.embedding import embedding_backward
from kernels.cpu.gelu import gelu_backward, gelu_forward
from kernels.cpu.gelu_linear import gelu_linear_backward, gelu_linear_forward
from kernels.cpu.layer_norm import add_layer_norm_forward, layer_norm_backward, layer_norm_forward
from kernels.cpu.linear import bias_add, bias_add_backward, linear_backward, linear_forward, sum_rows
from kernels.cpu.muon import muon_update
from kernels.cpu.norm import gradient_norm
from kernels.cpu.rms_norm import rms_norm_backward, rms_norm_forward
from kernels.cpu.rotary import rotary
from kernels.cpu.rounding import round_tensors
from kernels.cpu.softmax import log_softmax_backward, log_softmax_forward, softmax_backward, softmax_forward
from kernels.cpu.swiglu import swiglu_backward, swiglu_forward

__all__ = [
    "adamw_update",
    "add_layer_norm_forward",
    "attention_backward",
    "attention_forward",
    "bias_add",
    "bias_add_backward",
    "cached_attention_forward",
    "cross_entropy_backward",
    "cross_entropy_forward",
    "dropout",
    "embedding_backward",
    "gelu_backward",
    "gelu_forward",
    "gelu_linear_backward",
    "gelu_linear_forward",
    "gradient_norm",
    "layer_norm_backward",
    "layer_norm_forward",
    "linear_backward",
    "linear_cross_entropy",
    "linear_forward",
    "log_softmax_backward",
    "log_softmax_forward",
    "muon_update",
    "rms_norm_backward",
    "rms_norm_forward",
    "rotary",
    "round_tensors",
    "softmax_backward",
    "softmax_forward",
    "sum_rows",
    "swiglu_backward",
    "swiglu_forward",
]

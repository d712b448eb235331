"""The fused primitives as CUDA C, run by CuPy on a GPU or by the emulator on a CPU.

The same functions as `kernels.cpu`, on float32, float16 or bfloat16 arrays, all of a call the same; what is summed over
many elements (log-sum-exps, losses, statistics of norms, gradients of parameters) is float32. Each `.cu` file is
complete and begins with its derivation; the `.py` file of the same name checks shapes and launches. Read `softmax.cu`,
then `attention.cu`, then `launch.py`; `docs/cuda.md` explains, `docs/precision.md` what training in 16 bits is, and
`kernels.cuda.analysis` shows what the kernels use on each architecture.

CuPy compiles every kernel, these and its own, with `-ftz=true`: on a GPU, denormal float32 numbers (below 1.18e-38) are
flushed to zero wherever a kernel reads or produces them. A probability or gradient that small is therefore exactly 0
there, and a denormal on the CPU and in the emulator; nothing may rely on either.
"""

from kernels.cuda.adamw import adamw_update
from kernels.cuda.attention import attention_backward, attention_forward
from kernels.cuda.cached_attention import cached_attention_forward
from kernels.cuda.cross_entropy import cross_entropy_backward, cross_entropy_forward, linear_cross_entropy
from kernels.cuda.dropout import dropout
from kernels.cuda.embedding import embedding_backward
from kernels.cuda.gelu import gelu_backward, gelu_forward
from kernels.cuda.gelu_linear import gelu_linear_backward, gelu_linear_forward
from kernels.cuda.layer_norm import add_layer_norm_forward, layer_norm_backward, layer_norm_forward
from kernels.cuda.linear import bias_add, bias_add_backward, linear_backward, linear_forward, sum_rows
from kernels.cuda.muon import muon_update
from kernels.cuda.norm import gradient_norm
from kernels.cuda.rms_norm import rms_norm_backward, rms_norm_forward
from kernels.cuda.rotary import rotary
from kernels.cuda.rounding import round_tensors
from kernels.cuda.softmax import log_softmax_backward, log_softmax_forward, softmax_backward, softmax_forward
from kernels.cuda.swiglu import swiglu_backward, swiglu_forward

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

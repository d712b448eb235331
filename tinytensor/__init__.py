"""tinytensor: NumPy or CuPy arrays with gradients, made to be read.

    import tinytensor as tt

    w = tt.randn(3, 1, requires_grad=True)
    loss = ((tt.ones(5, 3) @ w - 1) ** 2).mean()
    loss.backward()
    w.grad

Imports go one way, lowest first: `backend.py`, `random.py` and `tensor.py` (the engine); `ops/` (one Function for each
operation); `methods.py` and `creation.py`; `nn.py`, `optim/`, `parallel/`, `gradcheck.py` and `draw.py`. Below all of
it are the fused primitives of `kernels`. Read `tensor.py` first.
"""

from tinytensor import methods as methods  # gives Tensor its methods
from tinytensor import nn, optim
from tinytensor.backend import Device, DeviceError, array_module, device, kernels_for, to_numpy
from tinytensor.creation import (
    arange,
    empty,
    empty_like,
    eye,
    from_numpy,
    full,
    full_like,
    linspace,
    logspace,
    multinomial,
    ones,
    ones_like,
    rand,
    rand_like,
    randint,
    randint_like,
    randn,
    randn_like,
    tensor,
    zeros,
    zeros_like,
)
from tinytensor.draw import draw
from tinytensor.gradcheck import GradientMismatch, gradcheck
from tinytensor.ops.elementwise import (
    abs,
    add,
    cast,
    clip,
    div,
    exp,
    gelu,
    log,
    masked_fill,
    maximum,
    minimum,
    mul,
    neg,
    pow,
    relu,
    sigmoid,
    sqrt,
    sub,
    tanh,
    where,
)
from tinytensor.ops.fused import (
    causal_attention,
    cross_entropy,
    dropout,
    embedding,
    gelu_linear,
    layer_norm,
    linear,
    linear_cross_entropy,
    log_softmax,
    packed_causal_attention,
    softmax,
)
from tinytensor.ops.linalg import matmul
from tinytensor.ops.reduce import all, any, argmax, argmin, argsort, logsumexp, max, mean, min, std, sum, var
from tinytensor.ops.shape import (
    concat,
    expand,
    flatten,
    getitem,
    permute,
    reshape,
    split,
    squeeze,
    stack,
    swapaxes,
    transpose,
    tril,
    triu,
    unsqueeze,
)
from tinytensor.optim import clip_grad_norm_, clip_scale, cosine_schedule, grad_norm
from tinytensor.random import batch_rows, fold, manual_seed, random_generator, seeded
from tinytensor.tensor import Function, ScatterAdd, Tensor, is_grad_enabled, no_grad

__version__ = "0.1.0"

__version__ = "0.1.0"

cat = concat

# what `from tinytensor import *` brings: nothing that hides a builtin (tt.sum, tt.max and the like need the prefix)
__all__ = [
    "Device",
    "DeviceError",
    "Function",
    "GradientMismatch",
    "ScatterAdd",
    "Tensor",
    "add",
    "arange",
    "argmax",
    "argmin",
    "argsort",
    "array_module",
    "batch_rows",
    "cast",
    "cat",
    "causal_attention",
    "clip",
    "clip_grad_norm_",
    "clip_scale",
    "concat",
    "cosine_schedule",
    "cross_entropy",
    "device",
    "div",
    "draw",
    "dropout",
    "embedding",
    "empty",
    "empty_like",
    "exp",
    "expand",
    "eye",
    "flatten",
    "fold",
    "from_numpy",
    "full",
    "full_like",
    "gelu",
    "gelu_linear",
    "getitem",
    "grad_norm",
    "gradcheck",
    "is_grad_enabled",
    "kernels_for",
    "layer_norm",
    "linear",
    "linear_cross_entropy",
    "linspace",
    "log",
    "log_softmax",
    "logspace",
    "logsumexp",
    "manual_seed",
    "masked_fill",
    "matmul",
    "maximum",
    "mean",
    "minimum",
    "mul",
    "multinomial",
    "neg",
    "nn",
    "no_grad",
    "ones",
    "ones_like",
    "optim",
    "packed_causal_attention",
    "permute",
    "rand",
    "rand_like",
    "randint",
    "randint_like",
    "randn",
    "randn_like",
    "random_generator",
    "relu",
    "reshape",
    "seeded",
    "sigmoid",
    "softmax",
    "split",
    "sqrt",
    "squeeze",
    "stack",
    "std",
    "sub",
    "swapaxes",
    "tanh",
    "tensor",
    "to_numpy",
    "transpose",
    "tril",
    "triu",
    "unsqueeze",
    "var",
    "where",
    "zeros",
    "zeros_like",
]

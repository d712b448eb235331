"""tinytensor: NumPy or CuPy arrays with gradients, made to be read.

    import tinytensor as tt

    w = tt.randn(3, 1, requires_grad=True)
    loss = ((tt.ones(5, 3) @ w - 1) ** 2).mean()
    loss.backward()
    w.grad

Imports go one way, lowest first: `backend.py`, `random.py` and `tensor.py` (the engine); `ops/` (one Function for each
operation); `methods.py` and `creation.py`; `nn/`, `optim/`, `parallel/`, `gradcheck.py` and `draw.py`. Below all of
it are the fused primitives of `kernels`. Read `tensor.py` first.
"""

from numpy import bool_ as bool
from numpy import float16, float32, float64, int32, int64, uint8
from numpy import float32 as float
from numpy import float64 as double
from numpy import int32 as int
from numpy import int64 as long

from tinytensor import cuda, nn, optim
from tinytensor import methods as methods  # gives Tensor its methods
from tinytensor.backend import Device, DeviceError, array_module, device, kernels_for, to_numpy
from tinytensor.creation import (
    LongTensor,
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
    one_hot,
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
from tinytensor.ops.activations import (
    erf,
    gelu,
    relu,
    sigmoid,
    silu,
    softplus,
)
from tinytensor.ops.attention import (
    causal_attention,
    packed_causal_attention,
    scaled_dot_product_attention,
)
from tinytensor.ops.einsum import (
    einsum,
)
from tinytensor.ops.elementwise import (
    abs,
    add,
    cast,
    clamp,
    clip,
    cos,
    div,
    exp,
    log,
    masked_fill,
    maximum,
    minimum,
    mul,
    neg,
    pow,
    remainder,
    sin,
    sqrt,
    square,
    sub,
    tanh,
    where,
)
from tinytensor.ops.fused import (
    add_layer_norm,
    bias_add,
    dropout,
    embedding,
    gelu_linear,
    layer_norm,
    linear,
    log_softmax,
    rms_norm,
    softmax,
    swiglu_linear,
)
from tinytensor.ops.indexing import (
    gather,
    getitem,
)
from tinytensor.ops.linalg import (
    matmul,
)
from tinytensor.ops.logic import (
    allclose,
    bitwise_and,
    bitwise_not,
    bitwise_or,
    bitwise_xor,
    floor_divide,
    isfinite,
    isnan,
)
from tinytensor.ops.losses import (
    cross_entropy,
    linear_cross_entropy,
    mse_loss,
)
from tinytensor.ops.order import (
    argmax,
    argmin,
    argsort,
    sort,
    topk,
)
from tinytensor.ops.reduce import (
    all,
    any,
    logsumexp,
    max,
    mean,
    min,
    norm,
    prod,
    std,
    sum,
    var,
)
from tinytensor.ops.rotary import (
    rotary,
)
from tinytensor.ops.scan import (
    cumprod,
    cumsum,
)
from tinytensor.ops.shape import (
    chunk,
    concat,
    contiguous,
    expand,
    flatten,
    flip,
    pad,
    permute,
    repeat,
    reshape,
    roll,
    split,
    squeeze,
    stack,
    swapaxes,
    transpose,
    tril,
    triu,
    unbind,
    unsqueeze,
)
from tinytensor.optim import clip_grad_norm_, clip_scale, cosine_schedule, grad_norm
from tinytensor.random import Generator, batch_rows, fold, manual_seed, random_generator, seeded
from tinytensor.tensor import Function, ScatterAdd, Tensor, is_grad_enabled, no_grad

__version__ = "0.2.0"

cat = concat

# what `from tinytensor import *` brings: nothing that hides a builtin (tt.sum, tt.max and the like need the prefix)
__all__ = [
    "Device",
    "DeviceError",
    "Function",
    "Generator",
    "GradientMismatch",
    "LongTensor",
    "ScatterAdd",
    "Tensor",
    "add",
    "add_layer_norm",
    "allclose",
    "arange",
    "argmax",
    "argmin",
    "argsort",
    "array_module",
    "batch_rows",
    "bias_add",
    "bitwise_and",
    "bitwise_not",
    "bitwise_or",
    "bitwise_xor",
    "cast",
    "cat",
    "causal_attention",
    "chunk",
    "clamp",
    "clip",
    "clip_grad_norm_",
    "clip_scale",
    "concat",
    "contiguous",
    "cos",
    "cosine_schedule",
    "cross_entropy",
    "cuda",
    "cumprod",
    "cumsum",
    "device",
    "div",
    "double",
    "draw",
    "dropout",
    "einsum",
    "embedding",
    "empty",
    "empty_like",
    "erf",
    "exp",
    "expand",
    "eye",
    "flatten",
    "flip",
    "float16",
    "float32",
    "float64",
    "floor_divide",
    "fold",
    "from_numpy",
    "full",
    "full_like",
    "gather",
    "gelu",
    "gelu_linear",
    "getitem",
    "grad_norm",
    "gradcheck",
    "int32",
    "int64",
    "is_grad_enabled",
    "isfinite",
    "isnan",
    "kernels_for",
    "layer_norm",
    "linear",
    "linear_cross_entropy",
    "linspace",
    "log",
    "log_softmax",
    "logspace",
    "logsumexp",
    "long",
    "manual_seed",
    "masked_fill",
    "matmul",
    "maximum",
    "mean",
    "minimum",
    "mse_loss",
    "mul",
    "multinomial",
    "neg",
    "nn",
    "no_grad",
    "norm",
    "one_hot",
    "ones",
    "ones_like",
    "optim",
    "packed_causal_attention",
    "pad",
    "permute",
    "prod",
    "rand",
    "rand_like",
    "randint",
    "randint_like",
    "randn",
    "randn_like",
    "random_generator",
    "relu",
    "remainder",
    "repeat",
    "reshape",
    "rms_norm",
    "roll",
    "rotary",
    "scaled_dot_product_attention",
    "seeded",
    "sigmoid",
    "silu",
    "sin",
    "softmax",
    "softplus",
    "sort",
    "split",
    "sqrt",
    "square",
    "squeeze",
    "stack",
    "std",
    "sub",
    "swapaxes",
    "swiglu_linear",
    "tanh",
    "tensor",
    "to_numpy",
    "topk",
    "transpose",
    "tril",
    "triu",
    "uint8",
    "unbind",
    "unsqueeze",
    "var",
    "where",
    "zeros",
    "zeros_like",
]

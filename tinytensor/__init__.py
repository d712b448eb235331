"""tinytensor: NumPy or CuPy arrays with gradients, made to be read.

    import tinytensor as tt

    w = tt.randn(3, 1, requires_grad=True)
    loss = ((tt.ones(5, 3) @ w - 1) ** 2).mean()
    loss.backward()
    w.grad

The floors, lowest first: `backend.py`, `random.py` and `tensor.py` (the engine); `ops/` (one Function per operation);
`operators.py` and `creation.py`; `nn.py`, `optim.py`, `gradcheck.py` and `draw.py`. Read `tensor.py` first.
"""

from tinytensor import nn, operators, optim
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
from tinytensor.ops.reduce import logsumexp, max, mean, min, sum, var
from tinytensor.ops.shape import (
    concat,
    expand,
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
from tinytensor.optim import clip_scale, cosine_schedule, grad_norm
from tinytensor.random import fold, manual_seed, random_generator, seeded
from tinytensor.tensor import Function, Tensor, no_grad

__version__ = "0.1.0"

cat = concat

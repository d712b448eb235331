"""What `cpu_vs_gpu.py` compares: each operation with its sizes, inputs, variants, and what it costs.

A variant is a function of a device and the host's inputs that places them there and returns the function to be timed.
"fused" is the primitive of `kernels.cpu` or `kernels.cuda`, "composed" the same formula in the array library.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

import tinytensor as tt
from gpt.model import GPT, GPTConfig
from tinytensor.optim import decay_groups

COLUMNS = 1024  # of softmax
BATCH, HEADS, HEAD_SIZE = 2, 4, 64  # of attention
MODEL = GPTConfig(vocab_size=256, block_size=64, n_layer=4, n_head=4, n_embd=128, bias=False)


@dataclass(frozen=True)
class Operation:
    """One operation over a range of sizes.

    title: what is computed, n being the size. inputs(n): NumPy arrays. variants: {name: f(device, *inputs) -> g} with
    g() the result. flops(n), traffic(n): floating-point operations, and bytes that must be read and written, at least.
    tolerance: of results, relative to the largest value.
    """

    name: str
    title: str
    sizes: tuple[int, ...]
    inputs: Callable[[int], tuple]
    variants: dict[str, Callable]
    flops: Callable[[int], float]
    traffic: Callable[[int], float]
    tolerance: float = 1e-5


def powers(first: int, last: int, factor: int = 2) -> tuple[int, ...]:
    """first, factor * first, ... up to last."""
    sizes = [first]
    while sizes[-1] * factor <= last:
        sizes.append(sizes[-1] * factor)
    return tuple(sizes)


def normal(*shape: int) -> np.ndarray:
    """Standard normal float32 values, the same on each call."""
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


def placed(function):
    """A variant that moves its inputs to the device once, before anything is timed."""

    def prepare(device: tt.Device, *inputs):
        arrays = [device.put(x) for x in inputs]
        return lambda: function(*arrays)

    return prepare


def fused_softmax(x):
    return tt.kernels_for(x).softmax_forward(x)


def composed_softmax(x):
    e = tt.array_module(x).exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def fused_attention(qkv):
    return tt.kernels_for(qkv).attention_forward(qkv, HEAD_SIZE**-0.5)[0]


def composed_attention(qkv):
    """qkv (B, T, 3, H, D) -> (B, T, H, D), through the whole T x T matrix of scores."""
    xp = tt.array_module(qkv)
    q, k, v = (qkv[:, :, i].swapaxes(1, 2) for i in range(3))  # (B, H, T, D)
    scores = q @ k.swapaxes(-1, -2) * np.float32(HEAD_SIZE**-0.5)  # (B, H, T, T)
    visible = xp.tri(qkv.shape[1], dtype=bool)
    return (composed_softmax(xp.where(visible, scores, np.float32(-np.inf))) @ v).swapaxes(1, 2)


def training_step(device: tt.Device, ids, targets):
    """A new model on the device; each call trains it one step on the same batch and returns the loss before it."""
    with tt.seeded(0):
        model = GPT(MODEL)
    model.to(device)
    optimizer = tt.optim.AdamW(decay_groups(model.parameters(), 0.1), lr=1e-3)
    ids, targets = device.put(ids), device.put(targets)

    def step():
        optimizer.zero_grad()
        loss = model(ids, targets)
        loss.backward()
        optimizer.step(tt.clip_scale(tt.grad_norm(model.parameters()), 1.0))
        return loss.data

    return step


def batch(size: int):
    """ids, targets (size, T), int64."""
    tokens = np.random.default_rng(0).integers(0, MODEL.vocab_size, (size, MODEL.block_size + 1))
    return np.ascontiguousarray(tokens[:, :-1]), np.ascontiguousarray(tokens[:, 1:])


def step_flops(size: int) -> float:
    """2 for each weight and token in forward, 4 in backward, and the causal half of attention's products."""
    weights = 12 * MODEL.n_layer * MODEL.n_embd**2 + MODEL.vocab_size * MODEL.n_embd
    attention = MODEL.n_layer * MODEL.block_size * MODEL.n_embd
    return 6 * (weights + attention) * size * MODEL.block_size


def to_device(device: tt.Device, x):
    return lambda: device.put(x)


def to_host(device: tt.Device, x):
    array = device.put(x)
    return lambda: tt.to_numpy(array)


OPERATIONS = (
    Operation(
        name="matmul",
        title="n x n @ n x n",
        sizes=powers(32, 2048),
        inputs=lambda n: (normal(n, n), normal(n, n)[::-1].copy()),
        variants={"": placed(lambda a, b: a @ b)},
        flops=lambda n: 2 * n**3,
        traffic=lambda n: 12 * n**2,
    ),
    Operation(
        name="elementwise",
        title="x + y of n values",
        sizes=powers(2**10, 2**24, 4),
        inputs=lambda n: (normal(n), normal(n)),
        variants={"": placed(lambda x, y: x + y)},
        flops=lambda n: n,
        traffic=lambda n: 12 * n,
    ),
    Operation(
        name="reduction",
        title="sum of n values",
        sizes=powers(2**10, 2**24, 4),
        inputs=lambda n: (normal(n),),
        variants={"": placed(lambda x: x.sum())},
        flops=lambda n: n,
        traffic=lambda n: 4 * n,
        tolerance=1e-3,  # of a sum near 0 of values near 1
    ),
    Operation(
        name="softmax",
        title=f"softmax of n rows of {COLUMNS}",
        sizes=powers(1, 2**14, 4),
        inputs=lambda n: (normal(n, COLUMNS),),
        variants={"fused": placed(fused_softmax), "composed": placed(composed_softmax)},
        flops=lambda n: 5 * n * COLUMNS,
        traffic=lambda n: 8 * n * COLUMNS,
    ),
    Operation(
        name="attention",
        title=f"causal attention of n tokens, batch {BATCH}, {HEADS} heads of {HEAD_SIZE}",
        sizes=powers(16, 1024),
        inputs=lambda n: (normal(BATCH, n, 3, HEADS, HEAD_SIZE),),
        variants={"fused": placed(fused_attention), "composed": placed(composed_attention)},
        flops=lambda n: 2 * n * (n + 1) * BATCH * HEADS * HEAD_SIZE,
        traffic=lambda n: 4 * n * BATCH * HEADS * (4 * HEAD_SIZE + 1),
    ),
    Operation(
        name="training step",
        title=f"GPT of {MODEL.n_layer} layers, {MODEL.n_embd} wide, batch n of {MODEL.block_size} tokens",
        sizes=powers(1, 64, 4),
        inputs=batch,
        variants={"": training_step},
        flops=step_flops,
        traffic=lambda n: 0,
        tolerance=1e-4,
    ),
    Operation(
        name="copy",
        title="a copy of n bytes in the device's own memory",
        sizes=powers(2**12, 2**26, 4),
        inputs=lambda n: (normal(n // 4),),
        variants={"": placed(lambda x: x.copy())},
        flops=lambda n: 0,
        traffic=lambda n: 2 * n,
    ),
    Operation(
        name="transfer",
        title="n bytes between host and device",
        sizes=powers(2**12, 2**26, 4),
        inputs=lambda n: (normal(n // 4),),
        variants={"to the device": to_device, "to the host": to_host},
        flops=lambda n: 0,
        traffic=lambda n: n,
    ),
)

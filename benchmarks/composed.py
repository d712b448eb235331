"""The fused operations composed from elementary ones: what a reader would write first.

The tests hold the fused operations against these, and `ops.py` measures what the fusion gains. All take Tensors.
"""

from __future__ import annotations

import numpy as np


def softmax(x):
    e = (x - x.detach().max(-1, keepdims=True)).exp()
    return e / e.sum(-1, keepdims=True)


def log_softmax(x):
    return x - x.logsumexp(-1, keepdims=True)


def layer_norm(x, weight, bias):
    centred = x - x.mean(-1, keepdims=True)
    return centred / (x.var(-1, keepdims=True) + 1e-5).sqrt() * weight + bias


def gelu(x):
    return 0.5 * x * (1 + ((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3)).tanh())


def linear(x, weight, bias):
    return x @ weight + bias


def gelu_linear(x, weight, bias):
    return gelu(x) @ weight + bias


def embedding(ids, weight):
    return weight[ids]


def dropout(x, p):
    return x * (np.random.default_rng(0).random(x.shape, np.float32) >= p) / (1 - p)


def attention(q, k, v):
    time, size = q.shape[-2:]
    scores = (q @ k.mT / size**0.5).masked_fill(~np.tri(time, dtype=bool), -np.inf)
    return softmax(scores) @ v


def cross_entropy(logits, targets):
    kept = np.flatnonzero(targets != -100)
    return -log_softmax(logits)[kept, targets[kept]].mean()


def linear_cross_entropy(x, weight, targets):
    return cross_entropy(x @ weight.T, targets)

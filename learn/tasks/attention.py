"""Puzzle attention: causal attention of one head.

    s = scale * q @ k.T    (T, T), scale = 1 / sqrt(D); the token i sees the keys j <= i only
    p = softmax(s)         (T, T), over each row; 0 where j > i
    y = p @ v              (T, E)

    q, k, gq, gk    (T, D)
    v, gv, y, g     (T, E)

Check it:  python -m learn.puzzles check attention
"""

import numpy as np

from tinytensor import Function


class Attention(Function):
    def forward(self, q, k, v):
        self.scale = q.shape[1] ** -0.5
        s = np.where(np.tri(len(q), dtype=bool), self.scale * q @ k.T, -np.inf)
        e = np.exp(s - s.max(axis=1, keepdims=True))
        p = e / e.sum(axis=1, keepdims=True)
        self.q, self.k, self.v, self.p = self.save(q, k, v, p)
        return p @ v

    def vjp(self, g):
        gp = ...  # (T, T), from y = p @ v
        gs = ...  # (T, T), from p = softmax(s)
        gq = ...  # (T, D)
        gk = ...  # (T, D)
        gv = ...  # (T, E)
        return gq, gk, gv

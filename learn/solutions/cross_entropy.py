import numpy as np

from tinytensor import Function


class CrossEntropy(Function):
    def forward(self, x, targets):
        e = np.exp(x - x.max(axis=-1, keepdims=True))
        p = e / e.sum(axis=-1, keepdims=True)
        self.p, self.targets = self.save(p, targets)
        return -np.log(p[np.arange(len(targets)), targets]).mean()

    def vjp(self, g):
        rows = np.arange(len(self.targets))
        gx = self.p.copy()
        gx[rows, self.targets] -= 1
        gx = g * gx / len(rows)  # () -> (N, V)
        return gx, None

import numpy as np

from tinytensor import Function


class LayerNorm(Function):
    def forward(self, x, w, b):
        std = np.sqrt(x.var(axis=1, keepdims=True) + 1e-5)
        z = (x - x.mean(axis=1, keepdims=True)) / std
        self.z, self.std, self.w = self.save(z, std, w)
        return z * w + b

    def vjp(self, g):
        z, h = self.z, g * self.w
        gx = (h - h.mean(axis=1, keepdims=True) - z * (h * z).mean(axis=1, keepdims=True)) / self.std
        gw = (g * z).sum(axis=0)
        gb = g.sum(axis=0)
        return gx, gw, gb

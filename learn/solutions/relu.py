import numpy as np

from tinytensor import Function


class ReLU(Function):
    def forward(self, x):
        self.x = self.save(x)
        return np.maximum(x, 0)

    def vjp(self, g):
        gx = g * (self.x > 0)
        return (gx,)

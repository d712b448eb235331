import numpy as np

from tinytensor import Function


class Exp(Function):
    def forward(self, x):
        self.y = self.save(np.exp(x))
        return self.y

    def vjp(self, g):
        gx = g * self.y
        return (gx,)

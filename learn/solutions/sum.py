import numpy as np

from tinytensor import Function


class Sum(Function):
    def forward(self, x):
        self.shape = x.shape
        return x.sum(axis=1)

    def vjp(self, g):
        gx = np.broadcast_to(g[:, None], self.shape)  # (N,) -> (N, M)
        return (gx,)

import numpy as np

from tinytensor import Function


class GetItem(Function):
    def forward(self, x, index):
        self.shape, self.index = x.shape, self.save(index)
        return x[index]

    def vjp(self, g):
        gx = np.zeros(self.shape)
        np.add.at(gx, self.index, g)  # (M,) -> (N,)
        return gx, None

import numpy as np

from tinytensor import Function


class Embedding(Function):
    def forward(self, table, ids):
        self.shape, self.ids = table.shape, self.save(ids)
        return table[ids]

    def vjp(self, g):
        gtable = np.zeros(self.shape)
        np.add.at(gtable, self.ids, g)  # (B, T, C) -> (V, C)
        return gtable, None

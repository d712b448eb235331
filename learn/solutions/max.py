from tinytensor import Function


class Max(Function):
    def forward(self, x):
        self.x, self.y = self.save(x, x.max(axis=1))
        return self.y

    def vjp(self, g):
        largest = self.x == self.y[:, None]  # (N, M)
        gx = g[:, None] * largest / largest.sum(axis=1, keepdims=True)  # (N,) -> (N, M)
        return (gx,)

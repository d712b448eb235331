from tinytensor import Function


class MatMul(Function):
    def forward(self, a, b):
        self.a, self.b = self.save(a, b)
        return a @ b

    def vjp(self, g):
        ga = g @ self.b.T  # (N, M) @ (M, K) -> (N, K)
        gb = self.a.T @ g  # (K, N) @ (N, M) -> (K, M)
        return ga, gb

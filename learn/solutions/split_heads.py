from tinytensor import Function


class SplitHeads(Function):
    def forward(self, x):
        B, T, C = x.shape
        return x.reshape(B, T, 2, C // 2).transpose(0, 2, 1, 3)

    def vjp(self, g):
        B, H, T, D = g.shape
        gx = g.transpose(0, 2, 1, 3).reshape(B, T, H * D)  # (B, H, T, D) -> (B, T, C)
        return (gx,)

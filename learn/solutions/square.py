from tinytensor import Function


class Square(Function):
    def forward(self, x):
        self.x = self.save(x)
        return x * x

    def vjp(self, g):
        gx = 2 * self.x * g
        return (gx,)

from tinytensor import Function


class Divide(Function):
    def forward(self, a, b):
        self.b, self.y = self.save(b, a / b)
        return self.y

    def vjp(self, g):
        ga = g / self.b
        gb = -g * self.y / self.b
        return ga, gb

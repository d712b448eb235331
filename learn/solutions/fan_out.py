import numpy as np

from tinytensor import Function


class FanOut(Function):
    def forward(self, x):
        a = x * x
        b = np.tanh(a)
        self.x, self.a, self.b = self.save(x, a, b)
        return a * b + x

    def vjp(self, g):
        gb = g * self.a  # from y = a * b + x
        ga = g * self.b + gb * (1 - self.b**2)  # from y = a * b + x, and from b = tanh(a)
        gx = g + 2 * self.x * ga  # from y = a * b + x, and from a = x * x
        return (gx,)

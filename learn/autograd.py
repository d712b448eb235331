"""The autograd puzzles, in the order in which they build on each other. Their tasks are in `tasks/NAME.py`."""

import numpy as np

from learn.check_autograd import AutogradPuzzle

RNG = np.random.default_rng(1)
CAUSAL = np.tril(np.ones((4, 4), bool))


def normal(*shape: int) -> np.ndarray:
    """Random numbers for an input, float64."""
    return RNG.standard_normal(shape)


def softmax(x: np.ndarray) -> np.ndarray:
    """Over the last axis."""
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def layer_norm(x: np.ndarray, w: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Over the last axis."""
    return (x - x.mean(axis=-1, keepdims=True)) / np.sqrt(x.var(axis=-1, keepdims=True) + 1e-5) * w + b


PUZZLES = [
    AutogradPuzzle(
        "square",
        "y = x * x",
        (
            "Near x, a step dx changes y by 2 x dx. A step dy changes the loss by g dy.",
            "dL/dx = dL/dy * dy/dx, element by element. One of the two factors is g.",
        ),
        function="Square",
        forward=lambda x: x * x,
        inputs=[(normal(3),), (normal(2, 3),)],
    ),
    AutogradPuzzle(
        "relu",
        "y = max(x, 0)",
        (
            "Where x > 0, y is x. Elsewhere y does not depend on x at all.",
            "A comparison of arrays gives an array of True and False, and a number times False is 0.",
        ),
        function="ReLU",
        forward=lambda x: np.maximum(x, 0),
        inputs=[(normal(3, 4),), (normal(5),)],
    ),
    AutogradPuzzle(
        "exp",
        "y = exp(x), from the saved y",
        (
            "The derivative of exp is exp.",
            "That value has been computed already: look at what forward saves.",
        ),
        function="Exp",
        forward=np.exp,
        inputs=[(normal(3),), (normal(2, 3),)],
    ),
    AutogradPuzzle(
        "divide",
        "y = a / b",
        (
            "Two inputs, two gradients: hold b constant for the first, a for the second.",
            "dy/da = 1 / b. For the second, write a / b as a times b to the power of -1.",
            "dy/db = -a / b^2, which is -y / b.",
        ),
        function="Divide",
        forward=lambda a, b: a / b,
        inputs=[(normal(3), 1 + RNG.random(3)), (normal(2, 3), -1 - RNG.random((2, 3)))],
    ),
    AutogradPuzzle(
        "sum",
        "y = x.sum(axis=1)",
        (
            "Each x[i, j] is added to y[i] with the factor 1, so its gradient is g[i].",
            "g has shape (N,), the gradient (N, M): give g a second axis (g[:, None]) and repeat it along that.",
            "np.broadcast_to repeats without copying.",
        ),
        function="Sum",
        forward=lambda x: x.sum(axis=1),
        inputs=[(normal(3, 4),), (normal(4, 4),), (normal(2, 1),)],
    ),
    AutogradPuzzle(
        "broadcast_add",
        "y = x + b, b added to every row",
        (
            "b[j] is used in every row, and a gradient is the sum over all uses.",
            "Broadcasting in forward becomes a sum in backward, over the axis that was repeated.",
        ),
        function="BroadcastAdd",
        forward=lambda x, b: x + b,
        inputs=[(normal(3, 4), normal(4)), (normal(4, 4), normal(4))],
    ),
    AutogradPuzzle(
        "fan_out",
        "y = a * tanh(a) + x with a = x * x: one value, several uses",
        (
            "Go backward through the lines of forward: first the gradients of what is used last.",
            "a is used twice, in b = tanh(a) and in a * b. Its gradient is the sum of what both uses give.",
            "d tanh(a)/da = 1 - tanh(a)^2, so b alone is enough there.",
            "x is used in x * x and in + x, so its gradient is a sum, too. Do not write `ga += ...` into an array that "
            "may be g itself: ga = ga + ...",
        ),
        function="FanOut",
        forward=lambda x: x * x * np.tanh(x * x) + x,
        inputs=[(normal(3),), (normal(2, 3),)],
    ),
    AutogradPuzzle(
        "max",
        "y = x.max(axis=1), ties share",
        (
            "Only the largest element of a row has any influence on y.",
            "x == y[:, None] is True where an element equals its row's maximum.",
            "With n such elements in a row, each gets g / n. Count them with sum(axis=1, keepdims=True).",
        ),
        function="Max",
        forward=lambda x: x.max(axis=1),
        inputs=[(normal(3, 4),), (np.array([[2.0, 5.0, 5.0], [1.0, 0.0, -1.0], [3.0, 3.0, 1.0]]),)],
    ),
    AutogradPuzzle(
        "matmul",
        "y = a @ b",
        (
            "y[i, j] = sum over k of a[i, k] b[k, j]. Which elements of y does a[i, k] reach, and with which factor?",
            "dL/da[i, k] = sum over j of g[i, j] b[k, j]: a matrix product of g and b, one of them transposed.",
            "The shapes leave no choice: (N, K) from (N, M) and (K, M); (K, M) from (N, K) and (N, M).",
        ),
        function="MatMul",
        forward=lambda a, b: a @ b,
        inputs=[(normal(2, 3), normal(3, 4)), (normal(3, 3), normal(3, 3)), (normal(1, 2), normal(2, 1))],
    ),
    AutogradPuzzle(
        "transpose",
        "y = x.transpose(axes)",
        (
            "Nothing is computed, elements only move. The gradient moves back.",
            "Axis i of y is axis (1, 2, 0)[i] of x. Which permutation undoes that?",
            "Axis 0 of x became axis 2 of y. So axis 0 of the gradient is axis 2 of g.",
        ),
        function="Transpose",
        forward=lambda x: x.transpose(1, 2, 0),
        inputs=[(normal(2, 3, 4),), (normal(2, 2, 2),)],
    ),
    AutogradPuzzle(
        "split_heads",
        "(B, T, C) to (B, H, T, D): reshape, then transpose",
        (
            "Undo the steps in reverse order: first the transposition, then the reshape.",
            "Swapping two axes is its own inverse.",
            "The sizes are in g.shape: B, H, T, D, and C = H D.",
        ),
        function="SplitHeads",
        forward=lambda x: x.reshape(*x.shape[:2], 2, -1).transpose(0, 2, 1, 3),
        inputs=[(normal(2, 3, 4),), (normal(1, 2, 8),), (normal(2, 2, 4),)],
    ),
    AutogradPuzzle(
        "getitem",
        "y = x[index], with repeated indices",
        (
            "Start from zeros in the shape of x, and put each g[i] where x[index[i]] came from.",
            "An index may occur twice, and then both gradients are added. gx[index] += g adds only one of them.",
            "np.add.at(gx, index, g) adds them all.",
        ),
        function="GetItem",
        forward=lambda x, index: x[index],
        inputs=[
            (normal(5), np.array([3, 0, 3, 3, 1])),
            (normal(3), np.array([2, 1])),
            (normal(2), np.array([0, 0, 0])),
        ],
    ),
    AutogradPuzzle(
        "embedding",
        "y = table[ids]: a row for each token",
        (
            "The same as getitem, with rows instead of numbers.",
            "A token that does not occur has the gradient 0; one that occurs twice gets the sum.",
            "np.add.at takes an array of ids of any shape: gtable[ids] has the shape of g.",
        ),
        function="Embedding",
        forward=lambda table, ids: table[ids],
        inputs=[(normal(4, 3), np.array([[0, 2, 0], [2, 2, 3]])), (normal(3, 2), np.array([[1], [1]]))],
    ),
    AutogradPuzzle(
        "softmax",
        "y = softmax(x) over the last axis",
        (
            "dy_i/dx_j = y_i (1[i = j] - y_j): every output depends on every input of its row.",
            "dL/dx_j = sum over i of g_i y_i (1[i = j] - y_j). Multiply out: two sums, of which one has a single term.",
            "gx = y * (g - s), where s is one number per row: the sum of g * y. Keep its axis (keepdims=True).",
        ),
        function="Softmax",
        forward=softmax,
        inputs=[(normal(3, 4),), (normal(2, 2, 3),)],
    ),
    AutogradPuzzle(
        "log_softmax",
        "y = log(softmax(x)), from the saved y",
        (
            "y_i = x_i - log(sum of exp(x_k)), so dy_i/dx_j = 1[i = j] - softmax(x)_j.",
            "softmax(x) is exp(y).",
            "dL/dx_j = g_j - softmax(x)_j * (the sum of g over the row).",
        ),
        function="LogSoftmax",
        forward=lambda x: np.log(softmax(x)),
        inputs=[(normal(3, 4),), (normal(2, 2, 3),)],
    ),
    AutogradPuzzle(
        "cross_entropy",
        "the mean over rows of -log softmax(x)[target]",
        (
            "For one row, the loss is log(sum of exp(x_k)) - x[target].",
            "The derivative of the first term is softmax(x), of the second -1 at the target.",
            "p - onehot, divided by the number of rows for the mean, times g, which is one number.",
        ),
        function="CrossEntropy",
        forward=lambda x, t: -np.log(softmax(x)[np.arange(len(t)), t]).mean(),
        inputs=[(normal(3, 4), np.array([1, 3, 1])), (normal(1, 2), np.array([0]))],
    ),
    AutogradPuzzle(
        "gelu",
        "GELU with tanh, as in GPT-2",
        (
            "y = 0.5 x (1 + t) with t = tanh(u): a product of two factors that both depend on x.",
            "dy/dx = 0.5 (1 + t) + 0.5 x dt/dx, and dt/dx = (1 - t^2) du/dx.",
            "u = A (x + B x^3), so du/dx = A (1 + 3 B x^2).",
        ),
        function="GELU",
        forward=lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
        inputs=[(3 * normal(3, 4),), (normal(5),)],
    ),
    AutogradPuzzle(
        "layer_norm",
        "normalize each row, then scale and shift",
        (
            "y = z w + b, with z = (x - mean) / std. gb and gw are sums over the rows, as in broadcast_add.",
            "Let h = g * w, the gradient of z. z does not change if all of a row is shifted or scaled, so the gradient "
            "has no part along a constant and none along z.",
            "gx = (h - mean(h) - z * mean(h * z)) / std, with the means over a row.",
        ),
        function="LayerNorm",
        forward=layer_norm,
        inputs=[(normal(3, 4), normal(4), normal(4)), (normal(2, 2), normal(2), normal(2))],
    ),
    AutogradPuzzle(
        "attention",
        "causal attention of one head",
        (
            "Backward through three steps: o = p @ v, p = softmax(s), s = scale * q @ k.T. Solve matmul and softmax "
            "first.",
            "o = p @ v gives gv = p.T @ g and gp = g @ v.T.",
            "Softmax gives gs = p * (gp - the sum of gp * p over each row). Where the mask hides a key, p is 0, so the "
            "mask needs no line of its own.",
            "s = scale * q @ k.T gives gq = scale * gs @ k and gk from gs.T in the same way.",
        ),
        function="Attention",
        forward=lambda q, k, v: softmax(np.where(CAUSAL[: len(q), : len(q)], q @ k.T / q.shape[1] ** 0.5, -np.inf)) @ v,
        inputs=[(normal(4, 3), normal(4, 3), normal(4, 2)), (normal(2, 2), normal(2, 2), normal(2, 2))],
    ),
]

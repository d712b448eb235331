"""The engine: sums over paths, reuse, deep chains, freeing, in-place changes, modes and threads."""

import dataclasses
import gc
import threading
import tracemalloc
import weakref

import numpy as np
import pytest

import tinytensor as tt


def leaf(*shape, seed=0):
    x = np.random.default_rng(seed).standard_normal(shape)
    return tt.Tensor(x, requires_grad=True)


# The chain rule


def test_fan_out_accumulates():
    x = tt.tensor(2.0, requires_grad=True)
    y = (x * 3 * 5 + (x + 1)) + (x + 2)
    y.backward()
    assert x.grad == 17
    assert isinstance(x.grad, np.ndarray)


def test_fan_out_sums_all_paths():
    x = leaf(3, 2)
    sum([x * k for k in range(1, 8)], start=x).sum().backward()
    np.testing.assert_allclose(x.grad, 29)


def test_stacked_diamonds_are_walked_once_each():
    x = tt.tensor(1.0, dtype=np.float64, requires_grad=True)
    y = x
    for _ in range(50):
        y = y + y  # 2^50 paths
    y.backward()
    assert x.grad == 2.0**50


def test_a_node_waits_for_all_its_uses():
    x = leaf(4)
    early = x * 2
    late = early
    for _ in range(5):
        late = late.tanh()
    (late + early).sum().backward()
    tt.gradcheck(lambda x: (x * 2).tanh().tanh().tanh().tanh().tanh() + x * 2, x.data)
    z = 2 * x.data
    slope = np.ones_like(z)
    for _ in range(5):
        z = np.tanh(z)
        slope *= 1 - z * z
    np.testing.assert_allclose(x.grad, 2 * slope + 2)


def test_one_tensor_as_both_inputs():
    tt.gradcheck(lambda x: x * x, np.array([1.0, -2.0]))
    tt.gradcheck(lambda x: x @ x, np.arange(9.0).reshape(3, 3))
    tt.gradcheck(lambda x: x / x + x - x, np.array([1.0, -2.0]))
    tt.gradcheck(lambda x: tt.concat([x, x, x]), np.array([1.0, -2.0]))
    tt.gradcheck(lambda x: tt.linear(x, x, x[0]), np.arange(9.0).reshape(3, 3))


def test_a_20000_deep_chain():
    x = leaf(3)
    y = x
    for _ in range(20_000):
        y = y + 1.0
    y.sum().backward()
    np.testing.assert_array_equal(x.grad, 1)


def test_a_deep_chain_can_be_dropped_without_backward():
    y = leaf(3)
    for _ in range(20_000):
        y = y * 1.0
    alive = weakref.ref(y)
    del y
    assert alive() is None


def test_backward_calls_accumulate_to_their_sum():
    x, ys = leaf(3, 2), []
    for scale in (1.0, -0.5, 4.0):
        (x * x * scale).sum().backward()
        ys.append(2 * x.data * scale)
    np.testing.assert_allclose(x.grad, sum(ys))


def test_accumulating_leaves_the_earlier_array_alone():
    x = leaf(3)
    x.sum().backward()
    first = x.grad
    x.sum().backward()
    np.testing.assert_array_equal(first, 1)
    np.testing.assert_array_equal(x.grad, 2)


def test_backward_of_a_leaf():
    x = leaf(2)
    g = np.array([3.0, 4.0])
    x.backward(g)
    np.testing.assert_array_equal(x.grad, g)
    assert not np.shares_memory(x.grad, g)


def test_only_leaves_that_ask_get_gradients():
    x, constant = leaf(2), tt.Tensor(np.ones(2))
    middle = x * constant
    middle.sum().backward()
    assert constant.grad is None
    assert middle.grad is None
    assert x.grad is not None


@pytest.mark.parametrize(
    "gradient", [np.array([1.0, 2.0]), [1, 2], tt.tensor([1.0, 2.0])], ids=["array", "list", "Tensor"]
)
def test_backward_with_a_gradient(gradient):
    x = leaf(2)
    (x * 10).backward(gradient)
    np.testing.assert_allclose(x.grad, [10, 20])


def test_gradients_reach_a_broadcast_leaf_of_another_dtype():
    x = tt.ones(3, requires_grad=True)
    (x * np.ones((4, 3))).sum().backward()
    assert x.grad.dtype == np.float32
    np.testing.assert_array_equal(x.grad, 4)


# Gradients belong to their tensors alone


@pytest.mark.parametrize(
    "build",
    [
        lambda x, y: x + y,
        lambda x, y: (x + y).reshape(6).reshape(2, 3),
        lambda x, y: (x + y) + (x + y),
        lambda x, y: tt.stack([x, y]).sum(0),
        lambda x, y: x.T.T + y,
        lambda x, y: x.expand(1, 2, 3) + y,
        lambda x, y: tt.where(np.array(True), x, 0.0) + y,
    ],
)
def test_no_two_gradients_share_memory(build):
    x, y = leaf(2, 3), leaf(2, 3, seed=1)
    result = build(x, y)
    g = np.ones(result.shape)
    result.backward(g)
    arrays = [x.grad, y.grad, g, x.data, y.data]
    for i, a in enumerate(arrays):
        assert not any(np.shares_memory(a, b) for b in arrays[:i])
    x.grad *= 100
    np.testing.assert_array_equal(g, 1)


def random_expression(rng, x, y, ops):
    """A random graph over x (3, 1) and y (2,), with much reuse, through the functions in `ops`; values in [-1, 1]."""
    nodes = [x, y]
    for _ in range(rng.integers(3, 15)):
        a, b = (nodes[i] for i in rng.integers(0, len(nodes), 2))
        nodes.append(ops[rng.integers(len(ops))](a, b))
    return sum(node.sum() for node in nodes[len(nodes) // 2 :])


class Dual:
    """An array and its derivative along one direction: forward-mode differentiation, in five lines of calculus."""

    def __init__(self, value, slope):
        self.value, self.slope = value, slope

    def __add__(self, other):
        if isinstance(other, (int, float)):
            return Dual(self.value + other, self.slope)
        return Dual(self.value + other.value, self.slope + other.slope)

    __radd__ = __add__

    def __sub__(self, other):
        return self + other * -1.0

    def __mul__(self, other):
        if isinstance(other, (int, float)):
            return Dual(self.value * other, self.slope * other)
        return Dual(self.value * other.value, self.slope * other.value + self.value * other.slope)

    def tanh(self):
        y = np.tanh(self.value)
        return Dual(y, self.slope * (1 - y * y))

    def mean(self, axis, keepdims):
        value, slope = (
            np.broadcast_to(a, np.broadcast(self.value, self.slope).shape) for a in (self.value, self.slope)
        )
        return Dual(value.mean(axis=axis, keepdims=keepdims), slope.mean(axis=axis, keepdims=keepdims))

    def sum(self):
        return Dual(self.value.sum(), np.broadcast_to(self.slope, self.value.shape).sum())


OPS = [
    lambda a, b: (a + b) * 0.5,
    lambda a, b: (a - b) * 0.5,
    lambda a, b: a * b,
    lambda a, b: (a * b).tanh(),
    lambda a, b: a.tanh() * 0.5 + b * 0.5,
    lambda a, b: a * b.mean(-1, True),
    lambda a, b: a * a * 0.5 + b * b * 0.5,
]


@pytest.mark.parametrize("seed", range(40))
def test_random_graphs_agree_with_forward_mode(seed):
    draw = np.random.default_rng(seed)
    arrays = draw.uniform(-1, 1, (3, 1)), draw.uniform(-1, 1, 2)
    directions = [draw.standard_normal(a.shape) for a in arrays]
    x, y = (tt.Tensor(a, requires_grad=True) for a in arrays)
    loss = random_expression(np.random.default_rng(seed), x, y, OPS)
    loss.backward()
    duals = [Dual(a, u) for a, u in zip(arrays, directions, strict=True)]
    reference = random_expression(np.random.default_rng(seed), *duals, OPS)
    along = sum((t.grad * u).sum() for t, u in zip((x, y), directions, strict=True) if t.grad is not None)
    np.testing.assert_allclose(loss.item(), reference.value, rtol=1e-12)
    np.testing.assert_allclose(along, reference.slope, rtol=1e-9, atol=1e-12)


# Errors


def test_backward_of_a_non_scalar_needs_a_gradient():
    with pytest.raises(RuntimeError, match=r"shape \(2, 3\) is not a scalar; pass gradient="):
        (leaf(2, 3) * 2).backward()


def test_a_gradient_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"gradient has shape \(3, 2\), the tensor has \(2, 3\)"):
        (leaf(2, 3) * 2).backward(np.ones((3, 2)))


def test_backward_without_anything_to_differentiate():
    with pytest.raises(RuntimeError, match="requires a gradient"):
        tt.ones(2).sum().backward()


@pytest.mark.parametrize("first", [True, False])
def test_a_sparse_gradient_is_added_only_to_an_array_of_its_own(first):
    """x + b hands one array to both; adding rows into x's in place would change b's."""
    x, b = leaf(4, 3), leaf(4, 3)
    rows, dense = x[np.array([1, 1, 2])].sum() * 2, (x + b).sum() * 3
    (rows + dense if first else dense + rows).backward()
    np.testing.assert_array_equal(b.grad, np.full((4, 3), 3))
    np.testing.assert_array_equal(x.grad, [[3] * 3, [7] * 3, [5] * 3, [3] * 3])


def test_several_sparse_gradients_and_a_turned_dense_one():
    x = leaf(4, 3)
    weights = np.arange(12.0).reshape(3, 4)
    ((x.T * weights).sum() + x[:2].sum() + x[-1, 1:].sum() + x[np.array([0])].sum()).backward()
    expected = weights.T.copy()
    expected[:2] += 1
    expected[-1, 1:] += 1
    expected[0] += 1
    np.testing.assert_array_equal(x.grad, expected)


def test_a_second_backward_says_that_the_graph_was_freed():
    y = (leaf(2) * 2).sum()
    y.backward()
    with pytest.raises(RuntimeError, match="Sum was freed by an earlier backward"):
        y.backward()


def test_a_freed_part_of_a_graph_is_noticed_before_any_gradient_changes():
    x = leaf(2)
    shared = x.exp()
    shared.sum().backward()
    before = x.grad.copy()
    with pytest.raises(RuntimeError, match="Exp was freed"):
        (shared * 2 + x).sum().backward()
    np.testing.assert_array_equal(x.grad, before)


@pytest.mark.parametrize(
    ("operation", "words"),
    [
        (lambda a, b: a + b, ["Add", "(2, 3)", "(4,)"]),
        (lambda a, b: a @ b, ["MatMul", "(2, 3)", "(4,)"]),
        (lambda a, b: tt.where(a.data > 0, a, b), ["Where", "(2, 3)", "(4,)"]),
        (lambda a, b: tt.concat([a, b]), ["Concat", "(2, 3)", "(4,)"]),
        (lambda a, b: tt.linear(a, b.reshape(2, 2)), ["Linear", "(2, 3)", "(2, 2)"]),
        (lambda a, b: a.reshape(4), ["Reshape", "(2, 3)"]),
        (lambda a, b: a.expand(2, 4), ["Expand", "(2, 3)", "(2,4)"]),
        (lambda a, b: a.sum(axis=2), ["sum", "axis 2", "2 axes"]),
        (lambda a, b: a.permute(0, 5), ["permute", "axis 5", "2 axes"]),
        (lambda a, b: a.split([1, 3], axis=1), ["split", "[1, 3]", "3"]),
    ],
)
def test_shapes_that_do_not_fit_are_named(operation, words):
    with pytest.raises(ValueError, match=words[0]) as caught:
        operation(leaf(2, 3), leaf(4))
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    "operation",
    [lambda x: x.unsqueeze(4), lambda x: x.unsqueeze(-4), lambda x: x.split(1, axis=2), lambda x: x.swapaxes(0, 2)],
)
def test_an_axis_out_of_range_is_refused(operation):
    with pytest.raises((ValueError, IndexError), match="out of"):
        operation(leaf(2, 3))


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, bool])
def test_only_floats_have_gradients(dtype):
    with pytest.raises(TypeError, match=f"only floating-point tensors have gradients, this one is {np.dtype(dtype)}"):
        tt.tensor([1, 0], dtype=dtype, requires_grad=True)


def test_results_that_are_not_floats_are_constants():
    x = leaf(3)
    for y in (x.long(), x > 0, x == x, x.argmax()):
        assert not y.requires_grad


def test_a_vjp_that_forgets_a_gradient_is_named():
    class Forgetful(tt.Function):
        def forward(self, x):
            return x + 0

        def vjp(self, g):
            return (None,)

    with pytest.raises(RuntimeError, match=r"Forgetful.vjp gave no gradient for input 0, of shape \(2,\)"):
        Forgetful()(leaf(2)).sum().backward()


# In-place changes


def add_one(x):
    x.data += 1


def assign(x):
    with_gradient, x.requires_grad = x.requires_grad, False
    x[0] = 5.0
    x.requires_grad = with_gradient


def take_a_step(x):
    x.grad = np.ones(x.shape)
    tt.optim.SGD([x], lr=0.1).step()


def take_an_adam_step(x):
    x.grad = np.ones(x.shape)
    tt.optim.AdamW([x], lr=0.1).step()


@pytest.mark.parametrize("change", [add_one, assign, take_a_step, take_an_adam_step])
def test_changing_a_saved_input_is_noticed(change):
    x, w = leaf(3), leaf(3, seed=1)
    y = (x * w).sum()
    change(w)
    with pytest.raises(RuntimeError, match=r"of Mul, shape \(3,\), was changed in place"):
        y.backward()


def test_changing_a_saved_result_is_noticed():
    x = leaf(3)
    y = x.exp()
    z = y + 1  # keeps nothing of y, but exp does
    y.data += 1
    with pytest.raises(RuntimeError, match="result of Exp"):
        z.sum().backward()
    y = x.exp()
    y.data *= 2
    with pytest.raises(RuntimeError, match="result of Exp"):
        y.backward(np.ones(3))


def test_harmless_changes_raise_no_alarm():
    x, w = leaf(3), leaf(3, seed=1)
    y = (x * w).sum()
    old, w.data = w.data, np.zeros(3)  # another array: what was saved is untouched
    y.backward()
    np.testing.assert_array_equal(x.grad, old)
    y = (x + w).sum()
    w.data += 1  # addition saves nothing
    y.backward()


def test_assigning_into_a_tensor_with_a_gradient_is_refused():
    with pytest.raises(RuntimeError, match="where or masked_fill"):
        leaf(3)[0] = 1.0


# Modes


def test_no_grad_nests_and_ends():
    x = leaf(2)
    with tt.no_grad():
        with tt.no_grad():
            assert not (x * 2).requires_grad
        assert not (x * 2).requires_grad
    assert (x * 2).requires_grad


def test_no_grad_ends_after_an_exception():
    with pytest.raises(KeyError), tt.no_grad():
        raise KeyError
    assert (leaf(2) * 2).requires_grad


def test_no_grad_decorates_even_a_function_that_calls_itself():
    @tt.no_grad()
    def double(x, times):
        assert not (x * 2).requires_grad
        return double(x, times - 1) * 2 if times else x * 1

    x = leaf(2)
    assert not double(x, 3).requires_grad
    assert (x * 2).requires_grad


def test_no_grad_is_of_its_thread_only():
    recorded = []
    with tt.no_grad():
        thread = threading.Thread(target=lambda: recorded.append((leaf(2) * 2).requires_grad))
        thread.start()
        thread.join()
    assert recorded == [True]


def test_detach_shares_data_and_stops_gradients():
    x = leaf(2)
    constant = (x * 2).detach()
    (x * constant).sum().backward()
    np.testing.assert_allclose(x.grad, 2 * x.data)
    assert np.shares_memory(x.detach().data, x.data)


def test_clone_and_casts_pass_gradients_on():
    x = tt.ones(2, requires_grad=True)
    copy = x.clone()
    assert not np.shares_memory(copy.data, x.data)
    (copy.astype("float64") * 3).sum().backward()
    np.testing.assert_array_equal(x.grad, 3)
    assert x.grad.dtype == np.float32


def test_moving_to_the_device_one_is_on_keeps_the_graph():
    x = leaf(2)
    (x * 3).to("cpu").sum().backward()
    np.testing.assert_array_equal(x.grad, 3)


def test_threads_build_and_walk_graphs_of_their_own():
    x = leaf(20, 20)
    results = {}

    def work(k):
        for _ in range(20):
            w = tt.Tensor(x.data * k, requires_grad=True)
            (w @ w).tanh().sum().backward()
            results.setdefault(k, []).append(w.grad)

    threads = [threading.Thread(target=work, args=(k,)) for k in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for k in (1, 2):
        w = x.data * k
        s = 1 - np.tanh(w @ w) ** 2
        for grad in results[k]:
            np.testing.assert_allclose(grad, s @ w.T + w.T @ s, rtol=1e-10)


# Memory


@pytest.fixture
def no_collector():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collector")
def test_graphs_are_freed_without_the_collector():
    x = leaf(3)
    middle = x.exp()
    y = (middle * x + middle).sum()
    freed = [weakref.ref(middle), weakref.ref(middle.data)]
    del middle
    y.backward()
    assert [ref() for ref in freed] == [None, None]  # saved arrays are gone though y lives
    freed = weakref.ref(y)
    del y
    assert freed() is None


@pytest.mark.usefixtures("no_collector")
def test_memory_is_flat_over_200_training_steps():
    tt.manual_seed(0)
    layers = tt.nn.Sequential(tt.nn.Linear(16, 32), tt.nn.GELU(), tt.nn.LayerNorm(32), tt.nn.Linear(32, 16))
    optimizer = tt.optim.AdamW(layers.parameters(), lr=1e-3)
    x, targets = tt.randn(8, 16), np.arange(8)

    def train(steps):
        for _ in range(steps):
            optimizer.zero_grad()
            tt.cross_entropy(tt.dropout(layers(x), 0.1), targets).backward()
            optimizer.step(tt.clip_scale(tt.grad_norm(layers.parameters()), 1.0))

    train(3000)  # NumPy's and Python's caches of small blocks fill; what they hold is not counted before `start`
    tracemalloc.start()
    train(400)
    before = tracemalloc.get_traced_memory()[0]
    train(200)
    after = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert after - before < 5_000  # bytes; one leaked step would be 4 kB or more, 200 of them near a megabyte


# What was silent once: Functions applied twice, stale views, misshaped gradients, lost updates


class Square(tt.Function):
    """y = c x^2;  gx = 2 c g x"""

    def __init__(self, c=1.0):
        self.c = c

    def forward(self, x):
        self.x = self.save(x)
        return self.c * x * x

    def vjp(self, g):
        return (2 * self.c * g * self.x,)


@pytest.mark.parametrize("recorded", [True, False])
def test_a_function_applied_twice_is_refused(recorded):
    square = Square(3.0)
    y = square(leaf(2) if recorded else tt.ones(2))
    with pytest.raises(RuntimeError, match="Square: was applied before"):
        square(leaf(2, seed=1))
    if recorded:
        y.sum().backward()
        with pytest.raises(RuntimeError, match="Square: was applied before"):
            square(leaf(2))


@pytest.mark.parametrize("name", ["save", "needs_grad", "vjp", "_edges"])
def test_an_option_with_a_name_of_the_engines_is_refused(name):
    square = Square()
    setattr(square, name, 1)
    with pytest.raises(TypeError, match=f"Square: has an option named '{name}', which is the engine's"):
        square(leaf(2))


@pytest.mark.parametrize("name", ["name", "edges", "guards", "version", "depth", "function", "grad", "data", "shape"])
def test_other_names_are_free_for_options(name):
    square, x = Square(), leaf(2)
    setattr(square, name, 1)
    square(x).sum().backward()
    np.testing.assert_allclose(x.grad, 2 * x.data)


VIEWS = {
    "reshape": lambda x: x.reshape(2, 3),
    "transpose": lambda x: x.T,
    "slice": lambda x: x[1:],
    "expand": lambda x: x.expand(4, 3, 2),
    "split": lambda x: x.split(2)[0],
    "detach": lambda x: x.detach(),
    "view of a view": lambda x: x.reshape(6)[:4].unsqueeze(0).T,
    "made under no_grad": tt.no_grad()(lambda x: x.T),
}


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_changing_a_tensor_makes_its_views_stale(view):
    x, w = leaf(3, 2), leaf(1, seed=1)
    y = (view(x) * w).sum()
    x.data -= 1
    with pytest.raises(RuntimeError, match="was changed in place after it was used"):
        y.backward()


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_changing_a_view_makes_the_tensor_stale(view):
    x, w = leaf(3, 2), leaf(1, seed=1)
    seen = view(x)
    y = (x * w).sum()
    seen.mark_changed()  # as after an in-place operation; that of `expand` could not be written to
    with pytest.raises(RuntimeError, match="was changed in place after it was used"):
        y.backward()


def test_an_optimizer_step_between_forward_and_backward_through_a_transpose_is_noticed():
    weight, x = tt.nn.Parameter(np.ones((3, 2))), leaf(4, 3)
    loss = (x @ weight.T.mT).sum()
    weight.grad = np.ones((3, 2))
    tt.optim.SGD([weight], lr=0.1).step()
    with pytest.raises(RuntimeError, match=r"of MatMul, shape .* was changed in place"):
        loss.backward()


@pytest.mark.parametrize("wrap", [list, tuple, lambda arrays: [[arrays[0]]]], ids=["list", "tuple", "nested"])
def test_arrays_saved_in_containers_are_guarded(wrap):
    class Keeps(tt.Function):
        def forward(self, x):
            self.kept = self.save(wrap([x]))
            return x * 2.0

        def vjp(self, g):
            return (2.0 * g,)

    x = leaf(2)
    y = Keeps()(x).sum()
    x.data += 1
    with pytest.raises(RuntimeError, match=r"an input of Keeps, shape .* was changed in place"):
        y.backward()


def test_changing_an_index_or_targets_in_place_is_noticed():
    x, index = leaf(4, 3), tt.tensor([0, 2])
    y = x[index].sum()
    index[0] = 1
    with pytest.raises(RuntimeError, match="an input of GetItem"):
        y.backward()
    targets = tt.tensor([0, 2, 1, 1])
    loss = tt.cross_entropy(x, targets)
    targets[0] = 1
    with pytest.raises(RuntimeError, match="an input of CrossEntropy"):
        loss.backward()


def test_two_parameters_in_one_buffer_do_not_stale_each_other_through_replacement():
    memory = np.zeros(4)
    a, b = tt.Tensor(memory[:2], requires_grad=True), tt.Tensor(memory[2:], requires_grad=True)
    y = (a * 3).sum() + (b * 3).sum()
    b.data = np.ones(2)
    y.backward()
    np.testing.assert_array_equal(a.grad, 3)


def returning(result):
    class Odd(tt.Function):
        def forward(self, x):
            return x + 0.0

        def vjp(self, g):
            return result(g)

    return Odd


@pytest.mark.parametrize(
    ("result", "kind", "words"),
    [
        (lambda g: g, TypeError, r"Odd\.vjp returned a ndarray: must be a tuple, such as `return \(gx,\)`"),
        (lambda g: [g], TypeError, r"Odd\.vjp returned a list: must be a tuple"),
        (lambda g: None, TypeError, r"Odd\.vjp returned a NoneType"),
        (lambda g: (g, g), TypeError, r"Odd\.vjp returned 2 gradients: must be 1, one per input"),
        (lambda g: (), TypeError, r"Odd\.vjp returned 0 gradients"),
        (lambda g: (3.0,), TypeError, r"Odd\.vjp gave a float as the gradient of input 0: must be an array"),
        (lambda g: (tt.Tensor(g),), TypeError, r"Odd\.vjp gave a Tensor as the gradient of input 0"),
        (lambda g: ([1, 2, 3],), TypeError, r"Odd\.vjp gave a list as the gradient of input 0"),
        (lambda g: (g[:2],), ValueError, r"Odd\.vjp gave input 0, of shape \(3,\), a gradient of shape \(2,\)"),
        (lambda g: (np.ones((4, 3)),), ValueError, r"of shape \(3,\), a gradient of shape \(4, 3\)"),
        (lambda g: (np.ones((3, 1)),), ValueError, r"of shape \(3,\), a gradient of shape \(3, 1\)"),
    ],
)
def test_a_vjp_that_returns_something_else_is_named(result, kind, words):
    with pytest.raises(kind, match=words):
        returning(result)()(leaf(3)).sum().backward()


@pytest.mark.parametrize("result", [3.0, [1.0], None, "x"])
def test_a_forward_that_returns_no_array_is_named(result):
    class Odd(tt.Function):
        def forward(self, x):
            return result

    with pytest.raises(TypeError, match=rf"Odd\.forward returned a {type(result).__name__}: must be an array"):
        Odd()(leaf(2))


def test_a_forward_that_returns_a_tensor_is_named():
    class Odd(tt.Function):
        def forward(self, x):
            return tt.Tensor(x)

    with pytest.raises(TypeError, match=r"Odd\.forward returned a Tensor: must be an array"):
        Odd()(leaf(2))


def test_a_gradient_that_is_a_saved_array_is_not_added_into():
    """The VJP hands out the input itself; accumulating into it would change the data."""

    class Leaks(tt.Function):
        def forward(self, x):
            self.x = self.save(x)
            return x * 1.0

        def vjp(self, g):
            return (self.x,)

    x = leaf(3)
    before = x.data.copy()
    (Leaks()(x) + x * 2).sum().backward()
    np.testing.assert_array_equal(x.data, before)
    np.testing.assert_allclose(x.grad, before + 2)


def test_after_a_failing_vjp_a_second_backward_says_that_it_failed():
    class Fails(tt.Function):
        def forward(self, x):
            return x + 0.0

        def vjp(self, g):
            raise OverflowError("planned")

    x = leaf(2)
    y = (Fails()(x) * 2).sum()
    with pytest.raises(OverflowError, match="planned"):
        y.backward()
    with pytest.raises(RuntimeError, match="Sum was freed by an earlier backward that failed in Fails"):
        y.backward()
    assert x.grad is None


def test_threads_that_reach_one_leaf_lose_no_update():
    x = tt.Tensor(np.zeros(50_000), requires_grad=True)
    start = threading.Barrier(4)

    def work():
        start.wait()
        for _ in range(50):
            (x * 1.0).sum().backward()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_array_equal(x.grad, 200)


def test_the_gradient_of_a_0d_parameter_keeps_its_shape():
    p = tt.nn.Parameter(np.float64(2.0))
    (p[None] * 3).sum().backward()
    assert p.grad.shape == ()
    assert p.grad == 3


def test_joining_many_tensors_takes_linear_work(monkeypatch):
    """Each comparison of two arrays by identity would show as a call of `id`; n inputs need a few n of them."""
    calls = 0

    def counted(x):
        nonlocal calls
        calls += 1
        return id(x)

    monkeypatch.setattr("tinytensor.tensor.id", counted, raising=False)
    x = leaf(1)
    tt.concat([x * 1.0 for _ in range(300)]).sum().backward()
    assert calls < 20 * 300
    assert x.grad == 300


# Data


def test_numbers_and_lists_become_arrays():
    x = tt.Tensor([1.0, 2.0])
    assert (x * 2).tolist() == [2.0, 4.0]
    assert x.dtype == np.float32
    assert tt.Tensor([[1, 2], [3, 4]]).dtype == np.int64
    assert tt.Tensor(True).dtype == np.bool_
    assert tt.Tensor(2.5).shape == ()
    assert tt.Tensor(np.float64(2.5)).dtype == np.float64
    assert tt.Tensor(tt.ones(3)).shape == (3,)


def test_an_array_is_shared_not_copied():
    array = np.ones(3)
    assert tt.Tensor(array).data is array


@pytest.mark.parametrize("data", ["abc", ["a"], {"a": 1}, [object()], np.array([None]), np.array(["x"]), 1j])
@pytest.mark.parametrize("make", [tt.Tensor, tt.tensor, tt.nn.Parameter])
def test_what_is_not_numeric_is_refused(make, data):
    with pytest.raises(TypeError, match="a tensor holds real numbers or booleans"):
        make(data)


def test_a_ragged_list_is_refused():
    with pytest.raises(ValueError, match="inhomogeneous"):
        tt.Tensor([[1.0], [1.0, 2.0]])


def test_numpys_scalars_do_not_widen_a_tensor():
    x = tt.ones(2)
    assert (x * np.float64(0.5)).dtype == np.float32
    assert (np.sqrt(2.0) * x).dtype == np.float32


def test_a_tensor_as_an_index_and_a_bound():
    x = tt.arange(5)
    assert x[tt.tensor(1) : tt.tensor(3)].tolist() == [1, 2]
    assert list(range(tt.tensor(2))) == [0, 1]
    for not_an_integer in (tt.tensor(1.0), tt.tensor([1]), tt.tensor(True)):
        with pytest.raises(TypeError, match="is not an integer"):
            x[not_an_integer:]


def test_to_something_that_is_neither_device_nor_dtype():
    with pytest.raises(ValueError, match=r"to\('gpu'\): is neither a device \(cpu, cuda.*\) nor a dtype"):
        tt.ones(2).to("gpu")


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x.__iadd__(1.0),
        lambda x: x.__isub__(1.0),
        lambda x: x.__imul__(2.0),
        lambda x: x.__itruediv__(2.0),
        lambda x: x.__setitem__(0, 2.0),
    ],
)
def test_changing_in_place_as_in_pytorch(change):
    x = tt.Tensor(np.ones(2), requires_grad=True)
    array = x.data
    with pytest.raises(RuntimeError, match="in-place"):
        change(x)
    np.testing.assert_array_equal(array, 1)
    y = (x * x).sum()
    with tt.no_grad():
        change(x)
    assert x.data is array
    assert array[0] != 1
    with pytest.raises(RuntimeError, match="changed in place"):
        y.backward()


def test_augmented_assignment_of_a_result_goes_out_of_place():
    x = leaf(3)
    y = x.exp()
    kept = y
    y += 1
    assert y is not kept
    y.sum().backward()
    np.testing.assert_allclose(x.grad, np.exp(x.data))


def test_an_array_over_foreign_memory_is_shared():
    """Its base is no array of ours: a buffer here, PyTorch's tensor elsewhere."""

    class Memory:
        shape = (8,)  # as a PyTorch tensor's, which has no `base`

        def __init__(self):
            self.kept = np.arange(8.0)
            self.__array_interface__ = self.kept.__array_interface__

    x = tt.Tensor(np.asarray(Memory()), requires_grad=True)
    y = x[2:].exp().sum()
    y.backward()
    np.testing.assert_allclose(x.grad[2:], np.exp(x.data[2:]))
    z = (x * x).sum()
    x.detach().mark_changed()
    with pytest.raises(RuntimeError, match="changed in place"):
        z.backward()


def test_an_in_place_operation_with_a_value_that_has_a_gradient_keeps_it():
    w = leaf(2)
    a = tt.Tensor(np.array([1.0, 2.0]))
    a += w
    (a * w).sum().backward()
    np.testing.assert_allclose(w.grad, [1, 2] + 2 * w.data)
    loss = tt.tensor(0.0, dtype=np.float64)
    loss += (w * w).sum()
    assert loss.requires_grad
    with pytest.raises(RuntimeError, match="would lose the value's gradient"):
        a.detach()[0] = w[0]


def test_floats_do_not_go_into_integers_in_place():
    x = tt.arange(3)
    with pytest.raises(TypeError, match="in-place add of floats to int64: the result would not fit; write x = x"):
        x += 1.5
    x += 1
    assert x.tolist() == [1, 2, 3]


def test_a_function_that_returns_its_input_shares_its_version():
    class Identity(tt.Function):
        def forward(self, x):
            return x

        def vjp(self, g):
            return (g,)

    x = leaf(3)
    y = Identity()(x)
    z = (y * y).sum()
    with tt.no_grad():
        x += 1
    with pytest.raises(RuntimeError, match="changed in place"):
        z.backward()


def test_numpys_functions_never_lose_a_gradient_silently():
    x = leaf(2, 3)
    assert isinstance(np.sum(x, axis=0), tt.Tensor)
    for function in (np.transpose, np.ravel, lambda x: np.stack([x, x]), np.linalg.norm):
        with pytest.raises(TypeError, match=r"np\.\w+ would lose the gradient; use an operation of tt, or x.detach"):
            function(x)
    assert np.stack([x.detach(), x.detach()]).shape == (2, 2, 3)
    with tt.no_grad():
        assert np.transpose(x).shape == (3, 2)


def test_arrays_are_assigned_as_arrays():
    x = leaf(2)
    x.data = tt.Tensor(np.ones(2))
    assert isinstance(x.data, np.ndarray)
    x.grad = [1.0, 2.0]
    assert isinstance(x.grad, np.ndarray)
    with pytest.raises(TypeError, match="only floating-point"):
        tt.arange(3).requires_grad = True
    with pytest.raises(TypeError, match=r"requires_grad 4: must be True or False \(for a shape, use tt.zeros\)"):
        tt.Tensor(3, 4)


def test_a_tensor_in_a_format_string():
    assert f"{tt.tensor(1.23456):.2f}" == "1.23"
    assert f"{tt.tensor([1.0])}" == "tensor([1.])"
    assert f"{tt.tensor([1.0]):>14}" == "  tensor([1.])"
    assert f"{tt.tensor(1.23456)}" == "tensor(1.2346)"


def test_an_operation_of_numbers_alone_gives_a_tensor():
    assert tt.add(1, 2).item() == 3
    assert tt.exp(0.0).item() == 1


def test_no_grad_decorates_with_and_without_parentheses():
    @tt.no_grad
    def double(x):
        return x * 2

    assert not double(leaf(2)).requires_grad
    assert double.__name__ == "double"


@pytest.mark.parametrize("part", ["forward", "vjp"])
def test_a_function_without_a_part_is_named(part):
    Half = type("Half", (tt.Function,), {"forward": lambda self, x: x * 0.5} if part == "vjp" else {})
    with pytest.raises(NotImplementedError, match=f"Half does not define {part}"):
        Half()(leaf(2)).sum().backward()


# What a stranger broke


def test_functions_that_define_equality_keep_their_own_gradients():
    @dataclasses.dataclass(unsafe_hash=True)
    class Scale(tt.Function):
        c: float

        def forward(self, x):
            return self.c * x

        def vjp(self, g):
            return (self.c * g,)

        def __bool__(self):
            return False

    x, y = leaf(2), leaf(2)
    (Scale(2.0)(x) * 3 + Scale(2.0)(y) * 5).sum().backward()
    np.testing.assert_allclose(x.grad, 6)
    np.testing.assert_allclose(y.grad, 10)


@pytest.mark.parametrize("share", [tt.Tensor, tt.nn.Parameter, lambda x: tt.Tensor(x.detach())])
def test_a_tensor_made_of_a_tensor_shares_its_version(share):
    x = leaf(2)
    z = (x * x).sum()
    other = share(x)
    assert np.shares_memory(other.data, x.data)
    with tt.no_grad():
        other -= 1
    with pytest.raises(RuntimeError, match="changed in place"):
        z.backward()


def test_arrays_of_ids_may_be_refilled_before_backward():
    x, ids = leaf(4, 3), np.array([0, 1])
    loss = x[ids].sum() + tt.embedding(ids, x).sum() + tt.cross_entropy(x[:2], ids) * 0
    ids[:] = 3
    loss.backward()
    np.testing.assert_allclose(x.grad[:, 0], [2, 2, 0, 0], atol=1e-12)


@pytest.mark.parametrize("operation", [tt.mul, tt.matmul, lambda w, c: tt.linear(w, c), lambda w, c: w / c])
def test_what_the_wanted_gradient_does_not_need_may_change(operation):
    w, c = leaf(2, 2), tt.Tensor(np.full((2, 2), 2.0))
    loss = operation(w, c).sum()
    with tt.no_grad():
        w -= 0.1  # only c's gradient would need it, and c wants none
    loss.backward()
    assert w.grad is not None
    loss = operation(w, c).sum()
    c += 1.0
    with pytest.raises(RuntimeError, match="changed in place"):
        loss.backward()


def test_arrays_of_other_kinds():
    with pytest.warns(PendingDeprecationWarning):
        matrix = tt.tensor(np.matrix([[1.0, 2.0], [3.0, 4.0]]))
    assert (matrix * matrix).tolist() == [[1, 4], [9, 16]]
    with pytest.raises(TypeError, match="not a masked array"):
        tt.Tensor(np.ma.array([1.0, 2.0], mask=[0, 1]))
    assert tt.softmax(np.ones(3, ">f4")).dtype == np.dtype("f4")
    with pytest.raises(TypeError, match="ReLU: got no tensor, array or number"):
        tt.relu(None)


def test_arrays_of_another_library_are_read_as_arrays():
    class Foreign:
        dtype = "theirs"

        def __array__(self, dtype=None, copy=None):
            return np.array([1.0, 2.0])

    assert (tt.ones(2, dtype=np.float64) * Foreign()).tolist() == [1.0, 2.0]


def test_many_rows_are_added_accurately():
    rows = 2_000_000
    x = tt.full((rows, 2), 0.1, requires_grad=True)
    assert x.sum(0).numpy() == pytest.approx(0.1 * rows, rel=5e-6)
    assert x.mean(0).numpy() == pytest.approx(0.1, rel=5e-6)
    bias = tt.zeros(2, requires_grad=True)
    (bias + x.detach()).backward(np.full((rows, 2), 0.1, np.float32))
    assert bias.grad == pytest.approx(0.1 * rows, rel=5e-6)


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("of_a_leaf", [False, True])
def test_a_vjp_may_add_to_what_has_reached_its_input(swapped, of_a_leaf):
    totals = []

    class Twice(tt.Function):
        accumulates = True

        def forward(self, x):
            return 2 * x

        def vjp(self, g, total=None):
            totals.append(total)
            return (2 * g if total is None else total + 2 * g,)

    x = tt.Tensor(np.ones(3), requires_grad=True)
    y = x if of_a_leaf else x * 1.0
    parts = [Twice()(y), y * 3.0]
    a, b = parts[::-1] if swapped else parts
    (a + b + Twice()(y)).backward(np.ones(3))
    np.testing.assert_array_equal(x.grad, [7, 7, 7])
    assert len(totals) == 2
    assert totals[1] is not None  # what reached y before

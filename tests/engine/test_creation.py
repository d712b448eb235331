"""Making tensors, drawing random ones, what they print, and what Tensor objects can do besides the operations."""

import itertools
import threading
from xml.etree import ElementTree

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

import tinytensor as tt

# Data


@pytest.mark.parametrize(
    ("data", "dtype"),
    [
        (1, np.int64),
        (1.5, np.float32),
        (True, np.bool_),
        ([1, 2], np.int64),
        ([[1.0], [2]], np.float32),
        ([], np.float32),
        (np.arange(3, dtype=np.uint8), np.uint8),
        (np.zeros(2), np.float64),
        (np.float64(2), np.float64),
        (tt.zeros(2, dtype=np.float16), np.float16),
    ],
    ids=repr,
)
def test_tensor_takes_its_dtype_from_the_data(data, dtype):
    x = tt.tensor(data)
    assert x.dtype == dtype
    assert x.shape == np.shape(data.data if isinstance(data, tt.Tensor) else data)


def test_tensor_copies_and_from_numpy_shares():
    array = np.zeros(3)
    copy, shared = tt.tensor(array), tt.from_numpy(array)
    array[0] = 7
    assert copy.data[0] == 0
    assert shared.data[0] == 7
    assert np.shares_memory(shared.numpy(), array)


@pytest.mark.parametrize("shape", [(), (0,), (2, 3)], ids=str)
def test_constants_take_a_shape_either_way(shape):
    for x in (tt.zeros(*shape), tt.zeros(shape) if shape else tt.zeros(()), tt.zeros(list(shape))):
        assert x.shape == shape
        assert x.dtype == np.float32
    np.testing.assert_array_equal(tt.ones(shape).data, np.ones(shape))
    np.testing.assert_array_equal(tt.full(shape, 2.5).data, np.full(shape, 2.5))
    assert tt.empty(shape).shape == shape
    assert tt.rand(*shape).shape == tt.randn(shape).shape == tt.randint(0, 5, shape).shape == shape


def test_ranges():
    for x, expected in [
        (tt.arange(4), np.arange(4)),
        (tt.arange(0), np.arange(0)),
        (tt.arange(2, 9, 3), np.arange(2, 9, 3)),
        (tt.arange(5, 0, -2), np.arange(5, 0, -2)),
    ]:
        assert x.dtype == np.int64
        np.testing.assert_array_equal(x.data, expected)
    assert tt.arange(0.0, 1.0, 0.25).dtype == np.float32
    assert tt.arange(3, dtype=np.float64).dtype == np.float64
    np.testing.assert_allclose(tt.linspace(0, 1, 5).data, [0, 0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(tt.logspace(0, 2, 3).data, [1, 10, 100])
    np.testing.assert_allclose(tt.logspace(0, 2, 3, base=2).data, [1, 2, 4])
    np.testing.assert_array_equal(tt.eye(2, 3).data, np.eye(2, 3))


def test_like_forms_take_shape_and_dtype():
    x = tt.zeros(2, 3, dtype=np.float64)
    for like in (tt.zeros_like, tt.ones_like, tt.empty_like, tt.rand_like, tt.randn_like):
        y = like(x)
        assert (y.shape, y.dtype) == ((2, 3), np.float64)
    assert tt.ones_like(x, dtype=np.int32).dtype == np.int32
    assert tt.zeros_like(x, requires_grad=True).requires_grad
    assert tt.randint_like(x, 2, 4).dtype == np.int64
    assert (tt.full_like(x, 3).data == 3).all()


# Random numbers


def test_the_distributions():
    tt.manual_seed(0)
    n = 100_000
    normal, uniform, dice = tt.randn(n).data, tt.rand(n).data, tt.randint(1, 7, n).data
    assert abs(normal.mean()) < 5 / n**0.5
    assert abs(normal.var() - 1) < 5 * (2 / n) ** 0.5
    assert 0 <= uniform.min() < uniform.max() < 1
    assert abs(uniform.mean() - 0.5) < 5 / (12 * n) ** 0.5
    counts = np.bincount(dice, minlength=7)
    assert counts[0] == 0
    assert chi_square(counts[1:], np.full(6, n / 6)) < 30  # 5 degrees of freedom: exceeded once in 70,000


def chi_square(counts, expected):
    return ((counts - expected) ** 2 / expected).sum()


def test_multinomial_follows_the_weights():
    tt.manual_seed(0)
    weights = np.array([[1, 0, 3, 4], [0, 2, 2, 0]])
    picks = tt.multinomial(tt.tensor(weights, dtype=np.float32), 20_000, replacement=True)
    assert picks.shape == (2, 20_000)
    for row, w in zip(picks.data, weights, strict=True):
        counts = np.bincount(row, minlength=4)
        assert (counts[w == 0] == 0).all()
        assert chi_square(counts[w > 0], 20_000 * w[w > 0] / w.sum()) < 25


def test_multinomial_without_replacement_draws_distinct_ones_in_proportion():
    tt.manual_seed(0)
    weights = tt.tensor(np.tile([1.0, 2, 0, 3], (20_000, 1)))
    picks = tt.multinomial(weights, 2).data
    assert picks.shape == (20_000, 2)
    assert (picks[:, 0] != picks[:, 1]).all()
    assert not (picks == 2).any()
    first = np.bincount(picks[:, 0], minlength=4)[[0, 1, 3]]
    assert chi_square(first, 20_000 * np.array([1, 2, 3]) / 6) < 25
    after_last = np.bincount(picks[picks[:, 0] == 3, 1], minlength=2)[:2]
    assert chi_square(after_last, after_last.sum() * np.array([1, 2]) / 3) < 25


def test_multinomial_of_a_vector():
    assert tt.multinomial(tt.ones(5), 3).shape == (3,)
    assert sorted(tt.multinomial(tt.ones(5), 5).tolist()) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("weights", [[0.0, 0], [1, -1], [1, float("nan")], [1, float("inf")], [1.0]], ids=str)
def test_multinomial_refuses_impossible_weights(weights):
    with pytest.raises(ValueError, match="each row needs finite weights >= 0, at least 2 of them positive"):
        tt.multinomial(tt.tensor(weights), 2)


@pytest.mark.parametrize("scale", [5e-324, 1e-300, 1e308])
@pytest.mark.parametrize("replacement", [True, False])
def test_multinomial_of_extreme_weights(scale, replacement):
    weights = np.array([1.0, 0.0, 1.0]) * scale
    picks = tt.multinomial(weights, 2, replacement).data
    assert set(picks) <= {0, 2}
    assert replacement or set(picks) == {0, 2}


@pytest.mark.parametrize(
    ("weights", "samples", "words"),
    [
        ([1.0, 1.0], -1, "num_samples -1: must be at least 1"),
        ([[[1.0]]], 1, r"weights have shape \(1, 1, 1\): must be \(V,\) or \(N, V\)"),
        (1.0, 1, r"weights have shape \(\): must be"),
    ],
)
def test_multinomial_names_what_it_refuses(weights, samples, words):
    with pytest.raises(ValueError, match=f"^multinomial: {words}"):
        tt.multinomial(tt.tensor(weights), samples)


@hypothesis.given(st.lists(st.integers(-(2**70), 2**70) | st.text(), max_size=4))
def test_fold_is_a_function_of_the_key(key):
    assert tt.fold(*key) == tt.fold(*key)
    assert 0 <= tt.fold(*key) < 2**64
    assert tt.fold(*key, 0) != tt.fold(*key)


def test_fold_tells_keys_apart_and_knows_numpys_integers():
    keys = [(), (1,), ("1",), (1, 2), (12,), ("a", "b"), ("ab",), ("a, b",), (2, 1)]
    assert len({tt.fold(*key) for key in keys}) == len(keys)
    assert tt.fold(np.int64(3), "x") == tt.fold(3, "x")


def test_fold_is_the_same_on_every_machine():
    """Runs rely on it: a change here breaks the resumption of every one of them."""
    assert [tt.fold(1, "batch", 2), tt.fold(1337)] == [11013663099327978777, 12513497325520962294]


def test_seeded_draws_are_a_function_of_the_key_and_nest():
    def draws(*key):
        with tt.seeded(*key):
            return [tt.randn(2).tolist() for _ in range(2)]

    first = draws(1, "weights", 5)
    tt.randn(3)
    assert draws(1, "weights", 5) == first
    assert first[0] != first[1]
    assert draws(1, "weights", 6) != first
    with tt.seeded("outer"):
        a = tt.randn(1).tolist()
        draws("inner")
        b = tt.randn(1).tolist()
    with tt.seeded("outer"):
        assert [tt.randn(1).tolist(), tt.randn(1).tolist()] == [a, b]  # the inner draws did not count


def test_the_outer_stream_goes_on_after_an_exception():
    tt.manual_seed(3)
    expected = tt.rand(1).item()
    tt.manual_seed(3)
    with pytest.raises(KeyError), tt.seeded("x"):
        raise KeyError
    assert tt.rand(1).item() == expected


def test_manual_seed_repeats_and_is_of_its_thread():
    tt.manual_seed(7)
    first = tt.randn(3).tolist()

    def other():
        tt.manual_seed(8)
        tt.randn(100)

    tt.manual_seed(7)
    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert tt.randn(3).tolist() == first


# Tensor objects


@pytest.mark.parametrize(
    ("x", "text"),
    [
        (tt.tensor([1.0, 2.5]), "tensor([1. , 2.5])"),
        (tt.tensor([1, 2]), "tensor([1, 2])"),
        (tt.tensor([True]), "tensor([ True])"),
        (tt.tensor([1.0], dtype=np.float64), "tensor([1.], dtype=float64)"),
        (tt.tensor(2.0, requires_grad=True), "tensor(2., requires_grad=True)"),
        (tt.tensor([2.0], requires_grad=True).exp(), "tensor([7.3891], function=Exp)"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_repr(x, text):
    assert repr(x) == text


def test_repr_of_a_large_tensor_is_short():
    assert len(repr(tt.zeros(1000, 1000))) < 2000


def test_arrays_and_numbers_on_the_left():
    x, array = tt.ones(2, requires_grad=True), np.array([1.0, 2.0], np.float32)
    for y in (array + x, array - x, array * x, array / x, np.eye(2, dtype=np.float32) @ x, 2 - x, 2 / x, 2**x):
        assert isinstance(y, tt.Tensor)
        assert y.requires_grad
    np.testing.assert_array_equal((array - x).data, [0, 1])


def test_comparisons_give_boolean_tensors():
    x = tt.tensor([1.0, 2.0, 3.0])
    assert (x > 2).tolist() == [False, False, True]
    assert (x == tt.tensor([1.0, 0, 3])).tolist() == [True, False, True]
    assert (x >= 2).any()
    assert not (x != x).any()


def test_conversions():
    scalar, x = tt.tensor(1.5, requires_grad=True), tt.tensor([[1.5]])
    assert (float(scalar), int(scalar), bool(scalar), scalar.item()) == (1.5, 1, True, 1.5)
    assert (x.item(), x.tolist()) == (1.5, [[1.5]])
    assert (len(x), x.numel(), x.size(), x.size(0), x.ndim, x.device) == (1, 1, (1, 1), 1, 2, "cpu")
    assert isinstance(x.numpy(), np.ndarray)
    assert len({x, x, tt.ones(1)}) == 2
    with pytest.raises(ValueError, match="ambiguous"):
        bool(tt.ones(2))


def test_iteration_and_unpacking():
    x = tt.tensor([[1.0, 2], [3, 4]], requires_grad=True)
    first, second = x
    (first * second).sum().backward()
    np.testing.assert_array_equal(x.grad, [[3, 4], [1, 2]])


def test_assignment():
    x = tt.zeros(2, 3)
    x[0] = 1.0
    x[:, tt.tensor([1])] = tt.tensor([[5.0], [6.0]])
    x[tt.tensor([[False] * 3, [True] * 3])] = 9.0
    assert x.tolist() == [[1, 5, 1], [9, 9, 9]]


def test_indices_may_be_tensors():
    x = tt.tensor([[1.0, 2], [3, 4]], requires_grad=True)
    (x[tt.tensor([0, 0, 1]), tt.tensor([1, 1, 0])]).sum().backward()
    np.testing.assert_array_equal(x.grad, [[0, 2], [1, 0]])
    assert x[x > 2].tolist() == [3, 4]


def test_nothing_to_concatenate_is_an_error():
    with pytest.raises(ValueError, match="needs at least one"):
        tt.concat([])


def test_a_constant_power_of_zero_has_gradient_zero():
    x = tt.tensor([0.0, 2.0], requires_grad=True)
    sum(c * x**k for k, c in enumerate([1.0, 2.0, 3.0])).sum().backward()
    np.testing.assert_allclose(x.grad, [2, 14])


# Devices


def test_the_cpu_is_there():
    device = tt.device("cpu")
    assert (device.name, device.xp) == ("cpu", np)
    assert tt.device(device) is device
    assert tt.array_module(np.zeros(1)) is tt.array_module(1.0) is np
    device.synchronize()
    array = np.zeros(2)
    assert device.put(array) is array


@pytest.mark.parametrize("name", ["gpu", "", "cpu:0", "cuda:x", "CPU"])
def test_an_unknown_device_is_named(name):
    with pytest.raises(tt.DeviceError, match="must be auto, cpu, cuda, cuda:N or emulated"):
        tt.device(name)


def has_gpu() -> bool:
    try:
        return tt.device("cuda") is not None
    except tt.DeviceError:
        return False


@pytest.mark.skipif(has_gpu(), reason="there is a GPU here")
def test_cuda_without_a_gpu_says_what_is_missing():
    for use in (lambda: tt.device("cuda"), lambda: tt.zeros(2, device="cuda"), lambda: tt.nn.Linear(1, 1).to("cuda")):
        with pytest.raises(tt.DeviceError, match=r"\Adevice 'cuda': [^\n]+\Z"):
            use()
    assert tt.device("auto").name == "cpu"


@pytest.mark.gpu
@pytest.mark.skipif(not has_gpu(), reason="needs a GPU")
def test_a_gpu_that_is_not_there_is_counted():
    with pytest.raises(tt.DeviceError, match="numbered from 0"):
        tt.device("cuda:99")


# The graph as a picture


def test_draw_has_a_node_for_every_operation(tmp_path):
    x, w = tt.ones(3, requires_grad=True), tt.nn.Parameter(np.ones((3, 2), np.float32))
    loss = ((x @ w).exp() + (x @ w).tanh()).sum()
    tt.draw(loss).save(tmp_path / "graph.svg")
    svg = ElementTree.parse(tmp_path / "graph.svg").getroot()
    texts = [element.text for element in svg.iter("{http://www.w3.org/2000/svg}text")]
    for name, count in {"MatMul": 2, "Exp": 1, "Tanh": 1, "Add": 1, "Sum": 1, "Parameter": 1, "3 x 2": 1}.items():
        assert texts.count(name) == count
    assert len(list(svg.iter("{http://www.w3.org/2000/svg}path"))) == 2 * 2 + 1 + 1 + 2 + 1


def test_drawn_nodes_do_not_overlap():
    x = tt.ones(2, 3, requires_grad=True)
    y = x
    for _ in range(3):  # edges that skip columns
        y = (y.exp() + y) * x
    svg = ElementTree.fromstring(tt.draw(y).svg())
    ellipses = [(int(e.get("cx")), int(e.get("cy"))) for e in svg.iter("{http://www.w3.org/2000/svg}ellipse")]
    assert len(ellipses) == 9
    assert all(abs(a - c) >= 116 or abs(b - d) >= 34 for (a, b), (c, d) in itertools.combinations(ellipses, 2))


def test_a_leaf_is_drawn_with_its_value():
    assert tt.draw(tt.tensor(2.5, requires_grad=True)).svg().count("2.5") == 1


def test_a_generator_has_draws_of_its_own():
    tt.manual_seed(0)
    expected = tt.rand(3).data
    tt.manual_seed(0)
    g = tt.Generator().manual_seed(7)
    weights = tt.ones(50)

    def draws():
        dice = tt.randint(100, (4,), generator=g), tt.multinomial(weights, 3, generator=g)
        return [x.tolist() for x in (tt.randn(2, 2, generator=g), tt.rand((2,), generator=g), *dice)]

    first, second = draws(), draws()
    assert first != second
    g.manual_seed(7)
    assert [draws(), draws()] == [first, second]
    np.testing.assert_array_equal(tt.rand(3).data, expected)  # this thread's draws go on as if there were no others


def test_a_long_tensor_is_of_integers():
    assert tt.LongTensor([1, 5, 3]).dtype == tt.long
    assert tt.LongTensor([1, 5, 3]).nelement() == 3
    assert tt.tensor([1, 2]).double().dtype == tt.double == np.float64
    assert tt.tensor([1.5, 2]).type(tt.int).tolist() == [1, 2]
    assert (tt.float, tt.int, tt.bool) == (np.float32, np.int32, np.bool_)

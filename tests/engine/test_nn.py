"""Modules: names, order, state, modes."""

import numpy as np
import pytest

import tinytensor as tt
from tinytensor import nn


class Tied(nn.Module):
    """Two layers with one weight."""

    def __init__(self):
        self.embedding = nn.Embedding(5, 3)
        self.scale = nn.Parameter(np.ones(3, np.float32))
        self.layers = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5), nn.LayerNorm(3))
        self.head = nn.Module()
        self.head.weight = self.embedding.weight

    def forward(self, ids):
        return self.layers(self.embedding(ids) * self.scale) @ self.head.weight.T


NAMES = ["embedding.weight", "scale", "layers.0.weight", "layers.0.bias", "layers.2.weight", "layers.2.bias"]


def test_parameters_are_found_in_order_and_once():
    model = Tied()
    assert [name for name, _ in model.named_parameters()] == NAMES
    assert list(model.state_dict()) == NAMES
    assert [id(p) for p in model.parameters()] == [id(p) for _, p in model.named_parameters()]
    assert model.parameters()[0] is model.head.weight


def test_a_shared_weight_gets_the_sum_of_both_uses():
    model = Tied().eval()
    ids = np.array([1, 4])
    model(ids).sum().backward()
    total = model.embedding.weight.grad
    with_head = Tied()
    with_head.load_state_dict(model.state_dict())
    with_head.eval()
    with_head.head.weight = nn.Parameter(model.head.weight.data.copy())
    with_head(ids).sum().backward()
    np.testing.assert_allclose(total, with_head.embedding.weight.grad + with_head.head.weight.grad, rtol=1e-5)


def test_state_moves_between_models_by_copying():
    a, b = Tied(), Tied()
    b.load_state_dict(a.state_dict())
    for x, y in zip(a.parameters(), b.parameters(), strict=True):
        np.testing.assert_array_equal(x.data, y.data)
        assert not np.shares_memory(x.data, y.data)


def test_state_is_loaded_in_the_parameters_dtype_and_layout():
    model = nn.Linear(3, 2)
    weight = np.arange(6.0).reshape(2, 3).T  # float64, column-major
    model.load_state_dict({"weight": weight, "bias": np.ones(2)})
    assert model.weight.dtype == np.float32
    model.weight.grad = np.ones((3, 2), np.float32)
    tt.optim.AdamW([model.weight], lr=1.0, weight_decay=0.0).step()
    np.testing.assert_allclose(model.weight.data, weight - 1, atol=1e-6)


def test_a_parameter_of_any_layout_learns():
    p = nn.Parameter(np.ones((2, 3), np.float32).T)
    p.grad = np.ones((3, 2), np.float32)
    tt.optim.AdamW([p], lr=1.0, weight_decay=0.0).step()
    np.testing.assert_allclose(p.data, 0, atol=1e-6)


def test_a_state_that_does_not_fit_is_listed_and_changes_nothing():
    model = Tied()
    state = {name: array + 1 for name, array in model.state_dict().items()}
    before = {name: array.copy() for name, array in model.state_dict().items()}
    del state["scale"], state["layers.0.bias"]
    state["extra"] = np.ones(1)
    state["layers.2.weight"] = np.ones((3, 1))
    with pytest.raises(ValueError, match="state does not fit Tied") as caught:
        model.load_state_dict(state)
    for words in ("missing scale", "missing layers.0.bias", "unexpected extra"):
        assert words in str(caught.value)
    assert "layers.2.weight has shape (3, 1), needs (3,)" in str(caught.value)
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


def test_a_state_may_name_a_shared_weight_twice():
    model = Tied()
    model.load_state_dict({**model.state_dict(), "head.weight": model.head.weight.data})


def test_train_and_eval_reach_every_module():
    model = Tied()
    assert all(module.training for module in model.modules())
    assert model.eval() is model
    assert not any(module.training for module in model.modules())
    x = tt.ones(50, 3)
    assert model.layers.training is False
    np.testing.assert_array_equal(nn.Dropout(0.5).eval()(x).data, 1)
    assert (nn.Dropout(0.5)(x).data == 0).any()
    assert model.train().layers.training


def test_sequential_numbers_its_modules_and_applies_them_in_turn():
    layers = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.GELU(), nn.Linear(4, 1, bias=False))
    assert [type(m).__name__ for m in layers] == ["Linear", "ReLU", "GELU", "Linear"]
    assert list(layers.state_dict()) == ["0.weight", "0.bias", "3.weight"]
    x = tt.randn(5, 2)
    by_hand = layers.__dict__["3"](tt.gelu(tt.relu(layers.__dict__["0"](x)), "none"))
    np.testing.assert_array_equal(layers(x).data, by_hand.data)
    assert nn.Sequential()(x) is x


def test_layers_start_as_documented():
    tt.manual_seed(0)
    linear = nn.Linear(400, 300)
    assert linear.weight.shape == (400, 300)
    assert linear.weight.data.std() == pytest.approx(1 / 20, rel=0.02)
    assert not linear.bias.data.any()
    assert nn.Linear(400, 300, std=0.5).weight.data.std() == pytest.approx(0.5, rel=0.02)
    rms, x = nn.RMSNorm(4, eps=0.1), tt.randn(2, 4)
    rms.weight.data[...] = [1, 2, 3, 4]
    np.testing.assert_array_equal(rms(x).data, tt.rms_norm(x, rms.weight, 0.1).data)
    norm = nn.LayerNorm(4, bias=False)
    assert norm.bias is None
    np.testing.assert_array_equal(norm.weight.data, 1)
    assert nn.Embedding(300, 400).weight.data.std() == pytest.approx(1, rel=0.02)


def test_zero_grad_sets_every_grad_to_none():
    model = Tied()
    model(np.array([0])).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    model.zero_grad()
    assert all(p.grad is None for p in model.parameters())


def test_moving_to_a_device_keeps_the_values(device):
    model = Tied()
    before = {name: array.copy() for name, array in model.state_dict().items()}
    assert model.to(device) is model
    for name, array in model.state_dict().items():
        assert tt.array_module(array) is device.xp
        np.testing.assert_array_equal(tt.to_numpy(array), before[name])


# Modules in containers


@pytest.mark.parametrize(
    "hidden",
    [
        [nn.Linear(2, 2)],
        (nn.Linear(2, 2),),
        {"a": nn.Linear(2, 2)},
        [nn.Parameter(np.ones(2))],
        {nn.Linear(2, 2)},
        [[nn.Linear(2, 2)]],
        {"a": [nn.Linear(2, 2)]},
    ],
    ids=["list", "tuple", "dict", "parameters", "set", "list in a list", "list in a dict"],
)
def test_modules_in_a_plain_container_are_noticed(hidden):
    model = nn.Module()
    model.layers = hidden
    for use in (model.parameters, model.state_dict, model.eval, model.zero_grad, lambda: repr(model)):
        with pytest.raises(TypeError, match=rf"Module.layers is a plain {type(hidden).__name__} .*: use nn.ModuleList"):
            use()


def test_a_module_list_holds_parameters_and_nothing_else():
    model = nn.Module()
    model.layers = nn.ModuleList(nn.Linear(2, n) for n in (1, 2))
    model.layers.append(nn.ReLU())
    assert [type(m).__name__ for m in model.layers] == ["Linear", "Linear", "ReLU"]
    assert list(model.state_dict()) == ["layers.0.weight", "layers.0.bias", "layers.1.weight", "layers.1.bias"]
    assert model.layers[1] is list(model.layers)[1]
    assert model.layers[-1] is list(model.layers)[2]
    assert len(model.layers) == 3
    with pytest.raises(IndexError):
        model.layers[3]
    with pytest.raises(TypeError, match="is a function, must be a Module"):
        model.layers.append(tt.relu)
    with pytest.raises(TypeError, match="must be a Module"):
        nn.Sequential(nn.Linear(2, 2), tt.relu)


def test_sequential_can_be_indexed():
    layers = nn.Sequential(nn.Linear(2, 4), nn.ReLU())
    assert isinstance(layers[0], nn.Linear)
    assert isinstance(layers[-1], nn.ReLU)
    assert len(layers) == 2


def test_repr_shows_the_tree_with_shapes_and_counts():
    model = nn.Sequential(nn.Linear(2, 3, bias=False), nn.Sequential(nn.Dropout(0.25), nn.LayerNorm(3)))
    assert repr(model).splitlines() == [
        "Sequential(  # 12 parameters",
        "  (0): Linear(weight (2, 3))  # 6 parameters",
        "  (1): Sequential(  # 6 parameters",
        "    (0): Dropout(p=0.25)",
        "    (1): LayerNorm(weight (3,), bias (3,))  # 6 parameters",
        "  )",
        ")",
    ]


def test_num_parameters_counts_a_shared_weight_once():
    assert Tied().num_parameters() == 5 * 3 + 3 + (9 + 3) + (3 + 3)


@pytest.mark.parametrize("p", [-0.1, 1.0, 1.5, float("nan")])
def test_an_impossible_dropout_is_refused_at_once(p):
    with pytest.raises(ValueError, match=r"Dropout: probability .*: must be at least 0 and less than 1"):
        nn.Dropout(p)


def test_a_state_may_come_as_lists_or_tensors():
    model = nn.Linear(2, 1)
    model.load_state_dict({"weight": [[1.0], [2.0]], "bias": tt.tensor([3.0])})
    assert model(tt.ones(2)).tolist() == [6.0]
    with pytest.raises(TypeError, match="real numbers"):
        model.load_state_dict({"weight": "abc", "bias": [1.0]})


def test_a_parameter_is_not_lost_to_a_plain_tensor():
    layer = nn.Linear(2, 2)
    with pytest.raises(TypeError, match=r"weight is a Parameter, and a Tensor is not: assign an nn.Parameter"):
        layer.weight = tt.zeros(2, 2)
    layer.weight = nn.Parameter(np.ones((2, 2)))
    layer.bias = None
    assert list(layer.state_dict()) == ["weight"]


def test_to_takes_devices_and_dtypes():
    layer = nn.Linear(2, 2).to(np.float64)
    assert layer.weight.dtype == np.float64
    assert layer.to(tt.device("cpu")) is layer
    assert tt.ones(2).to(tt.device("cpu")).device == "cpu"
    with pytest.raises(ValueError, match="is neither a device"):
        layer.to("gpu")


def test_a_module_without_forward_is_named():
    with pytest.raises(NotImplementedError, match="ModuleList does not define forward"):
        nn.ModuleList()(1)


def test_a_list_of_modules_that_are_attributes_too_is_fine():
    model = nn.Module()
    model.a = nn.Linear(2, 2)
    model.all = [model.a]
    assert list(model.state_dict()) == ["a.weight", "a.bias"]


# ---- under PyTorch's names -------------------------------------------------------------------------------------------


class Masked(nn.Module):
    """A layer with a mask, and a cache that is not saved."""

    def __init__(self):
        self.layer = nn.Linear(3, 2)
        self.register_buffer("mask", tt.tril(tt.ones(3, 3)) == 0)
        self.register_buffer("mean", tt.zeros(3))
        self.register_buffer("cache", tt.ones(2), persistent=False)


def test_a_buffer_is_saved_moved_and_not_trained():
    model = nn.Sequential(Masked())
    assert list(model.state_dict()) == ["0.layer.weight", "0.layer.bias", "0.mask", "0.mean"]
    assert [name for name, _ in model.named_buffers()] == ["0.mask", "0.mean", "0.cache"]
    assert len(model.parameters()) == 2
    assert model.num_parameters() == 8
    state = {name: array.copy() for name, array in model.state_dict().items()}
    other = nn.Sequential(Masked())
    other.load_state_dict(state | {"0.mean": np.full(3, 2.0)})
    np.testing.assert_array_equal(other[0].mean.data, 2)
    with pytest.raises(ValueError, match=r"missing 0\.mask"):
        other.load_state_dict({name: array for name, array in state.items() if name != "0.mask"})
    other.to(np.float64)
    assert [b.dtype for _, b in other.named_buffers()] == [np.bool_, np.float64, np.float64]


def test_buffers_move_with_the_parameters(device):
    model = Masked().to(device)
    assert {tensor.device for tensor in (model.layer.weight, model.mask, model.cache)} == {device.name}


def test_what_is_assigned_to_a_buffer_is_one():
    model = Masked()
    model.mean = 0.9 * model.mean + 0.1 * tt.ones(3)
    model.cache = tt.zeros(2)
    assert "mean" in model.state_dict()
    assert "cache" not in model.state_dict()
    with pytest.raises(TypeError, match=r"mean is a Buffer, which has no gradient: assign the value's detach\(\)"):
        model.mean = model.layer.bias.sum() * model.mean


def test_apply_reaches_every_module_children_first():
    model = nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.Embedding(4, 2)))
    seen = []
    assert model.apply(lambda module: seen.append(type(module).__name__)) is model
    assert seen == ["Linear", "Embedding", "Sequential", "Sequential"]


def test_init_fills_in_place(device):
    weight = nn.Linear(200, 100).to(device).weight
    array = weight.data
    with tt.seeded(1):
        assert nn.init.normal_(weight, mean=1.0, std=0.02) is weight
    assert weight.data is array
    values = weight.numpy()
    assert abs(values.mean() - 1) < 5 * 0.02 / 200 * 1.5
    assert abs(values.std() - 0.02) < 0.001
    np.testing.assert_array_equal(nn.init.zeros_(weight).numpy(), 0)
    np.testing.assert_array_equal(nn.init.ones_(weight).numpy(), 1)


def test_init_is_noticed_by_a_graph_that_needs_the_old_values():
    layer = nn.Linear(2, 2)
    y = layer(tt.ones(1, 2, requires_grad=True)).sum()
    nn.init.zeros_(layer.weight)
    with pytest.raises(RuntimeError, match="changed in place"):
        y.backward()


def test_a_module_dict_holds_modules_by_name():
    model = nn.Module()
    model.transformer = nn.ModuleDict({"wte": nn.Embedding(5, 2), "h": nn.ModuleList([nn.Linear(2, 2)])})
    transformer = model.transformer
    transformer["ln_f"] = nn.LayerNorm(2)
    assert transformer.wte is transformer["wte"]
    assert list(transformer) == list(transformer.keys()) == ["wte", "h", "ln_f"]
    assert len(transformer) == len(list(transformer.values())) == 3
    assert "h" in transformer
    assert "training" not in transformer
    assert [name for name, _ in model.named_parameters()][:2] == ["transformer.wte.weight", "transformer.h.0.weight"]
    transformer["ln_f"] = nn.ReLU()
    assert len(model.parameters()) == 3
    with pytest.raises(KeyError, match="'forward' is a method of it"):
        transformer["forward"] = nn.ReLU()
    with pytest.raises(TypeError, match="is a float, must be a Module"):
        transformer["x"] = 1.0
    with pytest.raises(KeyError, match="wpe"):
        transformer["wpe"]

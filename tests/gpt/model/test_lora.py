"""LoRA and frozen parameters in a model: gradients, what is trained, and merging."""

import numpy as np
import pytest

import tinytensor as tt
from gpt.errors import UserError
from gpt.model import GPT, GPTConfig
from gpt.model.freezing import freeze, frozen_blocks, matches
from gpt.model.lora import LoRALinear, add_adapters, base_state, load_saved_state, merge, saved_state
from tinytensor import nn
from tinytensor.parallel import BatchParallel

LAYERS = ["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"]
SHAPE = {"vocab_size": 20, "block_size": 12, "n_layer": 2, "n_head": 2, "n_embd": 8}
CONFIGS = [
    GPTConfig(**SHAPE),
    GPTConfig(**SHAPE, activation="gelu_erf", n_inner=12, bias=False),
    GPTConfig(**SHAPE, activation="swiglu", norm_layer="rms", positions="rotary", bias=False, n_kv_head=1),
]
IDS, TARGETS = np.random.default_rng(0).integers(0, 20, (2, 4, 12))
PRODUCTS = [tt.linear, tt.gelu_linear, tt.swiglu_linear]


def adapted(config, layers=LAYERS, alpha=6.0):
    """A model with adapters that are not zero."""
    with tt.seeded(1):
        model = GPT(config)
        add_adapters(model, 3, alpha, layers)
        for name, parameter in model.named_parameters():
            if name.endswith("lora_b"):
                parameter.data = 0.1 * tt.randn(*parameter.shape).data
    return model


@pytest.mark.parametrize("product", PRODUCTS, ids=lambda product: product.__name__)
def test_the_gradients_of_an_adapter(product):
    x, weight, bias, a, b = (np.random.default_rng(i).standard_normal(s) for i, s in enumerate(SHAPES_OF[product]))
    layer = LoRALinear(nn.Linear(*weight.shape), 2, 1.5)

    def forward(x, a, b):
        for name, value in (("weight", weight), ("bias", bias), ("lora_a", a), ("lora_b", b)):
            vars(layer)[name] = value if isinstance(value, tt.Tensor) else tt.Tensor(value)
        return layer(x, product)

    assert tt.gradcheck(forward, x, a, b)
    written = product(tt.Tensor(x), tt.Tensor(weight + 1.5 * a @ b), tt.Tensor(bias)).data
    np.testing.assert_allclose(forward(tt.Tensor(x), tt.Tensor(a), tt.Tensor(b)).data, written, rtol=1e-10)


SHAPES_OF = {product: [(2, 3, 4), (4, 5), (5,), (4, 2), (2, 5)] for product in PRODUCTS[:2]}
SHAPES_OF[tt.swiglu_linear] = [(2, 3, 8), (4, 5), (5,), (4, 2), (2, 5)]


@pytest.mark.parametrize("product", PRODUCTS, ids=lambda product: product.__name__)
def test_below_a_frozen_layer_the_gradient_is_the_same_and_there_is_no_other(product, device, monkeypatch):
    x, weight, bias, *_ = (np.random.default_rng(i).standard_normal(s) for i, s in enumerate(SHAPES_OF[product]))
    found = []
    for trained in (True, False):
        inputs = [tt.Tensor(device.put(array.astype(np.float32))) for array in (x, weight, bias)]
        for tensor, required in zip(inputs, (True, trained, trained), strict=True):
            tensor.requires_grad = required
        kernels = tt.kernels_for(inputs[0].data)
        if not trained:
            monkeypatch.setattr(kernels, "linear_backward", None)  # is not needed
        y = product(*inputs)
        if product is tt.linear and not trained:
            assert all(saved is not inputs[0].data for saved in y.function._saved)
        y.backward(device.xp.ones(y.shape, dtype="float32"))
        found.append(tt.to_numpy(inputs[0].grad))
        assert [tensor.grad is None for tensor in inputs[1:]] == [not trained] * 2
    np.testing.assert_allclose(found[1], found[0], rtol=1e-6)


def test_a_frozen_head_has_no_gradient(device):
    x, weight = (np.random.default_rng(i).standard_normal((6, 5)).astype(np.float32) for i in range(2))
    found = []
    for trained in (True, False):
        head = tt.Tensor(device.put(weight), requires_grad=trained)
        rows = tt.Tensor(device.put(x), requires_grad=True)
        loss = tt.linear_cross_entropy(rows, head, np.array([0, 1, 2, 3, -100, 5]))
        assert (loss.function.gw is None) is not trained
        loss.backward()
        found.append((float(loss), tt.to_numpy(rows.grad).tolist()))
    assert found[0] == found[1]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.activation)
def test_training_begins_at_the_model_and_changes_its_adapters_alone(config):
    with tt.seeded(1):
        model, plain = GPT(config), None
    with tt.seeded(1):
        plain = GPT(config)
    with tt.seeded(2):
        add_adapters(model, 3, 6.0, LAYERS)
    np.testing.assert_array_equal(model(IDS).data, plain(IDS).data)
    before = {name: array.copy() for name, array in base_state(model).items()}
    assert before.keys() == plain.state_dict().keys()
    optimizer = tt.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(3):
        loss = model(IDS, TARGETS)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert float(loss) < float(plain(IDS, TARGETS))
    for name, array in base_state(model).items():
        np.testing.assert_array_equal(array, before[name])
    assert len(saved_state(model)) == 2 * 2 * len(LAYERS)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.activation)
def test_merged_adapters_give_the_same_logits(config):
    model = adapted(config)
    merged = GPT(config)
    merged.load_state_dict(base_state(model))
    changed = merged(IDS).data
    merge(merged, saved_state(model), 2.0)
    expected = model(IDS).data
    assert np.abs(merged(IDS).data - expected).max() < 1e-5 * np.abs(expected).max()
    assert np.abs(changed - expected).max() > 1e-2 * np.abs(expected).max()
    training = model.train()(IDS).data  # through the fused products
    assert np.abs(training - expected).max() < 1e-5 * np.abs(expected).max()


def test_saved_adapters_are_loaded_in_place_and_others_refused():
    model, other = adapted(CONFIGS[0]), adapted(CONFIGS[0], LAYERS[:1])
    state = {name: array + 1 for name, array in saved_state(model).items()}
    places = model.state_dict()
    load_saved_state(model, state)
    assert all(array is places[name] for name, array in model.state_dict().items())
    np.testing.assert_array_equal(
        saved_state(model)["transformer.h.1.mlp.c_fc.lora_b"], state["transformer.h.1.mlp.c_fc.lora_b"]
    )
    with pytest.raises(ValueError, match=r"unexpected or misshaped .*attn\.c_proj\.lora_a"):
        load_saved_state(other, state)


def test_processes_have_buffers_for_the_gradients_of_adapters_alone():
    alone, several = adapted(CONFIGS[2]), adapted(CONFIGS[2])
    one, two = BatchParallel(alone, 2, processes=1), BatchParallel(several, 2, processes=2)
    losses = [float(parallel.backward(IDS, TARGETS)) for parallel in (one, two)]
    assert losses[0] == losses[1]
    for p, q in zip(alone.parameters(), several.parameters(), strict=True):
        assert (p.grad is None) is (not p.requires_grad)
        np.testing.assert_array_equal(p.grad, q.grad)
    trained = [p.shape for p in several.parameters() if p.requires_grad]
    assert [array.shape for array in two._workers[0]._gradients[0]] == trained


def test_patterns_name_whole_components():
    assert matches("transformer.h.1.ln_1.weight", "transformer.h.1")
    assert matches("transformer.h.1.ln_1.weight", "transformer.*.1.ln_1")
    assert not matches("transformer.h.10.ln_1.weight", "transformer.h.1")
    assert not matches("transformer.h.1", "transformer.h.1.ln_1")


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        (["transformer.h.3"], r"--freeze transformer.h.3: no parameter's name begins with that \(did you mean transf"),
        (["transformer.wte", "wpe"], r"--freeze wpe: no parameter's name begins with that, such as|did you mean"),
        (["transformer"], "--freeze transformer: leaves nothing to train"),
    ],
)
def test_patterns_that_match_nothing_or_all_are_refused(patterns, message):
    with pytest.raises(UserError, match=message):
        freeze(GPT(CONFIGS[0]), patterns)


@pytest.mark.parametrize(
    "patterns",
    [["transformer.h.0.ln_1"], ["transformer.h.*.mlp", "transformer.h.1"], ["transformer.wte"], ["*.h.1", "x.h.0"]],
)
def test_the_blocks_that_are_frozen_are_known_without_the_model(patterns):
    model = GPT(CONFIGS[0])
    for pattern in patterns:
        for name, parameter in model.named_parameters():
            parameter.requires_grad &= not matches(name, pattern)
    for i, block in enumerate(model.transformer.h):
        for name, parameter in block.named_parameters():
            assert (i in frozen_blocks(name, patterns, 2)) is (not parameter.requires_grad), name

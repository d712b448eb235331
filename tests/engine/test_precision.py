"""Mixed precision: 16-bit copies of float32 parameters, whose gradients are float32."""

import dataclasses

import numpy as np
import pytest

import tinytensor as tt
from gpt.model import GPTConfig
from gpt.model.gpt import GPT
from kernels.dtypes import is_floating
from kernels.namespace import named_dtype
from tinytensor import nn
from tinytensor.nn.precision import Rounded, refresh

BOUNDS = {"float16": 0.004, "bfloat16": 0.03}  # of a gradient's relative error: some 4 and 8 units in the last place
GPT2 = GPTConfig(vocab_size=31, block_size=12, n_layer=2, n_head=2, n_embd=16)
SHAPES = {
    "gpt2": GPT2,
    "post-norm, dropout": dataclasses.replace(GPT2, norm="post", dropout=0.1),
    "parallel, no biases": dataclasses.replace(GPT2, parallel=True, bias=False),
    "olmo": dataclasses.replace(GPT2, norm="output", norm_layer="rms", tied=False),
    "llama": GPTConfig(
        vocab_size=31,
        block_size=12,
        n_layer=1,
        n_head=4,
        n_kv_head=2,
        n_embd=16,
        positions="rotary",
        norm_layer="rms",
        activation="swiglu",
        bias=False,
    ),
}


@pytest.fixture(scope="module")
def emulated():
    try:
        return tt.device("emulated")
    except tt.DeviceError as error:
        pytest.skip(str(error))


@pytest.fixture(params=["float16", "bfloat16"])
def dtype(request):
    pytest.importorskip("ml_dtypes")
    return named_dtype(request.param)


def make_model(shape, where):
    with tt.seeded(1, "weights"):
        return GPT(shape).to(where)


def backward(model, parameters):
    rng = np.random.default_rng(0)
    with tt.seeded(2, "dropout"):
        loss = model(rng.integers(0, 31, (2, 12)), rng.integers(0, 31, (2, 12)))
    loss.backward()
    return loss, [p.grad for p in parameters]


@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_are_those_of_float64_up_to_rounding(emulated, dtype, shape):
    exact = make_model(SHAPES[shape], "float64")
    want, want_gradients = backward(exact, exact.parameters())
    model = make_model(SHAPES[shape], "emulated")
    before = model.state_dict()
    loss, gradients = backward(nn.MixedPrecision(model, dtype), model.parameters())
    assert (loss.dtype, {g.dtype for g in gradients}) == (np.float32, {np.dtype(np.float32)})
    assert loss.item() == pytest.approx(want.item(), rel=BOUNDS[dtype.name] / 4)
    for got, expected in zip(gradients, want_gradients, strict=True):
        error = np.linalg.norm(got.get() - expected) / np.linalg.norm(expected)
        assert error < BOUNDS[dtype.name], (got.shape, error)
    assert all(value is before[name] for name, value in model.state_dict().items())  # parameters are back in place


def test_activations_have_16_bits(emulated, dtype):
    model = make_model(GPT2, "emulated")
    inner = model.transformer.h[0].mlp.c_fc
    seen = inputs_of(inner)
    backward(nn.MixedPrecision(model, dtype), model.parameters())
    assert seen == [(dtype, dtype)]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_residual_stream_has_32_bits(emulated, dtype, shape, training):
    """What a block gets, and the last norm, whose weight has 16 bits as its result has, and as the head has."""
    model = make_model(SHAPES[shape], "emulated").train(training)
    last, head = model.transformer.ln_f, model.lm_head
    seen = [inputs_of(module) for module in (*model.transformer.h, last)]
    of_head = inputs_of(head)
    nn.MixedPrecision(model, dtype)(np.zeros((2, 5), np.int64))
    assert [dtypes[0][0] for dtypes in seen] == [np.float32] * len(seen)
    assert (seen[-1][0][1], of_head) == (dtype, [(dtype, dtype)])


def inputs_of(module):
    """A list to which each call of the module adds the dtypes of its input and of its weight, if it has one."""
    seen, forward = [], module.forward

    def call(x, *args):
        seen.append((x.dtype, module.weight.dtype if hasattr(module, "weight") else None))
        return forward(x, *args)

    object.__setattr__(module, "forward", call)
    return seen


def test_what_16_bits_would_lose_stays_in_the_stream(emulated, dtype):
    """Twenty layers that add a thousandth each, of which none would change a 1 in bfloat16."""

    class Deep(nn.Module):
        def __init__(self):
            self.begin = nn.Embedding(1, 4)
            self.layers = nn.ModuleList([nn.Linear(4, 4) for _ in range(20)])

        def forward(self, ids):
            x = self.begin(ids)
            for layer in self.layers:
                x = tt.bias_add(x, tt.linear(x, layer.weight), layer.bias)
            return x.sum()

    model = Deep()
    model.begin.weight.data[...] = 1
    for layer in model.layers:
        layer.weight.data[...] = 0
        layer.bias.data[...] = 2.0**-10
    model.to(emulated)
    mixed = nn.MixedPrecision(model, dtype)
    y = mixed(np.zeros((1, 1), np.int64))
    y.backward()
    assert (y.dtype, y.item()) == (np.float32, 4 * (1 + 20 * 2.0**-10))
    assert model.begin.weight.grad.tolist() == [[1, 1, 1, 1]]


def test_an_embedding_alone_is_read_as_it_is(emulated, dtype):
    """As the bigram model's table of logits."""
    table = nn.Embedding(3, 3)
    y = nn.MixedPrecision(table.to(emulated), dtype)(np.arange(3))
    assert (y.dtype, y.tolist()) == (np.float32, table.weight.tolist())


def test_gradients_have_the_digits_of_float32(emulated, dtype):
    """The gradient of a bias is a sum over rows, which 16 bits could not hold: 0.1 + ... + 0.1 (3,000 times)."""

    class Sum(nn.Module):
        def __init__(self):
            self.layer = nn.Linear(2, 2)

        def forward(self, x):
            return (self.layer(x) * tt.Tensor(x.data * 0 + x.data.dtype.type(0.1))).sum()

    model = Sum()
    model.to(emulated)
    nn.MixedPrecision(model, dtype)(tt.Tensor(emulated.put(np.ones((3000, 2), dtype)))).backward()
    tenth = np.float64(dtype.type(0.1))
    np.testing.assert_allclose(model.layer.bias.grad.get(), 3000 * tenth, rtol=1e-5)
    np.testing.assert_allclose(model.layer.weight.grad.get(), 3000 * tenth, rtol=1e-5)


def test_copies_follow_their_parameters(emulated):
    parameter = nn.Parameter(emulated.put(np.ones(3, np.float32)))
    copy = Rounded(parameter, np.float16)
    parameter.data[...] = 2
    refresh([copy])
    assert copy.tolist() == [1, 1, 1]  # not marked as changed
    parameter.mark_changed()
    refresh([copy])
    assert copy.tolist() == [2, 2, 2]
    parameter.data = emulated.put(np.full(3, 5, np.float32))
    refresh([copy])
    assert copy.tolist() == [5, 5, 5]


def test_a_copy_that_changed_since_forward_is_noticed(emulated):
    parameter = nn.Parameter(emulated.put(np.ones((2, 2), np.float32)))
    copy = Rounded(parameter, np.float16)
    y = tt.linear(tt.ones(3, 2, dtype="float16", device="emulated", requires_grad=True), copy)
    parameter.mark_changed()
    refresh([copy])
    with pytest.raises(RuntimeError, match="was changed in place after it was used"):
        y.sum().backward()


def test_the_dtype_has_sixteen_bits_and_may_be_a_name(dtype):
    model = nn.Linear(2, 2)
    for given in (dtype, dtype.type, dtype.name):
        assert nn.MixedPrecision(model, given)._copies._dtype == dtype
    for wrong in ("garbage", "int8", "int16", np.float32, None):
        with pytest.raises(ValueError, match=r"MixedPrecision: the dtype .* must be float16 or bfloat16"):
            nn.MixedPrecision(model, wrong)


def test_parameters_are_back_after_a_forward_pass_that_fails(emulated):
    model = make_model(SHAPES["gpt2"], "emulated")
    names = [name for name, _ in model.named_parameters()]
    with pytest.raises(ValueError, match="ids has shape"):
        nn.MixedPrecision(model, np.float16)(np.zeros(3, np.int64))
    assert [name for name, _ in model.named_parameters()] == names


def test_the_loss_scale_multiplies_gradients_and_not_the_loss(emulated):
    model = make_model(SHAPES["gpt2"], "emulated")
    mixed = nn.MixedPrecision(model, np.float16)
    loss, plain = backward(mixed, model.parameters())
    model.zero_grad()
    mixed.loss_scale = 1024.0
    again, scaled = backward(mixed, model.parameters())
    assert again.item() == loss.item()
    for one, other in zip(scaled, plain, strict=True):
        difference = one.get() / 1024 - other.get()
        assert np.linalg.norm(difference) < 0.01 * np.linalg.norm(other.get())


def test_bfloat16_is_a_dtype_of_floats(emulated):
    pytest.importorskip("ml_dtypes")
    dtype = named_dtype("bfloat16")
    assert is_floating(dtype)
    assert not is_floating(np.dtype("V2"))
    x = tt.Tensor(emulated.put(np.ones(3, dtype)), requires_grad=True)
    (x.to(np.float32) * 2).sum().backward()
    assert (x.grad.dtype, x.grad.tolist()) == (dtype, [2, 2, 2])
    assert tt.softmax(x).dtype == (x + x).dtype == tt.concat([x, x]).dtype == dtype


def test_a_missing_package_is_one_sentence(monkeypatch):
    def missing(name):
        raise ImportError(name)

    named_dtype.cache_clear()
    monkeypatch.setattr("kernels.namespace.importlib.import_module", missing)
    with pytest.raises(tt.DeviceError, match="bfloat16 needs the package ml_dtypes: pip install ml_dtypes"):
        named_dtype("bfloat16")

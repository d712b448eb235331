"""The models: shapes, names and initialization of GPT-2, causality, and that they learn."""

import numpy as np
import pytest

import tinytensor as tt
from gpt.errors import UserError
from gpt.model import GPT, Bigram, GPTConfig
from gpt.model.layers import Block
from gpt.model.llama import LlamaBlock
from gpt.model.rotary import frequencies, parse_scaling

TINY = {"vocab_size": 7, "block_size": 6, "n_layer": 2, "n_head": 2, "n_embd": 8}
SMALL = {"vocab_size": 65, "block_size": 32, "n_layer": 2, "n_head": 4, "n_embd": 32}


ROTARY = {"positions": "rotary"}
NEWER = [  # options of the blocks that are not GPT-2's, together as models have them
    ROTARY | {"norm_layer": "rms", "activation": "swiglu", "n_inner": 5, "bias": False, "n_kv_head": 1, "n_head": 4},
    ROTARY | {"qkv_bias": True, "bias": False, "rotary_scaling": "llama3:8,1,4,32", "n_kv_head": 1},
    ROTARY | {"qk_norm": "head", "head_dim": 6, "n_kv_head": 1, "n_head": 3, "activation": "swiglu"},
    ROTARY | {"qk_norm": "full", "norm": "output", "norm_layer": "rms", "rotary_theta": 50.0},
    ROTARY | {"parallel": True, "rotary_fraction": 0.5, "activation": "gelu_erf", "tied": False, "dropout": 0.2},
]


def build(model=GPT, seed=0, **options) -> GPT:
    with tt.seeded(seed):
        return model(GPTConfig(**{**TINY, **options}))


def tokens(config, batch=3, time=None, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, config.vocab_size, (2, batch, time or config.block_size))


# What it computes


@pytest.mark.parametrize("options", [{"norm": "pre"}, {"norm": "post"}, {"positions": "rotary"}, *NEWER], ids=str)
def test_a_token_changes_only_the_logits_from_its_position_on(options):
    model = build(**{**SMALL, **options}).eval()
    ids, _ = tokens(model.config)
    before = model(ids).data
    for t in (0, 7, 31):
        changed = ids.copy()
        changed[:, t] = (changed[:, t] + 1) % 65
        after = model(changed).data
        np.testing.assert_array_equal(after[:, :t], before[:, :t])
        assert (after[:, t:] != before[:, t:]).any(axis=(0, 2)).all()


@pytest.mark.parametrize("model", [GPT, Bigram])
def test_loss_is_the_cross_entropy_of_the_logits(model):
    model = build(model)
    ids, targets = tokens(model.config)
    logits = model(ids)
    assert logits.shape == (3, 6, 7)
    loss = model(ids, targets)
    assert loss.shape == ()
    assert loss.item() == pytest.approx(tt.cross_entropy(logits, targets).item(), rel=1e-5)


@pytest.mark.parametrize("positions", ["learned", "rotary"])
@pytest.mark.parametrize("time", [1, 3, 6])
def test_any_length_up_to_the_block_size_is_accepted(time, positions):
    model = build(positions=positions)
    ids, _ = tokens(model.config)
    short = model(ids[:, :time])
    assert short.shape == (3, time, 7)
    np.testing.assert_allclose(short.data, model(ids).data[:, :time], atol=1e-6)


def test_ids_are_a_batch_in_any_form():
    model = build()
    ids, targets = tokens(model.config)
    for form in (np.ndarray.tolist, tt.tensor):
        np.testing.assert_array_equal(model(form(ids)).data, model(ids).data)
        assert model(form(ids), form(targets)).item() == model(ids, targets).item()
    for wrong in (ids[0], ids[None], [1, 2, 3], 5):
        with pytest.raises(ValueError, match=r"^ids has shape \([\d, ]*\): must be \(B, T\)$"):
            model(wrong)


def test_too_many_tokens_are_refused():
    with pytest.raises(ValueError, match="7 tokens do not fit the model's block size of 6"):
        build()(np.zeros((1, 7), int))


def test_an_unknown_token_is_refused():
    with pytest.raises(IndexError, match="7"):
        build()(np.array([[7]]))


# How it starts


@pytest.mark.parametrize(
    "options",
    [
        *({}, {"tied": False}, {"norm": "post"}, {"positions": "rotary"}, {"activation": "relu", "bias": False}),
        *NEWER,
    ],
    ids=str,
)
def test_the_initial_loss_is_that_of_uniform_guessing(options):
    model = build(**{**SMALL, **options})
    ids, targets = tokens(model.config, batch=8)
    assert model(ids, targets).item() == pytest.approx(np.log(65), abs=0.1)


def names_and_shapes(vocabulary, block, layers, width):
    """The parameters of Hugging Face's GPT2LMHeadModel, whose linear layers hold (in, out)."""
    shapes = {"transformer.wte.weight": (vocabulary, width), "transformer.wpe.weight": (block, width)}
    for i in range(layers):
        for name, shape in {
            "ln_1.weight": (width,),
            "ln_1.bias": (width,),
            "attn.c_attn.weight": (width, 3 * width),
            "attn.c_attn.bias": (3 * width,),
            "attn.c_proj.weight": (width, width),
            "attn.c_proj.bias": (width,),
            "ln_2.weight": (width,),
            "ln_2.bias": (width,),
            "mlp.c_fc.weight": (width, 4 * width),
            "mlp.c_fc.bias": (4 * width,),
            "mlp.c_proj.weight": (4 * width, width),
            "mlp.c_proj.bias": (width,),
        }.items():
            shapes[f"transformer.h.{i}.{name}"] = shape
    return {**shapes, "transformer.ln_f.weight": (width,), "transformer.ln_f.bias": (width,)}


def test_parameters_are_gpt2s():
    state = build().state_dict()
    assert {name: array.shape for name, array in state.items()} == names_and_shapes(7, 6, 2, 8)
    assert list(state) == list(names_and_shapes(7, 6, 2, 8))
    assert all(array.dtype == np.float32 for array in state.values())


def test_without_bias_only_the_biases_are_missing():
    expected = {name for name in names_and_shapes(7, 6, 2, 8) if not name.endswith("bias")}
    assert set(build(bias=False).state_dict()) == expected
    assert set(build(tied=False).state_dict()) == {*names_and_shapes(7, 6, 2, 8), "lm_head.weight"}


def test_with_rotary_positions_only_the_learned_ones_are_missing():
    state = build(positions="rotary").state_dict()
    assert list(state) == [name for name in names_and_shapes(7, 6, 2, 8) if name != "transformer.wpe.weight"]


def test_rotary_positions_are_all_that_tells_the_order_of_earlier_tokens():
    ids, _ = tokens(GPTConfig(**SMALL))
    swapped = ids[:, [1, 0, *range(2, 32)]]
    model = build(**{**SMALL, "n_layer": 1}, positions="rotary")  # deeper, and the causal mask would tell it, too
    assert abs(model(swapped).data - model(ids).data)[:, 2:].max() > 1e-4
    model.transformer.h[0].attn.rotary_theta = None
    np.testing.assert_allclose(model(swapped).data[:, 2:], model(ids).data[:, 2:], atol=1e-5)


def test_rotary_positions_need_heads_of_an_even_size():
    GPTConfig(n_embd=6, n_head=2)
    with pytest.raises(
        UserError, match=r"^--n-embd 6: with --positions rotary, must be a multiple of 2 \* --n-head, 4"
    ):
        GPTConfig(n_embd=6, n_head=2, positions="rotary")


IMPOSSIBLE = [
    ({"n_kv_head": 3, "n_head": 4}, "--n-kv-head 3: must divide --n-head 4"),
    ({"head_dim": 5, "positions": "rotary"}, "--head-dim 5: must be even"),
    (
        {"rotary_fraction": 0.5, "n_embd": 24, "n_head": 4, "positions": "rotary"},
        "--rotary-fraction 0.5: would rotate 3 of",
    ),
    (
        {"rotary_fraction": 0.1, "n_embd": 24, "n_head": 4, "positions": "rotary"},
        "--rotary-fraction 0.1: would rotate 0 of",
    ),
    ({"parallel": True, "norm": "output"}, "--parallel: needs --norm pre, not output"),
    ({"rotary_scaling": "yarn:4"}, "--rotary-scaling yarn:4: must be linear:FACTOR"),
    ({"rotary_scaling": "llama3:8,4,1,32"}, "--rotary-scaling llama3:8,4,1,32: must be"),
    ({"rotary_scaling": "linear:0"}, "--rotary-scaling linear:0: must be"),
]


@pytest.mark.parametrize(("options", "message"), IMPOSSIBLE, ids=str)
def test_options_that_do_not_go_together_are_refused(options, message):
    with pytest.raises(UserError) as raised:
        GPTConfig(**options)
    assert str(raised.value).startswith(message)


def test_only_what_gpt2_does_not_have_makes_other_blocks():
    own = {"activation": "gelu_erf", "n_inner": 3, "norm_eps": 0.1, "inverse_layer_scale": True, "norm": "post"}
    assert all(type(block) is Block for block in build(**own, tied=False, bias=False, positions="rotary").transformer.h)
    for option in ({"norm_layer": "rms"}, {"activation": "swiglu"}, {"norm": "output"}, {"rotary_theta": 5.0}):
        assert all(type(block) is LlamaBlock for block in build(**option).transformer.h)


def test_llamas_blocks_with_gpt2s_options_compute_the_same():
    plain, other = build(**SMALL), build(**SMALL, n_kv_head=4)
    other.load_state_dict(plain.state_dict())
    ids, _ = tokens(plain.config)
    np.testing.assert_array_equal(other(ids).data, plain(ids).data)
    assert type(other.transformer.h[0]) is LlamaBlock


def test_scaled_frequencies_are_those_of_the_papers():
    plain = frequencies(8, 10000.0)
    np.testing.assert_allclose(plain, [1, 0.1, 0.01, 0.001])
    np.testing.assert_allclose(frequencies(8, 10000.0, parse_scaling("linear:4")), [0.25, 0.025, 0.0025, 0.00025])
    # within 1000 positions the pairs turn 159, 16, 1.6 and 0.16 times: kept, kept, in between, lowered
    between = (1.5915494 - 1) / 3
    expected = [1, 0.1, 0.01 * (between + (1 - between) / 8), 0.001 / 8]
    np.testing.assert_allclose(frequencies(8, 10000.0, parse_scaling("llama3:8,1,4,1000")), expected, rtol=1e-6)


def test_gpt2_small_has_as_many_parameters_as_published(monkeypatch):
    def unwritten(*shape, **options):
        return tt.Tensor(np.broadcast_to(np.float32(0), shape))  # a shape without memory

    monkeypatch.setattr("tinytensor.nn.layers.randn", unwritten)
    monkeypatch.setattr("tinytensor.ops.elementwise.Mul.forward", lambda self, a, b: a)
    monkeypatch.setattr("tinytensor.nn.Parameter.__init__", lambda self, data: tt.Tensor.__init__(self, data.data))
    model = GPT(GPTConfig(vocab_size=50257, block_size=1024, n_layer=12, n_head=12, n_embd=768))
    assert sum(p.numel() for p in model.parameters()) == 124_439_808


def test_weights_start_as_in_gpt2():
    state = build(vocab_size=500, block_size=64, n_layer=3, n_head=2, n_embd=64).state_dict()
    for name, array in state.items():
        if name.endswith(".bias"):
            assert not array.any()
        elif "ln_" in name:
            np.testing.assert_array_equal(array, 1)
        else:
            std = 0.02 / np.sqrt(2 * 3) if "c_proj" in name else 0.02
            assert array.std() == pytest.approx(std, rel=0.06), name
            assert abs(array.mean()) < 5 * std / array.size**0.5


def test_a_seed_gives_the_same_weights():
    a, b, c = (build(seed=seed).state_dict() for seed in (0, 0, 1))
    assert all((a[name] == b[name]).all() for name in a)
    assert (a["transformer.wte.weight"] != c["transformer.wte.weight"]).any()


# How it learns


def in_float64(model):
    for p in model.parameters():
        p.data = p.data.astype(np.float64) * 10  # larger weights, so that every part has a say
    return model


@pytest.mark.parametrize(
    "options",
    [
        *({}, {"norm": "post"}, {"activation": "relu"}, {"tied": False}, {"bias": False}, {"dropout": 0.3}),
        {"positions": "rotary"},
        {"activation": "gelu_erf", "n_inner": 5, "norm_eps": 0.1, "inverse_layer_scale": True, "n_layer": 2},
        *NEWER,
    ],
    ids=str,
)
def test_every_gradient_of_every_variant(options):
    model = in_float64(build(**{"n_layer": 1, **options}))
    ids, targets = tokens(model.config, batch=2)
    parameters = model.parameters()
    owners = [(module, name) for module in model.modules() for name in vars(module)]

    def loss(*values):
        replaced = dict(zip(map(id, parameters), values, strict=True))
        with tt.seeded("dropout"):
            return with_parameters(owners, replaced, lambda: model(ids, targets))

    tt.gradcheck(loss, *[p.data for p in parameters], rtol=1e-4, atol=1e-6, eps=1e-6)


def with_parameters(owners, replaced, function):
    """function() with Parameters, by their id, exchanged for other Tensors, past what `setattr` refuses."""
    before = [(module, name, vars(module)[name]) for module, name in owners]
    try:
        for module, name, value in before:
            vars(module)[name] = replaced.get(id(value), value)
        return function()
    finally:
        for module, name, value in before:
            vars(module)[name] = value


def test_the_tied_weight_is_one_parameter_with_both_gradients():
    tied, untied = build(), build(tied=False)
    state = tied.state_dict()
    untied.load_state_dict({**state, "lm_head.weight": state["transformer.wte.weight"]})
    ids, targets = tokens(tied.config)
    for model in (tied, untied):
        model(ids, targets).backward()
    assert tied.lm_head.weight is tied.transformer.wte.weight
    both = untied.transformer.wte.weight.grad + untied.lm_head.weight.grad
    np.testing.assert_allclose(tied.lm_head.weight.grad, both, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("options", [{}, {"norm": "post", "activation": "relu", "tied": False}], ids=str)
def test_it_overfits_one_batch(options):
    model = build(**options, n_embd=32)
    ids, targets = tokens(model.config, batch=2)
    optimizer = tt.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    for _ in range(150):
        optimizer.zero_grad()
        loss = model(ids, targets)
        loss.backward()
        optimizer.step(tt.clip_scale(tt.grad_norm(model.parameters()), 1.0))
    assert loss.item() < 0.02


def test_the_bigram_model_learns_the_pair_frequencies():
    model = build(Bigram)
    ids, targets = tokens(model.config, batch=50)
    optimizer = tt.optim.AdamW(model.parameters(), lr=0.3, weight_decay=0.0)
    for _ in range(150):
        optimizer.zero_grad()
        loss = model(ids, targets)
        loss.backward()
        optimizer.step()
    counts = np.zeros((7, 7))
    np.add.at(counts, (ids.ravel(), targets.ravel()), 1)
    frequencies = counts / counts.sum(1, keepdims=True)
    optimum = -(counts * np.log(np.where(counts, frequencies, 1))).sum() / counts.sum()
    assert loss.item() == pytest.approx(optimum, abs=1e-3)


def test_dropout_repeats_under_a_key_and_stops_in_evaluation():
    model = build(dropout=0.5)
    ids, targets = tokens(model.config)

    def loss(key):
        model.zero_grad()
        with tt.seeded(key):
            y = model(ids, targets)
            y.backward()
        return y.item(), model.transformer.wte.weight.grad.tolist()

    assert loss(1) == loss(1)
    assert loss(1) != loss(2)
    model.eval()
    assert loss(1) == loss(2)


def test_every_parameter_gets_a_gradient_of_its_own():
    model = build()
    model(*tokens(model.config)).backward()
    grads = [p.grad for p in model.parameters()]
    assert all(g.any() for g in grads)
    assert not any(np.shares_memory(a, b) for i, a in enumerate(grads) for b in grads[:i])

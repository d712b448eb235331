"""Models with packed weights: their logits, the commands' flag, and what cannot be packed."""

import numpy as np
import pytest

import tinytensor as tt
from gpt import chat, generate
from gpt.cli import run_command
from gpt.errors import UserError
from gpt.generation.packed import pack_weights
from gpt.model import GPT, Bigram, GPTConfig
from gpt.model.batch import Batch, Prompts
from gpt.model.cache import Cache, Context, NoCache
from gpt.tokenizers.characters import CharTokenizer
from gpt.weights.directory import create_model_directory, save_weights
from kernels.cpu.packed import pack, unpack
from kernels.cpu.threads import get_num_threads, set_num_threads
from tinytensor import nn

VARIANTS = [
    {},
    {"bias": False, "tied": False},
    {"norm": "post", "activation": "relu"},
    {"positions": "rotary"},
    {"activation": "gelu_erf"},
    {"norm_layer": "rms", "positions": "rotary", "n_kv_head": 1, "activation": "swiglu", "bias": False, "tied": False},
    {"qk_norm": "full", "norm": "output", "norm_layer": "rms", "qkv_bias": True, "bias": False},
    {"positions": "rotary", "rotary_fraction": 0.5, "inverse_layer_scale": True, "activation": "swiglu"},
    {"parallel": True, "positions": "rotary"},
]
IDS = np.random.default_rng(0).integers(0, 11, 21)


def build(**options):
    config = GPTConfig(11, block_size=24, n_layer=2, n_head=2, n_embd=16, **options)
    with tt.seeded(1, "weights"):
        model = GPT(config).eval()
        for parameter in model.parameters():
            parameter.data = 5 * parameter.data + 0.1 * tt.randn(*parameter.shape).data
    return model


def rounded(model, kind):
    """The model with each matrix replaced by what its packed copy stands for, in the place of `pack_weights`."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.weight.data = unpack(pack(module.weight.data.T, kind)).T.copy()
    model.lm_head.weight.data = unpack(pack(model.lm_head.weight.data, kind))
    if not model.config.tied:
        model.transformer.wte.weight.data = unpack(pack(model.transformer.wte.weight.data, kind))
    return model


@pytest.mark.parametrize("options", VARIANTS, ids=str)
@pytest.mark.parametrize("kind", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("reader", [Cache, NoCache])
def test_logits_are_those_of_the_rounded_weights(options, kind, reader):
    packed, plain = build(**options), rounded(build(**options), kind)
    pack_weights(packed, kind)
    for model in (packed, plain):
        model.context = Context(model, 2, reader if model is packed else NoCache)
    for ids in (IDS[:18], IDS[18:19], IDS[19:]):
        for model in (packed, plain):
            model.context.append(ids)
        expected = plain.context.logits()
        np.testing.assert_allclose(packed.context.logits(), expected, atol=2e-5 * max(1, abs(expected).max()))


@pytest.fixture(params=[1, 3], ids="{} threads".format)
def threads(request, monkeypatch):
    monkeypatch.setattr("kernels.cpu.decoder.TEAM_BYTES", 0)  # also for models as small as these
    before = get_num_threads()
    set_num_threads(request.param)
    yield request.param
    set_num_threads(before)


@pytest.mark.parametrize("options", [{}, VARIANTS[5], VARIANTS[7]], ids=str)
def test_single_tokens_of_several_texts_in_one_loop_are_those_of_the_blocks(options, threads):
    pytest.importorskip("numba", reason="without it there is no such loop")
    model, lengths, calls = build(**options), [9, 4, 5], []
    pack_weights(model, "int8")
    decoder, logits = model.decoder, []
    run, decoder.forward = decoder.forward, lambda *args: calls.append(args) or run(*args)
    for way in (decoder, None):
        model.decoder = way
        prompts, batch = Prompts(model, [IDS[:length] for length in lengths]), Batch(model, 4, 24)
        prompts.read(100)
        for row in range(len(lengths)):
            batch.join(prompts, row)
        logits.append([batch.logits([1, 2, 3]), batch.logits([4, 5, 6])])
    assert len(calls) == 2
    np.testing.assert_allclose(*logits, atol=2e-5 * abs(logits[1][0]).max())


def test_a_small_model_is_the_work_of_one_thread(monkeypatch):
    pytest.importorskip("numba", reason="without it there is no such loop")
    model = build()
    pack_weights(model, "float32")
    monkeypatch.setattr("kernels.cpu.decoder.run_together", None)  # else calling it would raise
    context = Context(model)
    context.append([[1, 2, 3]])
    context.logits()
    context.append([[4]])
    assert np.isfinite(context.logits()).all()


@pytest.mark.parametrize("options", [{"norm": "post"}, {"parallel": True}, {"qk_norm": "head"}, {"activation": "relu"}])
def test_blocks_that_the_loop_does_not_have_are_left_to_themselves(options):
    model = build(**options)
    pack_weights(model, "float32")
    assert model.decoder is None


def test_packing_keeps_no_copy_of_the_matrices():
    model = build(bias=False)
    pack_weights(model, "int8")
    names = [name for name, _ in model.named_parameters()]
    assert [name for name in names if "ln_" not in name] == ["transformer.wpe.weight"]
    assert model.lm_head.weight is model.transformer.wte.weight
    assert model.lm_head.weight.nbytes == 11 * 16 + 4 * 11


def test_only_a_gpt_on_the_cpu_has_packed_weights(device):
    bigram = Bigram(GPTConfig(11, block_size=4))
    pack_weights(bigram, "float32")
    with pytest.raises(UserError, match="--weights int8: the weights of a bigram model are always float32"):
        pack_weights(bigram, "int8")
    model = build().to(device)
    if model.parameters()[0].device != "cpu":
        pack_weights(model, "float32")
        assert isinstance(model.transformer.wte, nn.Embedding)
        with pytest.raises(UserError, match=r"--weights bfloat16: the weights on .* are always float32"):
            pack_weights(model, "bfloat16")


@pytest.fixture
def directory(tmp_path):
    model, tokenizer = build(), CharTokenizer("abcdefghij\n")
    create_model_directory(tmp_path, "gpt", model.config, tokenizer)
    save_weights(tmp_path, model.config, model.state_dict())
    return str(tmp_path)


@pytest.mark.parametrize("kind", ["bfloat16", "int8"])
def test_the_commands_take_the_kind_of_weights(directory, kind, capsys, monkeypatch):
    argv = [directory, "--tokens", "20", "--device", "cpu", "--weights", kind]
    assert generate.main([*argv, "--prompt", "abc"]) == 0
    assert len(capsys.readouterr().out) == 3 + 20 + 1
    monkeypatch.setattr("builtins.input", lambda _: "/quit")
    assert chat.main(argv) == 0


@pytest.mark.parametrize("command", [generate, chat])
def test_another_kind_is_one_sentence(directory, command, capsys):
    assert run_command(command.main, [directory, "--weights", "int4"]) == 2
    message = "error: --weights int4: must be one of float32, bfloat16, int8"
    assert capsys.readouterr().err.startswith(message)

"""The families of Hugging Face's models: configurations and names both ways, and the same numbers as transformers.

Measured with transformers 5.24, PyTorch 2.13 and NumPy 2.4 on two x86-64 cores, the largest differences over the
models below: logits 1.4e-6 of the largest.
"""

import json

import numpy as np
import pytest
import safetensors.numpy

import tinytensor as tt
from gpt.cli import run_command
from gpt.errors import UserError
from gpt.export import main as export_main
from gpt.model import GPT, GPTConfig
from gpt.model.cache import Context
from gpt.tokenizers.characters import CharTokenizer
from gpt.weights import safetensors as reader
from gpt.weights.directory import create_model_directory, save_weights, write_export
from gpt.weights.families.registry import FAMILIES, export_format
from gpt.weights.load import inherit, load_model

SHAPE = {"vocab_size": 20, "block_size": 16, "n_layer": 2, "n_head": 4, "n_embd": 24, "n_inner": 20}
LLAMA = {"positions": "rotary", "norm_layer": "rms", "activation": "swiglu", "bias": False, "n_kv_head": 2}
CONFIGS = {
    "gpt2": {"activation": "gelu_erf", "norm_eps": 1e-3, "inverse_layer_scale": True},
    "llama": LLAMA | {"head_dim": 10, "rotary_theta": 500.0, "rotary_scaling": "llama3:8.0,1.0,4.0,8.0", "tied": False},
    "qwen2": LLAMA | {"qkv_bias": True, "rotary_scaling": "linear:2"},
    "qwen3": LLAMA | {"qk_norm": "head", "head_dim": 8, "norm_eps": 1e-6},
    "olmo2": LLAMA | {"qk_norm": "full", "norm": "output", "n_kv_head": 4, "tied": False},
    "gpt_neox": {
        "n_embd": 32,
        "positions": "rotary",
        "rotary_fraction": 0.5,
        "parallel": True,
        "activation": "gelu_erf",
    },
}
VARIANTS = {  # further models, by the family that they are exported in
    "llama": [LLAMA | {"bias": True, "n_kv_head": 0}],
    "gpt_neox": [{"positions": "rotary", "bias": False}, {"positions": "rotary", "tied": False, "activation": "relu"}],
}
MODELS = [*CONFIGS.items(), *((name, options) for name, variants in VARIANTS.items() for options in variants)]
models = pytest.mark.parametrize(("name", "options"), MODELS, ids=str)


def lively(options, seed=0):
    """A model whose biases and norms have values of their own."""
    with tt.seeded(seed):
        model = GPT(GPTConfig(**{**SHAPE, **options})).eval()
        for parameter in model.parameters():
            parameter.data = parameter.data + 0.1 * tt.randn(*parameter.shape).data
    return model


def written(directory, model):
    """A directory in the format of the family that can express the model."""
    directory.mkdir()
    write_export(directory, export_format("gpt", model.config), model, CharTokenizer("abcde"))
    return directory


def edit(directory, **changes):
    content = json.loads((directory / "config.json").read_text()) | changes
    (directory / "config.json").write_text(json.dumps(content))
    return directory


@models
@pytest.mark.parametrize("chunk", [7, 1 << 20])
def test_an_exported_model_is_read_back_to_the_bit(tmp_path, monkeypatch, name, options, chunk):
    monkeypatch.setattr(reader, "CHUNK", chunk)
    model = lively(options)
    directory = written(tmp_path / "out", model)
    assert json.loads((directory / "config.json").read_text())["model_type"] == name
    loaded, _ = load_model(directory, "cpu")
    ids = np.random.default_rng(0).integers(0, 20, (2, 16))
    np.testing.assert_array_equal(loaded(ids).data, model(ids).data)
    if model.config.bias or name != "gpt_neox":  # which has biases of zero instead of none
        assert export_format("gpt", loaded.config).model_type == name
        again = written(tmp_path / "again", loaded)
        assert (again / "model.safetensors").read_bytes() == (directory / "model.safetensors").read_bytes()


@models
def test_the_command_exports_a_run_and_names_the_class_that_reads_it(tmp_path, capsys, name, options):
    model = lively(options)
    create_model_directory(tmp_path / "run", "gpt", model.config, CharTokenizer("abcde"))
    save_weights(tmp_path / "run", model.config, model.state_dict())
    assert run_command(export_main, [str(tmp_path / "run"), str(tmp_path / "out")]) == 0
    assert f"load it with {FAMILIES[name].architecture}.from_pretrained" in capsys.readouterr().out
    assert FAMILIES[name].architecture in json.loads((tmp_path / "out/config.json").read_text())["architectures"]
    own, exported = (load_model(tmp_path / place, "cpu")[0] for place in ("run", "out"))
    ids = np.arange(16)[None]
    np.testing.assert_array_equal(exported(ids).data, own(ids).data)
    np.testing.assert_array_equal(own(ids).data, model(ids).data)


def test_a_training_inherits_all_settings_of_a_family(tmp_path):
    model = lively(CONFIGS["llama"])
    settings = inherit(str(written(tmp_path / "out", model)), {"block_size": 8})
    assert settings | {"block_size": 16} == {"model": "gpt", **vars(model.config)}


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_half_precision_on_the_disk(tmp_path, dtype):
    model = lively(CONFIGS["qwen2"])
    for parameter in model.parameters():  # values that both have
        parameter.data = (parameter.data * 16).round() / 16
    directory = written(tmp_path / "out", model)
    arrays = safetensors.numpy.load_file(directory / "model.safetensors")
    if dtype == "F16":
        safetensors.numpy.save_file({k: a.astype(np.float16) for k, a in arrays.items()}, directory / "x.safetensors")
    else:
        halves = {k: (a.view(np.uint32) >> 16).astype(np.uint16) for k, a in arrays.items()}
        safetensors.numpy.save_file(halves, directory / "x.safetensors")
        content = (directory / "x.safetensors").read_bytes()
        size = 8 + int.from_bytes(content[:8], "little")
        header = content[8:size].replace(b'"U16"', b'"BF16"')
        (directory / "x.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + content[size:])
    (directory / "x.safetensors").rename(directory / "model.safetensors")
    ids = np.arange(16)[None]
    np.testing.assert_array_equal(load_model(directory, "cpu")[0](ids).data, model(ids).data)


REFUSED = [
    ("llama", {"hidden_act": "gelu"}, "hidden_act is 'gelu', here it can only be silu"),
    ("llama", {"attention_bias": True}, "attention_bias is True, here it can only be False"),
    (
        "llama",
        {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}},
        "rope_type is 'yarn', here it can only be one of",
    ),
    ("llama", {"hidden_size": 25, "head_dim": None}, "--n-embd 25: must be a multiple of --n-head 4"),
    ("llama", {"num_key_value_heads": 3}, "--n-kv-head 3: must divide --n-head 4"),
    ("qwen2", {"use_sliding_window": True}, "use_sliding_window is True, here it can only be False"),
    ("qwen3", {"layer_types": ["full_attention", "sliding_attention"]}, "layer_types contains sliding_attention"),
    ("qwen3", {"quantization_config": {"bits": 4}}, "quantization_config is set"),
    ("gpt_neox", {"attention_bias": False}, "attention_bias is False, here it can only be True"),
    ("gpt_neox", {"hidden_act": "swish"}, "hidden_act is swish, not one of gelu"),
    ("gpt2", {"scale_attn_weights": False, "tinytensor": None}, "scale_attn_weights is False"),
    ("llama", {"model_type": "mamba"}, r"nor one of gpt2, llama, .* \(model_type mamba\)"),
    ("llama", {"num_hidden_layers": "2"}, "--n-layer '2': must be a whole number"),
    ("llama", {"rope_scaling": {"rope_type": "llama3"}}, "is not the configuration of a model"),
]


@pytest.mark.parametrize(("name", "change", "message"), REFUSED, ids=str)
def test_what_cannot_be_expressed_is_refused_with_the_settings_name(tmp_path, name, change, message):
    directory = edit(written(tmp_path / "out", lively(CONFIGS[name])), **change)
    if change.get("tinytensor", 0) is None:
        content = json.loads((directory / "config.json").read_text())
        del content["tinytensor"]
        (directory / "config.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=rf"config\.json: {message}|config\.json: is .*{message}"):
        load_model(directory, "cpu")


def test_a_missing_setting_is_named(tmp_path):
    directory = written(tmp_path / "out", lively(CONFIGS["llama"]))
    content = json.loads((directory / "config.json").read_text())
    del content["intermediate_size"]
    (directory / "config.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"config\.json: intermediate_size is missing"):
        load_model(directory, "cpu")


def test_weights_that_do_not_fit_are_named_as_in_the_file(tmp_path):
    directory = written(tmp_path / "out", lively(CONFIGS["qwen2"]))
    arrays = safetensors.numpy.load_file(directory / "model.safetensors")
    arrays["model.layers.0.self_attn.q_proj.weight"] = np.zeros((24, 23), np.float32)
    del arrays["model.layers.1.self_attn.k_proj.bias"]
    safetensors.numpy.save_file(arrays, directory / "model.safetensors")
    with pytest.raises(
        UserError, match=r"missing model\.layers\.1\.self_attn\.k_proj\.bias; .*q_proj\.weight has shape"
    ):
        load_model(directory, "cpu")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm": "post"}, "--norm post: GPT-2 has its layer norms before each sublayer"),
        (LLAMA | {"norm": "post"}, "--norm post: LlamaForCausalLM has --norm pre"),
        (
            LLAMA | {"head_dim": 8, "rotary_fraction": 0.5},
            "--rotary-fraction 0.5: LlamaForCausalLM has --rotary-fraction 1.0",
        ),
    ],
)
def test_what_no_family_can_express_is_not_exported(options, message):
    with pytest.raises(UserError, match=f"cannot be exported as any of gpt2, llama, .*: {message}"):
        export_format("gpt", GPTConfig(**{**SHAPE, **options}))


# Against transformers, where it is installed

BASE = {"vocab_size": 300, "hidden_size": 48, "intermediate_size": 100, "num_hidden_layers": 3}
BASE |= {"num_attention_heads": 6, "max_position_embeddings": 256}
SCALED = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
SCALED |= {"original_max_position_embeddings": 64}
THEIRS = {  # class: settings, dtype, size of a shard
    "Llama": (
        BASE | {"num_key_value_heads": 2, "rope_theta": 5e5, "rope_scaling": SCALED, "tie_word_embeddings": True},
    ),
    "Llama with biases": (BASE | {"head_dim": 20, "attention_bias": True, "mlp_bias": True}, "float32", "100KB"),
    "Qwen2": (BASE | {"num_key_value_heads": 2, "tie_word_embeddings": True}, "bfloat16"),
    "Qwen3": (BASE | {"num_key_value_heads": 3, "head_dim": 16},),
    "Olmo2": (BASE | {"num_key_value_heads": 2, "eos_token_id": 1, "pad_token_id": None},),
    "GPTNeoX": (BASE | {"rotary_pct": 0.25},),
    "GPTNeoX in sequence": (BASE | {"rotary_pct": 0.5, "use_parallel_residual": False}, "float16"),
    "GPT2": (
        {"vocab_size": 300, "n_positions": 256, "n_embd": 48, "n_layer": 3, "n_head": 6, "n_inner": 70}
        | {"activation_function": "gelu", "layer_norm_epsilon": 1e-3, "scale_attn_by_inverse_layer_idx": True}
        | {"bos_token_id": 1, "eos_token_id": 1, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    ),
}


def theirs(directory, name):
    """A model of transformers with drawn weights, saved in a directory, and read again in float32."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    settings, dtype, shard = THEIRS[name] + ("float32", "1GB")[len(THEIRS[name]) - 1 :]
    family = name.split()[0]
    kind = f"{family}LMHeadModel" if family == "GPT2" else f"{family}ForCausalLM"
    torch.manual_seed(0)
    model = getattr(transformers, kind)(getattr(transformers, f"{family}Config")(**settings))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    model.to(getattr(torch, dtype)).save_pretrained(directory, max_shard_size=shard)
    CharTokenizer("abcde").save(directory)
    return torch, getattr(transformers, kind).from_pretrained(directory, dtype=torch.float32).eval()


@pytest.mark.parametrize("name", THEIRS)
def test_transformers_computes_the_same(tmp_path, name):
    """Logits, 200 greedy tokens with a cache, the model exported again, and one step of training."""
    torch, reference = theirs(tmp_path / "theirs", name)
    model, tokenizer = load_model(tmp_path / "theirs", "cpu")
    ids = np.random.default_rng(0).integers(0, 300, (2, 100))
    expected = reference(torch.from_numpy(ids)).logits.detach().numpy()
    assert np.abs(model(ids).data - expected).max() < 1e-5 * np.abs(expected).max()

    context = Context(model)
    context.append(ids[0, :3])
    text = []
    for _ in range(200):
        text.append(int(context.logits()[0].argmax()))
        context.append(text[-1:])
    prompt = torch.from_numpy(ids[:1, :3])
    options = {"do_sample": False, "max_new_tokens": 200, "min_new_tokens": 200, "pad_token_id": 0}
    assert reference.generate(prompt, **options)[0, 3:].tolist() == text

    (tmp_path / "back").mkdir()
    write_export(tmp_path / "back", export_format("gpt", model.config), model, tokenizer)
    again = type(reference).from_pretrained(tmp_path / "back")
    for key, value in reference.state_dict().items():
        np.testing.assert_array_equal(again.state_dict()[key].numpy(), value.numpy(), key)

    reference.train()
    loss = torch.nn.functional.cross_entropy(
        reference(torch.from_numpy(ids)).logits[:, :-1].flatten(0, 1), torch.from_numpy(ids)[:, 1:].flatten()
    )
    loss.backward()
    torch.optim.SGD(reference.parameters(), lr=0.5).step()
    model.train()
    model(ids[:, :-1], ids[:, 1:]).backward()
    tt.optim.SGD(model.parameters(), lr=0.5).step()
    stored = export_format("gpt", model.config).stored(model.config, model.state_dict())
    after = reference.state_dict()
    for key, place in stored.items():
        own = np.asarray(place.view).reshape(place.shape)
        want = after[key if key in after else "lm_head.weight"].numpy()  # GPT-NeoX's embed_out, since transformers 5
        assert np.abs(own - want).max() < 1e-5 * np.abs(want).max(), key

"""Model directories: what is saved is what is loaded, here and in Hugging Face's GPT-2."""

import dataclasses
import json
import sys
from dataclasses import asdict

import numpy as np
import pytest
import safetensors.numpy

import tinytensor as tt
import train
from gpt.cli import run_command
from gpt.errors import UserError
from gpt.export import main as export_main
from gpt.model import GPT, Bigram, GPTConfig
from gpt.model.cache import Context
from gpt.options import build
from gpt.tokenizers.characters import CharTokenizer
from gpt.training.data import open_data
from gpt.weights import safetensors as safetensors_format
from gpt.weights.directory import create_model_directory, save_weights
from gpt.weights.families import describe
from gpt.weights.load import inherit, load_model, start_from

IDS = np.array([[1, 2, 3, 0, 4]])
SHAPE = {"vocab_size": 5, "block_size": 8, "n_layer": 2, "n_head": 2, "n_embd": 8}
VARIANTS = [
    {},
    {"bias": False},
    {"tied": False},
    {"norm": "post", "activation": "relu", "tied": False, "dropout": 0.5},
]


def saved(directory, kind, model):
    create_model_directory(directory, kind, model.config, CharTokenizer("abcde"))
    save_weights(directory, model.config, model.state_dict())
    return directory


def logits_of(model):
    model.eval()
    with tt.no_grad():
        return model(IDS).numpy()


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_a_saved_gpt_is_loaded_bit_exactly(tmp_path, options):
    with tt.seeded(1, "weights"):
        model = GPT(GPTConfig(**SHAPE, **options))
    for parameter in model.parameters():  # biases start at zero, which would hide a mistake
        parameter.data += np.float32(0.01)
    loaded, tokenizer = load_model(saved(tmp_path, "gpt", model), "cpu")
    assert loaded.config == model.config
    assert tokenizer.characters == "abcde"
    assert not loaded.training
    np.testing.assert_array_equal(logits_of(loaded), logits_of(model))


def test_a_saved_bigram_is_loaded(tmp_path):
    model = Bigram(GPTConfig(**SHAPE, bias=False))
    loaded, _ = load_model(saved(tmp_path, "bigram", model), "cpu")
    np.testing.assert_array_equal(logits_of(loaded), logits_of(model))


def test_the_name_of_a_run_means_its_best_model(tmp_path):
    model = GPT(GPTConfig(**SHAPE))
    saved(tmp_path / "best", "gpt", model)
    np.testing.assert_array_equal(logits_of(load_model(tmp_path, "cpu")[0]), logits_of(model))


def test_missing_biases_are_saved_as_zeros(tmp_path):
    model = GPT(GPTConfig(**SHAPE, bias=False))
    arrays = safetensors.numpy.load_file(saved(tmp_path, "gpt", model) / "model.safetensors")
    assert arrays["transformer.h.0.attn.c_attn.bias"].shape == (24,)
    assert arrays.keys() == GPT(GPTConfig(**SHAPE)).state_dict().keys()
    added = arrays.keys() - model.state_dict().keys()
    assert all(not arrays[name].any() for name in added)


def test_only_gpt2_is_described_as_gpt2():
    content = describe("gpt", GPTConfig(**SHAPE))
    assert content["model_type"] == "gpt2"
    assert content["activation_function"] == "gelu_new"
    assert content["n_positions"] == 8
    assert "model_type" not in describe("gpt", GPTConfig(**SHAPE, norm="post"))
    assert "model_type" not in describe("bigram", GPTConfig(**SHAPE))


def test_hugging_face_computes_the_same_logits(tmp_path):
    """Optional: needs torch and transformers."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    for options in VARIANTS[:3]:
        with tt.seeded(1, "weights"):
            model = GPT(GPTConfig(**SHAPE, **options))
        directory = saved(tmp_path / str(len(options)), "gpt", model)
        theirs = transformers.GPT2LMHeadModel.from_pretrained(directory).eval()
        with torch.no_grad():
            np.testing.assert_allclose(theirs(torch.tensor(IDS)).logits.numpy(), logits_of(model), atol=1e-5)


def test_what_is_missing_corrupt_or_foreign_is_named(tmp_path):
    with pytest.raises(UserError, match="contains no model"):
        load_model(tmp_path / "missing", "cpu")
    directory = saved(tmp_path / "m", "gpt", GPT(GPTConfig(**SHAPE)))
    weights, config = directory / "model.safetensors", directory / "config.json"
    content = weights.read_bytes()
    weights.write_bytes(content[:-10])
    with pytest.raises(UserError, match=r"model\.safetensors: corrupt"):
        load_model(directory, "cpu")
    weights.unlink()
    with pytest.raises(UserError, match=r"model\.safetensors: missing"):
        load_model(directory, "cpu")
    weights.write_bytes(content)
    described = json.loads(config.read_text())
    described["tinytensor"]["n_embd"] = 4
    config.write_text(json.dumps(described))
    with pytest.raises(UserError, match="its weights do not fit"):
        load_model(directory, "cpu")
    config.write_text("{}")
    with pytest.raises(UserError, match="is neither a model of tinytensor nor a GPT-2"):
        load_model(directory, "cpu")


HF_CONFIG = {
    "model_type": "gpt2",
    "vocab_size": 5,
    "n_positions": 8,
    "n_embd": 8,
    "n_layer": 2,
    "n_head": 2,
    "activation_function": "gelu_new",
    "resid_pdrop": 0.1,
}


def lively(**options):
    """A model whose biases are not zero, which would hide a mistake."""
    with tt.seeded(1, "weights"):
        model = GPT(GPTConfig(**SHAPE, **options))
    for parameter in model.parameters():
        parameter.data += np.float32(0.01)
    return model


def hugging_face(directory, arrays, **changes):
    """A model directory as Hugging Face writes it, from arrays of any type."""
    directory.mkdir(parents=True, exist_ok=True)
    CharTokenizer("abcde").save(directory)
    (directory / "config.json").write_text(json.dumps(HF_CONFIG | changes))
    if arrays is not None:
        safetensors.numpy.save_file(arrays, directory / "model.safetensors")
    return directory


def test_a_gpt2_of_hugging_face_is_loaded(tmp_path):
    model = lively()
    loaded, _ = load_model(hugging_face(tmp_path, model.state_dict()), "cpu")
    assert loaded.config == GPTConfig(**SHAPE, dropout=0.1)
    np.testing.assert_array_equal(logits_of(loaded), logits_of(model))


def test_the_hubs_names_masks_and_second_heads_are_understood(tmp_path):
    model = lively()
    arrays = {name.removeprefix("transformer."): array for name, array in model.state_dict().items()}
    arrays |= {f"h.{i}.attn.bias": np.ones((1, 1, 8, 8), np.float32) for i in range(2)}
    arrays |= {"h.0.attn.masked_bias": np.float32([-1e4]), "lm_head.weight": arrays["wte.weight"]}
    loaded, _ = load_model(hugging_face(tmp_path, arrays), "cpu")
    np.testing.assert_array_equal(logits_of(loaded), logits_of(model))


def test_sharded_weights_are_loaded(tmp_path):
    model = lively()
    state = model.state_dict()
    directory = hugging_face(tmp_path, None)
    files = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    where = {name: files[i % 2] for i, name in enumerate(state)}
    for file in files:
        safetensors.numpy.save_file({name: state[name] for name in state if where[name] == file}, directory / file)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    np.testing.assert_array_equal(logits_of(load_model(directory, "cpu")[0]), logits_of(model))
    (directory / files[1]).unlink()
    with pytest.raises(UserError, match=r"model-00002-of-00002\.safetensors: missing"):
        load_model(directory, "cpu")


@pytest.mark.parametrize("dtype", ["F64", "F16", "BF16"])
def test_other_dtypes_are_converted_in_chunks(tmp_path, monkeypatch, dtype):
    monkeypatch.setattr(safetensors_format, "CHUNK", 7)
    model = lively()
    for parameter in model.parameters():  # values that every type has
        parameter.data = (np.round(parameter.data * 256) / 256).clip(-0.25, 0.25)
    directory = hugging_face(tmp_path, {})
    write_safetensors(directory / "model.safetensors", model.state_dict(), dtype)
    np.testing.assert_array_equal(logits_of(load_model(directory, "cpu")[0]), logits_of(model))


def write_safetensors(path, arrays, dtype):
    """The format by hand, as NumPy has no bfloat16."""
    data, header = b"", {}
    for name, array in arrays.items():
        upper_halves = array.reshape(-1).view("<u2")[1::2]
        raw = upper_halves if dtype == "BF16" else array.astype({"F64": "<f8", "F16": "<f2"}.get(dtype, "<f4"))
        header[name] = {"dtype": dtype, "shape": array.shape, "data_offsets": [len(data), len(data) + raw.nbytes]}
        data += raw.tobytes()
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"activation_function": "gelu"}, "activation_function is gelu, not one of gelu_new, gelu_pytorch_tanh, relu"),
        ({"layer_norm_epsilon": 1e-6}, "layer_norm_epsilon is 1e-06, here it can only be 1e-05"),
        ({"n_inner": 16}, "n_inner is 16, here it can only be 32"),
        (
            {"scale_attn_by_inverse_layer_idx": True},
            "scale_attn_by_inverse_layer_idx is True, here it can only be False",
        ),
        ({"model_type": "llama"}, r"is neither a model of tinytensor nor a GPT-2 \(model_type llama\)"),
    ],
    ids=str,
)
def test_another_architecture_is_refused(tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        load_model(hugging_face(tmp_path, {}, **change), "cpu")


def test_weights_and_tokenizers_that_do_not_fit_are_named(tmp_path):
    state = lively().state_dict()
    wrong = {name: array for name, array in state.items() if name != "transformer.ln_f.bias"}
    with pytest.raises(UserError, match=r"do not fit its config.json \(missing transformer\.ln_f\.bias\)"):
        load_model(hugging_face(tmp_path / "a", wrong), "cpu")
    wrong = state | {"transformer.wpe.weight": np.zeros((9, 8), np.float32), "extra": np.zeros(1)}
    with pytest.raises(
        UserError, match=r"unexpected transformer\.extra; transformer\.wpe.* has shape \(9, 8\), needs \(8, 8\)"
    ):
        load_model(hugging_face(tmp_path / "b", wrong), "cpu")
    with pytest.raises(UserError, match=r"; missing .* and 24 more\)"):
        load_model(
            hugging_face(tmp_path / "c", {"transformer.wte.weight": state["transformer.wte.weight"]}, n_layer=2), "cpu"
        )
    directory = hugging_face(tmp_path / "d", state)
    CharTokenizer("abcdef").save(directory)
    with pytest.raises(UserError, match="its tokenizer has 6 tokens, but its model 5: they do not belong together"):
        load_model(directory, "cpu")
    write_safetensors(directory / "model.safetensors", state, "F8_E4M3")
    CharTokenizer("abcde").save(directory)
    with pytest.raises(UserError, match="has dtype F8_E4M3, not one of F64, F32, F16, BF16: save it as float32"):
        load_model(directory, "cpu")


class Hub:
    """Stands for `huggingface_hub`: has one model, or none."""

    def __init__(self, directory=None):
        self.directory = directory

    def snapshot_download(self, name, allow_patterns):
        if self.directory is None:
            raise OSError("no route to host\nand more")
        assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(allow_patterns)
        return str(self.directory)


def test_hub_models_are_downloaded_or_the_error_says_what_to_do_instead(tmp_path, monkeypatch):
    model = lively()
    monkeypatch.setitem(sys.modules, "huggingface_hub", Hub(hugging_face(tmp_path, model.state_dict())))
    np.testing.assert_array_equal(logits_of(load_model("hf:gpt2", "cpu")[0]), logits_of(model))
    for unreachable in (Hub(), None):  # None: not installed
        monkeypatch.setitem(sys.modules, "huggingface_hub", unreachable)
        with pytest.raises(UserError, match=r"hf:gpt2: cannot be downloaded .*; save config\.json") as error:
            load_model("hf:gpt2", "cpu")
        assert "\n" not in str(error.value)


def test_a_model_starts_from_another_with_fewer_positions(tmp_path):
    source = lively()
    directory = saved(tmp_path / "m", "gpt", source)
    settings = inherit(directory, {"block_size": 6, "dropout": 0.1, "n_embd": 8, "lr": 1e-3})
    assert settings == {"model": "gpt", **asdict(source.config), "block_size": 6, "dropout": 0.1}
    model = GPT(build(GPTConfig, settings))
    start_from(model, directory)
    np.testing.assert_allclose(logits_of(model), logits_of(source), rtol=1e-6)
    for change, message in (({"n_layer": 4}, "--n-layer 4"), ({"block_size": 9}, "--block-size 9")):
        with pytest.raises(UserError, match=f"{message}: the model of --init-from .* has"):
            inherit(directory, change)


@pytest.mark.parametrize("options", VARIANTS[:3], ids=str)
def test_an_exported_model_is_the_same(tmp_path, options):
    model = lively(**options)
    out = tmp_path / "out"
    assert run_command(export_main, [str(saved(tmp_path / "run/best", "gpt", model).parent), str(out)]) == 0
    assert {path.name for path in out.iterdir()} == {path.name for path in (tmp_path / "run/best").iterdir()}
    np.testing.assert_array_equal(logits_of(load_model(out, "cpu")[0]), logits_of(model))


def test_what_gpt2_cannot_express_is_not_exported(tmp_path, capsys):
    bigram = saved(tmp_path / "bigram", "bigram", Bigram(GPTConfig(**SHAPE)))
    post = saved(tmp_path / "post", "gpt", lively(norm="post"))
    good = saved(tmp_path / "good", "gpt", lively())
    cases = [
        (bigram, "new", "cannot be exported as a GPT-2: --model bigram: is not a transformer"),
        (post, "new", "cannot be exported as a GPT-2: --norm post: GPT-2 has its layer norms before each sublayer"),
        (good, "bigram", "exists and is not an empty directory"),
    ]
    for source, out, message in cases:
        assert run_command(export_main, [str(source), str(tmp_path / out)]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
    assert "--norm post" in json.loads((post / "config.json").read_text())["not_gpt2"]
    (good / "model.safetensors").unlink()
    assert run_command(export_main, [str(good), str(tmp_path / "new")]) == 2


HF_SHAPES = [
    {"vocab_size": 5, "n_positions": 8, "n_embd": 8, "n_layer": 2, "n_head": 2},
    {"vocab_size": 100, "n_positions": 64, "n_embd": 48, "n_layer": 3, "n_head": 4, "activation_function": "relu"},
    {"vocab_size": 300, "n_positions": 32, "n_embd": 64, "n_layer": 1, "n_head": 1, "tie_word_embeddings": False},
    {},  # GPT-2 with 124M parameters
]


@pytest.mark.parametrize("shape", HF_SHAPES, ids=str)
def test_logits_of_a_model_made_by_transformers_agree_within_1e_4(tmp_path, shape):
    """Optional: needs torch and transformers. Cached, uncached, and through a round trip."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config(**shape)).eval()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    theirs.save_pretrained(tmp_path)
    CharTokenizer("abcde").save(tmp_path)
    model, tokenizer = load_model(tmp_path, "cpu")
    ids = np.random.default_rng(0).integers(0, model.config.vocab_size, (2, 8))
    with torch.no_grad(), tt.no_grad():
        expected = theirs(torch.tensor(ids)).logits.numpy()
        ours = model(ids).numpy()
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-4)
    context = Context(model, 2)
    context.append(ids)
    np.testing.assert_allclose(context.logits(), expected[:, -1], rtol=0, atol=1e-4)
    create_model_directory(tmp_path / "back", "gpt", model.config, tokenizer)
    save_weights(tmp_path / "back", model.config, model.state_dict())
    again = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "back").eval()
    with torch.no_grad():
        np.testing.assert_array_equal(again(torch.tensor(ids)).logits.numpy(), expected)


def test_training_starts_from_another_model(tiny, text_file, tmp_path, capsys):
    first, second = tmp_path / "first", tmp_path / "second"

    def run(*argv):
        return run_command(train.main, [*map(str, argv)])

    assert run(*tiny, "--steps", 3, "--out", first) == 0
    shape = {"--batch-size": 2, "--processes": 1, "--eval-batches": 2, "--device": "cpu", "--data": text_file}
    common = [word for item in shape.items() for word in item]
    still = [*common, "--init-from", first, "--steps", 1, "--lr", 1e-9, "--min-lr", 0, "--block-size", 6]
    assert run(*still, "--out", second) == 0
    before, after = (load_model(directory, "cpu") for directory in (first, second))
    assert after[0].config == dataclasses.replace(before[0].config, block_size=6)
    assert after[1].characters == before[1].characters
    np.testing.assert_allclose(logits_of(after[0]), logits_of(before[0]), atol=1e-6)
    (tmp_path / "other.txt").write_text("Other characters. " * 100)
    cases = [
        ([*still, "--n-layer", 7], "--n-layer 7: the model of --init-from"),
        ([*still, "--data", tmp_path / "other.txt"], "character 'O' at position 0"),
        ([*common, "--init-from", tmp_path / "none"], "none: contains no model"),
    ]
    for argv, message in cases:
        assert run(*argv, "--out", tmp_path / "third") == 2
        assert message in capsys.readouterr().err
        assert not any((tmp_path / "third").glob("*"))


def test_data_prepared_with_another_tokenizer_is_refused(tmp_path):
    model = lively()
    directory = saved(tmp_path / "m", "gpt", model)
    prepared = tmp_path / "tokens"
    prepared.mkdir()
    CharTokenizer("abcdf").save(prepared)
    (prepared / "meta.json").write_text(json.dumps({"format": "tinytensor tokens 1"}))
    with pytest.raises(UserError, match="has another tokenizer than --init-from"):
        open_data(str(prepared), str(directory))

"""Model directories: what is saved is what is loaded, here and in Hugging Face's GPT-2."""

import dataclasses
import json
import os
import sys
from dataclasses import asdict

import numpy as np
import pytest
import safetensors.numpy
from safetensors import SafetensorError

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
from gpt.weights.families.registry import describe, read_config
from gpt.weights.load import inherit, load_model, start_from

IDS = np.array([[1, 2, 3, 0, 4]])
SHAPE = {"vocab_size": 5, "block_size": 8, "n_layer": 2, "n_head": 2, "n_embd": 8}
VARIANTS = [
    {},
    {"bias": False},
    {"tied": False},
    {"norm": "post", "activation": "relu", "tied": False, "dropout": 0.5},
    {"positions": "rotary", "bias": False},
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


def test_an_empty_name_is_not_the_current_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(saved(tmp_path, "gpt", GPT(GPTConfig(**SHAPE))))
    with pytest.raises(UserError, match="the name of the model is empty"):
        load_model("", "cpu")
    load_model(".", "cpu")


@pytest.mark.parametrize("fault", ["more after the last", "a gap", "an overlap"])
def test_a_file_with_other_bytes_than_its_tensors_is_corrupt(tmp_path, fault):
    path = tmp_path / "x.safetensors"
    header = {
        "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
        "b": {"dtype": "F32", "shape": [2], "data_offsets": [8, 16] if fault == "more after the last" else [12, 20]},
    }
    if fault == "an overlap":
        header["b"]["data_offsets"] = [4, 12]
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(20 if fault != "an overlap" else 12))
    with pytest.raises(UserError, match=r"x\.safetensors: corrupt \(its tensors overlap or leave gaps\)"):
        safetensors_format.entries(path)
    with pytest.raises(SafetensorError):
        safetensors.numpy.load_file(path)


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
    described["n_embd"] = 4
    config.write_text(json.dumps(described))
    with pytest.raises(UserError, match="its weights do not fit"):
        load_model(directory, "cpu")
    config.write_text("{}")
    with pytest.raises(UserError, match="is neither a model of tinytensor nor one of gpt2, llama"):
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
        ({"activation_function": "silu"}, "activation_function is silu, not one of gelu_new, gelu_pytorch_tanh, gelu"),
        ({"layer_norm_epsilon": 0.0}, "--norm-eps 0.0: must be above 0"),
        ({"n_inner": -16}, "--n-inner -16: must be at least 0"),
        ({"scale_attn_weights": False}, "scale_attn_weights is False, here it can only be True"),
        ({"model_type": "bloom"}, r"is neither a model of tinytensor nor one of gpt2, .* \(model_type bloom\)"),
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

    def snapshot_download(self, repo_id, *, revision=None, allow_patterns=None):
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


def test_what_no_family_can_express_is_not_exported(tmp_path, capsys):
    bigram = saved(tmp_path / "bigram", "bigram", Bigram(GPTConfig(**SHAPE)))
    post = saved(tmp_path / "post", "gpt", lively(norm="post"))
    good = saved(tmp_path / "good", "gpt", lively())
    cases = [
        (bigram, "new", "gpt_neox: --model bigram: is not a transformer"),
        (post, "new", "gpt_neox: --norm post: GPT-2 has its layer norms before each sublayer"),
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
        ([*still, "--data", tmp_path / "other.txt"], "character 'O' in 'Other ch"),
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


def edit(path, **changes):
    """Change some keys of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_biases_trained_elsewhere_are_read_although_our_section_says_there_are_none(tmp_path):
    model = lively(bias=False)
    directory = saved(tmp_path / "m", "gpt", model)
    assert load_model(directory, "cpu")[0].config.bias is False
    arrays = dict(safetensors.numpy.load_file(directory / "model.safetensors"))
    for name in arrays:
        if name.endswith(".bias"):
            arrays[name] = arrays[name] + np.float32(0.25)
    safetensors.numpy.save_file(arrays, directory / "model.safetensors")
    trained = GPT(GPTConfig(**SHAPE))
    trained.load_state_dict(arrays)
    loaded, _ = load_model(directory, "cpu")
    assert loaded.config.bias
    np.testing.assert_array_equal(logits_of(loaded), logits_of(trained))
    settings = inherit(directory, {})
    assert settings["bias"] is True
    copy = GPT(build(GPTConfig, settings))
    start_from(copy, directory)
    np.testing.assert_array_equal(logits_of(copy), logits_of(trained))
    assert run_command(export_main, [str(directory), str(tmp_path / "out")]) == 0
    assert json.loads((tmp_path / "out/config.json").read_text())["tinytensor"]["bias"] is True


def test_where_our_section_disagrees_with_hugging_faces_keys_those_hold(tmp_path):
    directory = saved(tmp_path, "gpt", lively())
    edit(directory / "config.json", activation_function="relu", n_head=4)
    config = load_model(directory, "cpu")[0].config
    assert (config.activation, config.n_head) == ("relu", 4)
    edit(directory / "config.json", scale_attn_weights=False)
    with pytest.raises(UserError, match=r"config\.json: scale_attn_weights is False, here it can only be True"):
        load_model(directory, "cpu")


@pytest.mark.parametrize("options", [{}, {"norm": "post"}], ids=str)
def test_a_model_that_was_saved_before_there_were_other_positions_has_learned_ones(tmp_path, options):
    model = lively(**options)
    directory = saved(tmp_path, "gpt", model)
    section = json.loads((directory / "config.json").read_text())["tinytensor"]
    assert section.pop("positions") == "learned"
    edit(directory / "config.json", tinytensor=section)
    loaded, _ = load_model(directory, "cpu")
    assert loaded.config == model.config
    np.testing.assert_array_equal(logits_of(loaded), logits_of(model))


def test_a_model_starts_from_one_with_rotary_positions_and_a_shorter_context(tmp_path):
    model = lively(positions="rotary")
    directory = saved(tmp_path, "gpt", model)
    settings = inherit(str(directory), {"block_size": 5})
    assert (settings["positions"], settings["block_size"]) == ("rotary", 5)
    shorter = GPT(GPTConfig(**{name: value for name, value in settings.items() if name != "model"}))
    start_from(shorter, str(directory))
    np.testing.assert_array_equal(logits_of(shorter), logits_of(model))
    with pytest.raises(UserError, match=r"--positions learned: the model of --init-from .* has rotary"):
        inherit(str(directory), {"positions": "learned"})


def test_a_resized_vocabulary_is_that_of_the_file(tmp_path):
    directory = saved(tmp_path, "gpt", lively())
    arrays = dict(safetensors.numpy.load_file(directory / "model.safetensors"))
    larger = np.concatenate([arrays["transformer.wte.weight"], np.ones((3, 8), np.float32)])
    safetensors.numpy.save_file(arrays | {"transformer.wte.weight": larger}, directory / "model.safetensors")
    edit(directory / "config.json", vocab_size=8)
    assert load_model(directory, "cpu")[0].config.vocab_size == 8


def test_a_section_that_contradicts_a_gpt2_is_refused(tmp_path):
    directory = saved(tmp_path, "gpt", lively())
    section = json.loads((directory / "config.json").read_text())["tinytensor"]
    for changes in ({"norm": "post"}, {"model": "bigram"}):
        edit(directory / "config.json", tinytensor=section | changes)
        with pytest.raises(UserError, match=r"config\.json: describes a GPT-2, and in its section tinytensor a model"):
            load_model(directory, "cpu")


def test_a_best_model_fine_tuned_in_transformers_is_read_back(tmp_path):
    """Optional: needs torch and transformers."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    directory = saved(tmp_path / "best", "gpt", lively(bias=False))
    theirs = transformers.GPT2LMHeadModel.from_pretrained(directory)
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.1)
    for _ in range(3):
        theirs(torch.tensor(IDS), labels=torch.tensor(IDS)).loss.backward()
        optimizer.step()
    theirs.eval().save_pretrained(tmp_path / "tuned")
    CharTokenizer("abcde").save(tmp_path / "tuned")
    assert "tinytensor" in json.loads((tmp_path / "tuned/config.json").read_text())
    with torch.no_grad():
        expected = theirs(torch.tensor(IDS)).logits.numpy()
    np.testing.assert_allclose(logits_of(load_model(tmp_path / "tuned", "cpu")[0]), expected, atol=1e-5)


def test_a_second_head_that_a_tied_model_would_ignore_is_refused(tmp_path):
    state = lively().state_dict()
    head = state["transformer.wte.weight"] + np.float32(0.5)
    directory = hugging_face(tmp_path, dict(state) | {"lm_head.weight": head})
    with pytest.raises(UserError, match=r"config\.json ties lm_head\.weight to .*: set tie_word_embeddings to false"):
        load_model(directory, "cpu")
    edit(directory / "config.json", tie_word_embeddings=False)
    model = load_model(directory, "cpu")[0]
    np.testing.assert_array_equal(dict(model.named_parameters())["lm_head.weight"].data, head)


@pytest.mark.parametrize("dtype", [bool, np.uint8])
def test_masks_of_any_dtype_are_left_out(tmp_path, dtype):
    model = lively()
    masks = {f"transformer.h.{i}.attn.bias": np.ones((1, 1, 8, 8), dtype) for i in range(2)}
    loaded, _ = load_model(hugging_face(tmp_path, dict(model.state_dict()) | masks), "cpu")
    np.testing.assert_array_equal(logits_of(loaded), logits_of(model))


def test_what_a_configuration_leaves_out_is_hugging_faces_default(tmp_path):
    directory = hugging_face(tmp_path, None)
    (directory / "config.json").write_text('{"model_type": "gpt2"}')
    kind, config = read_config(directory)
    assert (kind, config) == ("gpt", GPTConfig(50257, 1024, 12, 12, 768, dropout=0.1))
    (directory / "config.json").write_text('{"model_type": "gpt2", "num_hidden_layers": 2, "hidden_size": 24}')
    assert (read_config(directory)[1].n_layer, read_config(directory)[1].n_embd) == (2, 24)
    edit(directory / "config.json", n_layer=3)
    with pytest.raises(UserError, match="n_layer is 3, and num_hidden_layers, which means the same, 2"):
        read_config(directory)


def test_weights_in_a_pickle_are_not_read_and_the_error_says_how_to_convert_them(tmp_path):
    directory = hugging_face(tmp_path, None)
    (directory / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(UserError, match=r"convert it where you trust it, with transformers: GPT2LMHeadModel\.from_pre"):
        load_model(directory, "cpu")


@pytest.mark.parametrize("file", ["../secret.safetensors", "/etc/passwd", "sub/model.safetensors", "", "..", 5, [1]])
def test_an_index_may_only_name_files_beside_it(tmp_path, file):
    safetensors.numpy.save_file(dict(lively().state_dict()), tmp_path / "secret.safetensors")
    (tmp_path / "m/sub").mkdir(parents=True)
    safetensors.numpy.save_file(dict(lively().state_dict()), tmp_path / "m/sub/model.safetensors")
    directory = hugging_face(tmp_path / "m", None)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"wte.weight": file}}))
    with pytest.raises(UserError, match="corrupt"):
        load_model(directory, "cpu")


DEEP = "[" * 200_000


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors.index.json"])
@pytest.mark.parametrize("content", [DEEP, '{"a":' * 200_000, "[1]", "\ufeff", "null", "1" * 5000, b"\xff\xff"])
def test_hostile_json_is_one_sentence(tmp_path, name, content):
    directory = hugging_face(tmp_path, None if "index" in name else dict(lively().state_dict()))
    (directory / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=name) as error:
        load_model(directory, "cpu")
    assert len(str(error.value)) < 400 + len(str(tmp_path))


def test_a_hostile_header_is_one_sentence(tmp_path):
    directory = hugging_face(tmp_path, None)
    good = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    bad = [{"shape": [2.0]}, {"shape": [-2]}, {"shape": "ab"}, {"data_offsets": [0.0, 8.0]}, {"data_offsets": [8]}]
    bad += [{"data_offsets": [True, 9]}, {"dtype": []}, {"data_offsets": [0, 80]}, {"shape": [10**30, 10**30]}]
    headers = [DEEP, "[]", "5", *(json.dumps({"wte.weight": good | change}) for change in bad)]
    for header in headers:
        data = len(header).to_bytes(8, "little") + header.encode() + bytes(8)
        (directory / "model.safetensors").write_bytes(data)
        with pytest.raises(UserError, match=r"model\.safetensors: corrupt"):
            load_model(directory, "cpu")


@pytest.mark.parametrize("value", ["2" * 5000, 2.0, float("nan"), True, None, [2], {}, -1, 10**30, 10**9])
@pytest.mark.parametrize("name", ["n_layer", "n_embd", "n_head", "vocab_size", "n_positions", "resid_pdrop"])
def test_configurations_of_impossible_values_are_one_sentence_before_memory_is_taken(tmp_path, name, value):
    directory = hugging_face(tmp_path, dict(lively().state_dict()), **{name: value})
    with pytest.raises(UserError, match=r"config\.json|do not fit") as error:
        load_model(directory, "cpu")
    assert len(str(error.value)) < 300 + len(str(directory))


def test_our_sections_of_impossible_values_are_one_sentence(tmp_path):
    directory = saved(tmp_path, "gpt", lively(norm="post"))
    section = json.loads((directory / "config.json").read_text())["tinytensor"]
    changes = [{"n_layer": "2"}, {"bias": 1}, {"norm": []}, {"model": "rnn"}, {"model": []}, {"n_layer": 10**9}]
    for bad in (*(section | change for change in changes), [], 5, {}):
        edit(directory / "config.json", tinytensor=bad)
        with pytest.raises(UserError, match=r"config\.json|do not fit"):
            load_model(directory, "cpu")


def test_a_named_pipe_is_not_waited_for(tmp_path):
    directory = hugging_face(tmp_path, dict(lively().state_dict()))
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        content = (directory / name).read_bytes()
        (directory / name).unlink()
        os.mkfifo(directory / name)
        with pytest.raises(UserError, match=rf"{name}: .*not a regular file"):
            load_model(directory, "cpu")
        (directory / name).unlink()
        (directory / name).write_bytes(content)
    (directory / "tokenizer.json").unlink()
    (directory / "vocab.json").write_text("{}")
    os.mkfifo(directory / "merges.txt")
    with pytest.raises(UserError, match=r"tokenizer\.json: missing"):
        load_model(directory, "cpu")

"""Model directories: what is saved is what is loaded, here and in Hugging Face's GPT-2."""

import json

import numpy as np
import pytest
import safetensors.numpy

import tinytensor as tt
from gpt.config import GPTConfig
from gpt.errors import UserError
from gpt.model import GPT, Bigram
from gpt.pretrained import create_model_directory, describe, load_model, save_weights
from gpt.tokenizer import CharTokenizer

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
def test_a_saved_gpt_comes_back_to_the_bit(tmp_path, options):
    with tt.seeded(1, "weights"):
        model = GPT(GPTConfig(**SHAPE, **options))
    for parameter in model.parameters():  # biases start at zero, which would hide a mistake
        parameter.data += np.float32(0.01)
    loaded, tokenizer = load_model(saved(tmp_path, "gpt", model), "cpu")
    assert loaded.config == model.config
    assert tokenizer.characters == "abcde"
    assert not loaded.training
    np.testing.assert_array_equal(logits_of(loaded), logits_of(model))


def test_a_saved_bigram_comes_back(tmp_path):
    model = Bigram(GPTConfig(**SHAPE, bias=False))
    loaded, _ = load_model(saved(tmp_path, "bigram", model), "cpu")
    np.testing.assert_array_equal(logits_of(loaded), logits_of(model))


def test_a_run_stands_for_its_best_model(tmp_path):
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


def test_what_is_missing_damaged_or_foreign_is_named(tmp_path):
    with pytest.raises(UserError, match="holds no model"):
        load_model(tmp_path / "missing", "cpu")
    directory = saved(tmp_path / "m", "gpt", GPT(GPTConfig(**SHAPE)))
    weights, config = directory / "model.safetensors", directory / "config.json"
    content = weights.read_bytes()
    weights.write_bytes(content[:-10])
    with pytest.raises(UserError, match=r"model\.safetensors: damaged"):
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

"""GGUF files: read back by the package `gguf`, llama.cpp's own, with the same bytes that it would store."""

import numpy as np
import pytest

import tinytensor as tt
from gpt.cli import run_command
from gpt.export import main
from gpt.model import GPT, GPTConfig
from gpt.tokenizers.bpe import BpeTokenizer
from gpt.tokenizers.characters import CharTokenizer
from gpt.weights.directory import create_model_directory, save_weights
from gpt.weights.gguf import to_q8_0

CHARACTERS = CharTokenizer("ab\né日😀")
DOCUMENTS = CharTokenizer("ab\x03")
WORDS = BpeTokenizer.train(["hello there hello world"] * 3, 270)


@pytest.fixture
def saved(tmp_path):
    """A function that saves a GPT with a tokenizer: its state and directory."""

    def save(tokenizer, **options):
        config = GPTConfig(tokenizer.vocab_size + 2, block_size=8, n_layer=2, n_head=2, n_embd=32, **options)
        with tt.seeded(1, "weights"):
            state = GPT(config).state_dict()
        create_model_directory(tmp_path / "model", "gpt", config, tokenizer)
        save_weights(tmp_path / "model", config, state)
        return state, tmp_path / "model"

    return save


def exported(directory, outtype):
    gguf = pytest.importorskip("gguf", reason="needs gguf: pip install gguf")
    out = directory.parent / f"{outtype}.gguf"
    assert main([str(directory), str(out), "--outtype", outtype]) == 0
    return gguf, gguf.GGUFReader(out)


def settings(reader):
    return {name: field.contents() for name, field in reader.fields.items()}


@pytest.mark.parametrize("options", [{}, {"bias": False, "tied": False}], ids=str)
@pytest.mark.parametrize("outtype", ["f16", "q8_0"])
def test_tensors_have_the_bytes_of_llama_cpps_own_writer(saved, outtype, options):
    state, directory = saved(WORDS, **options)
    gguf, reader = exported(directory, outtype)
    kind = gguf.GGMLQuantizationType[outtype.upper()]
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.GPT2, 2)
    found = {tensor.name: tensor for tensor in reader.tensors}
    for name, value in state.items():
        if name == "lm_head.weight" and options.get("tied", True):
            continue
        tensor = found.pop(names.get_name(name, (".weight", ".bias")))
        matrix = value.ndim == 2 and "wpe" not in name
        if matrix and ".h." in name:
            value = np.ascontiguousarray(value.T)
        stored = gguf.quantize(value, kind) if matrix else value
        assert tensor.tensor_type == (kind if matrix else gguf.GGMLQuantizationType.F32)
        np.testing.assert_array_equal(tensor.data.view(np.uint8), stored.view(np.uint8))
    assert all(name.endswith(".bias") and not tensor.data.any() for name, tensor in found.items())
    assert bool(found) == ("bias" in options)
    assert settings(reader)["gpt2.context_length"] == 8


def test_a_byte_pair_encoding_keeps_its_ids(saved):
    _, directory = saved(WORDS)
    _, reader = exported(directory, "f16")
    found = settings(reader)
    tokens, merges = found["tokenizer.ggml.tokens"], found["tokenizer.ggml.merges"]
    assert len(tokens) == WORDS.vocab_size + 2
    assert [tokens.index(token) for token in ("Ġhello", "<|endoftext|>")] == [
        int(WORDS.encode(" hello")[0]),
        WORDS.end_of_text,
    ]
    assert "h e" in merges or "l l" in merges
    assert found["tokenizer.ggml.token_type"][-3:] == [1, 5, 5]
    assert found["tokenizer.ggml.token_type"][WORDS.end_of_text] == 3
    assert found["tokenizer.ggml.eos_token_id"] == WORDS.end_of_text


@pytest.mark.parametrize(("tokenizer", "end", "rows"), [(CHARACTERS, 8, 9), (DOCUMENTS, 0, 5)])
def test_characters_become_tokens_of_merged_bytes(saved, tokenizer, end, rows):
    state, directory = saved(tokenizer)
    _, reader = exported(directory, "f16")
    found = settings(reader)
    assert found["tokenizer.ggml.eos_token_id"] == end
    assert len(found["tokenizer.ggml.tokens"]) == rows
    embedding = next(tensor.data for tensor in reader.tensors if tensor.name == "token_embd.weight")
    expected = state["transformer.wte.weight"].astype(np.float16)
    np.testing.assert_array_equal(embedding[: len(expected)], expected)
    assert not embedding[len(expected) :].any()
    if tokenizer is CHARACTERS:
        assert found["tokenizer.ggml.merges"] == ["Ã ©", "æ Ĺ", "ð Ł", "æĹ ¥", "ðŁ ĺ", "ðŁĺ Ģ"]


def test_q8_0_is_within_half_a_step():
    x = np.random.default_rng(0).standard_normal((4, 64)).astype(np.float32)
    x[0, :32] = 0
    blocks = to_q8_0(x)
    assert blocks.shape == (8, 34)
    scale, values = blocks[:, :2].copy().view(np.float16).astype(np.float32), blocks[:, 2:].view(np.int8)
    assert (abs(scale * values - x.reshape(8, 32)) <= 0.501 * scale + 127 * 2.0**-11 * scale).all()
    np.testing.assert_array_equal(abs(values[1:]).max(axis=1), 127)


@pytest.mark.parametrize(
    ("options", "flags", "message"),
    [
        ({"activation": "relu"}, [], "cannot be exported for llama.cpp: --activation relu"),
        ({"activation": "gelu_erf"}, [], "cannot be exported for llama.cpp: --activation gelu_erf"),
        ({"n_inner": 64}, [], "cannot be exported for llama.cpp: --n-inner 64: llama.cpp's GPT-2 has --n-inner 128"),
        ({"norm_eps": 1e-6}, [], "cannot be exported for llama.cpp: --norm-eps 1e-06"),
        ({"inverse_layer_scale": True}, [], "cannot be exported for llama.cpp: --inverse-layer-scale"),
        ({"norm_layer": "rms"}, [], "cannot be exported as a GPT-2: its blocks have options"),
        ({"positions": "rotary"}, [], "cannot be exported as a GPT-2: --positions rotary"),
        ({}, ["--outtype", "q4"], "--outtype q4: must be one of f16, q8_0"),
    ],
)
def test_what_llama_cpp_has_not_is_refused(saved, tmp_path, options, flags, message, capsys):
    _, directory = saved(DOCUMENTS, **options)
    out = tmp_path / "x.gguf"
    assert run_command(main, [str(directory), str(out), *flags]) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_a_file_is_not_replaced_and_a_directory_has_no_outtype(saved, tmp_path, capsys):
    _, directory = saved(DOCUMENTS)
    out = tmp_path / "x.gguf"
    out.write_text("mine")
    assert run_command(main, [str(directory), str(out)]) == 2
    assert "exists; choose another name" in capsys.readouterr().err
    assert out.read_text() == "mine"
    assert run_command(main, [str(directory), str(tmp_path / "x"), "--outtype", "f16"]) == 2
    assert "--outtype f16: is for files for llama.cpp, whose names end in .gguf" in capsys.readouterr().err


def test_weights_that_float16_cannot_hold_are_one_sentence(saved, tmp_path, capsys):
    state, directory = saved(DOCUMENTS)
    state["transformer.h.0.mlp.c_fc.weight"][0, 0] = 1e6
    config = GPTConfig(DOCUMENTS.vocab_size + 2, block_size=8, n_layer=2, n_head=2, n_embd=32)
    save_weights(directory, config, state)
    assert run_command(main, [str(directory), str(tmp_path / "x.gguf")]) == 2
    assert "float16 cannot hold" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["model"]

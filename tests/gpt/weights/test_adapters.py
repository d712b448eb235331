"""Runs with LoRA or `--freeze`: every family, resumed to the bit, merged, exported, in PEFT's layout; and mistakes."""

import json
import shutil

import numpy as np
import pytest
import safetensors.numpy

import train
from gpt.cli import run_command
from gpt.errors import UserError
from gpt.export import main as export_main
from gpt.generate import main as generate_main
from gpt.model.lora import saved_state
from gpt.tokenizers.characters import CharTokenizer
from gpt.training.optimizer import choose_trained
from gpt.training.run import open_run
from gpt.training.trainer import build_model
from gpt.weights.directory import create_model_directory, save_weights, write_export
from gpt.weights.families.registry import export_format
from gpt.weights.load import load_model, start_from
from tests.gpt.weights.test_families import CONFIGS, lively
from tinytensor import device

IDS = np.arange(6)[None]
FLAGS = ["--steps", 6, "--batch-size", 2, "--eval-batches", 1, "--eval-interval", 3, "--sample-interval", 0]
FLAGS += ["--lr", 0.03, "--log-interval", 3, "--checkpoint-interval", 3, "--device", "cpu", "--warmup-steps", 0]
LORA = ["--lora-rank", 2, "--lora-alpha", 3]


def run(*argv):
    return run_command(train.main, [str(word) for word in argv])


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr("gpt.training.report.write_plot", lambda rows, path: "no plot")
    monkeypatch.setattr("gpt.training.report.write_sample", lambda *_, **__: "no sample")


@pytest.fixture
def data(tmp_path):
    (tmp_path / "text.txt").write_text("abcde edcba " * 120)
    return ["--data", tmp_path / "text.txt"]


@pytest.fixture
def base(tmp_path):
    """A function that makes the model directory of a family; by default GPT-2's."""

    def make(name="gpt2", place="base"):
        directory = tmp_path / place
        directory.mkdir()
        model = lively(CONFIGS[name])
        write_export(directory, export_format("gpt", model.config), model, CharTokenizer("abcde "))
        return directory

    return make


def digest(run_directory):
    newest = max((run_directory / "checkpoints").iterdir())
    places = [*newest.glob("*.safetensors"), run_directory / "best/model.safetensors"]
    return {str(place.relative_to(run_directory)): place.read_bytes() for place in places}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_run_of_every_family(name, base, data, tmp_path, capsys):
    """It resumes to the bit without the model it began with, is merged on export, and as PEFT documents its layout."""
    source, out, parts = base(name), tmp_path / "run", tmp_path / "parts"
    flags = [*FLAGS, *data, *LORA, "--init-from", source, "--processes", 1]
    assert run(*flags, "--out", out) == 0
    assert "of them trained, on cpu" in capsys.readouterr().out
    assert run(*flags, "--out", parts, "--stop-after", 4) == 0
    weights = {path.name: path.read_bytes() for path in source.glob("*.safetensors")}
    shutil.rmtree(source)
    assert run("--resume", parts) == 0
    assert digest(parts) == digest(out)

    # adapters alone are saved, and the frozen weights are what they were
    assert all(
        name.endswith(("lora_a", "lora_b")) for name in safetensors.numpy.load(digest(out)["best/model.safetensors"])
    )
    assert {path.name: path.read_bytes() for path in (out / "base").glob("*.safetensors")} == weights

    # merged: the same logits as unmerged, and generate runs
    merged, _ = load_model(out, "cpu")
    opened = open_run(out, {})
    model = build_model("gpt", opened.model, 1, device("cpu"))
    choose_trained(model, opened.train)
    start_from(model, opened.start)
    for key, array in safetensors.numpy.load_file(out / "best/model.safetensors").items():
        saved_state(model)[key][...] = array
    expected = model.eval()(IDS).data
    assert np.abs(merged(IDS).data - expected).max() < 1e-5 * np.abs(expected).max()
    assert run_command(generate_main, [str(out), "--prompt", "ab", "--tokens", "3", "--device", "cpu"]) == 0
    assert run_command(export_main, [str(out), str(tmp_path / "merged")]) == 0
    np.testing.assert_array_equal(load_model(tmp_path / "merged", "cpu")[0](IDS).data, merged(IDS).data)

    # PEFT: W + alpha / r B A, by the names of the family, is what was exported
    assert run_command(export_main, [str(out), str(tmp_path / "peft"), "--adapter"]) == 0
    with pytest.raises(UserError, match=r"peft: contains adapters alone, for PEFT; give the run that they come from"):
        load_model(tmp_path / "peft", "cpu")
    config = json.loads((tmp_path / "peft/adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["base_model_name_or_path"]) == (2, 3.0, str(source))
    adapters = safetensors.numpy.load_file(tmp_path / "peft/adapter_model.safetensors")
    weights = safetensors.numpy.load_file(out / "base/model.safetensors")
    exported = safetensors.numpy.load_file(tmp_path / "merged/model.safetensors")
    changed = set()
    for key in adapters:
        layer = key.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
        if key.endswith("lora_A.weight"):
            assert any(layer.endswith("." + target) for target in config["target_modules"])
            a, b = adapters[key], adapters[key.replace("lora_A", "lora_B")]
            added = 1.5 * (b @ a)
            weight = weights[f"{layer}.weight"] + (added.T if config["fan_in_fan_out"] else added)
            np.testing.assert_allclose(exported[f"{layer}.weight"], weight, atol=1e-6)
            changed.add(f"{layer}.weight")
    assert {key for key in exported if not np.array_equal(exported[key], weights.get(key))} == changed


def test_the_processes_make_no_difference_and_frozen_parameters_stay(base, data, tmp_path, capsys):
    source = base("llama")
    both = [*FLAGS, *data, "--init-from", source, "--shares", 2]
    flags = [*both, "--freeze", "transformer.wte,transformer.h.*.mlp.c_fc"]
    assert run(*flags, "--processes", 2, "--out", tmp_path / "two") == 0
    assert run(*flags, "--processes", 1, "--out", tmp_path / "parts", "--stop-after", 3) == 0
    assert run("--resume", tmp_path / "parts", "--processes", 1) == 0
    assert digest(tmp_path / "two") == digest(tmp_path / "parts")
    before, after = load_model(source, "cpu")[0].state_dict(), load_model(tmp_path / "two", "cpu")[0].state_dict()
    frozen = {name for name in before if np.array_equal(before[name], after[name])}
    assert frozen == {"transformer.wte.weight", *(f"transformer.h.{i}.mlp.c_fc.weight" for i in range(2))}
    state = safetensors.numpy.load(digest(tmp_path / "two")["checkpoints/step-000006/optimizer.safetensors"])
    assert len(state["step"]) == len(before) - len(frozen)
    # with LoRA two processes share the frozen weights
    lora = [*both, *LORA, "--lora-targets", "q_proj,k_proj,v_proj,down_proj"]
    assert run(*lora, "--processes", 2, "--out", tmp_path / "lora2") == 0
    assert run(*lora, "--processes", 1, "--out", tmp_path / "lora1") == 0
    assert digest(tmp_path / "lora2") == digest(tmp_path / "lora1")
    layers = json.loads((tmp_path / "lora1/best/config.json").read_text())["lora"]["layers"]
    assert layers == ["attn.c_attn", "mlp.c_proj"]


def test_a_run_is_a_base_and_what_was_merged_can_be_tuned_again(base, data, tmp_path, capsys):
    flags = [*FLAGS, *data, *LORA]
    first, out = tmp_path / "first", tmp_path / "run"
    assert run(*FLAGS, *data, "--init-from", base(), "--out", first) == 0
    assert run(*flags, "--init-from", first, "--out", out) == 0
    assert not (out / "base/model.safetensors").samefile(first / "best/model.safetensors")  # which may be written into
    assert run(*flags, "--init-from", out, "--out", tmp_path / "again") == 2
    assert "has adapters: merge them first with python -m gpt.export" in capsys.readouterr().err
    assert run(*FLAGS, *data, "--init-from", out, "--out", tmp_path / "whole") == 0  # all weights, from the merged ones
    assert run_command(export_main, [str(out), str(tmp_path / "merged")]) == 0
    assert run(*flags, "--init-from", tmp_path / "merged", "--out", tmp_path / "again") == 0


def test_a_base_that_is_damaged_or_missing_is_noticed(base, data, tmp_path, capsys):
    out = tmp_path / "run"
    assert run(*FLAGS, *data, *LORA, "--init-from", base(), "--out", out, "--stop-after", 4) == 0
    shutil.copytree(out, tmp_path / "copy")
    assert run("--resume", tmp_path / "copy") == 0  # wherever it is taken
    weights = out / "base/model.safetensors"
    content = bytearray(weights.read_bytes())
    weights.unlink()
    content[-5] ^= 1
    weights.write_bytes(content)
    capsys.readouterr()
    for command in (lambda: run("--resume", out), lambda: run_command(generate_main, [str(out), "--device", "cpu"])):
        assert command() == 2
        assert "base/model.safetensors: is not the file that was saved" in capsys.readouterr().err
    shutil.rmtree(out / "base")
    assert run("--resume", out) == 2
    assert capsys.readouterr().err.endswith("base/config.json: is missing: restore it from a copy\n")
    (out / "manifest.json").unlink()
    assert run("--resume", out) == 2
    assert "has adapters alone, and" in capsys.readouterr().err
    assert run_command(generate_main, [str(out), "--device", "cpu"]) == 2
    assert "has adapters alone, and" in capsys.readouterr().err


MISTAKES = [
    (["--lora-rank", 0], "--lora-rank 0: must be at least 1; leave it out to train the weights themselves"),
    (["--lora-rank", -2], "--lora-rank -2: must be at least 0"),
    (["--lora-rank", 10**12], "--lora-rank 1000000000000: "),
    (["--lora-alpha", 8], "--lora-alpha 8.0: is for adapters: add --lora-rank"),
    (["--lora-targets", "c_fc"], "--lora-targets c_fc: is for adapters: add --lora-rank"),
    ([*LORA, "--lora-targets", "c_atn"], "--lora-targets c_atn: the model has no such layer (did you mean c_attn?)"),
    ([*LORA, "--lora-targets", "zz"], "--lora-targets zz: the model has no such layer; it has attn.c_attn, "),
    (
        [*LORA, "--lora-targets", "q_proj,v_proj"],
        "--lora-targets q_proj: is one layer with k_proj here: name these too, or attn.c_attn",
    ),
    ([*LORA, "--optimizer", "muon"], "--optimizer muon: is for whole matrices"),
    ([*LORA, "--freeze", "transformer.wte"], "--freeze transformer.wte: with --lora-rank all but the adapters"),
    (["--freeze", "transformer.wtf"], "--freeze transformer.wtf: no parameter's name begins with that (did you mean"),
    (["--freeze", "transformer.wte,"], "--freeze transformer.wte,: has a comma without a name beside it"),
    ([*LORA, "--lora-targets", ","], "--lora-targets ,: has a comma without a name beside it"),
    (["--freeze", "*"], "--freeze *: leaves nothing to train; freeze less"),
    (["--chat-template", "chatml"], "text.txt has no dialogs"),
]


@pytest.mark.parametrize(("flags", "message"), MISTAKES, ids=str)
def test_mistakes_are_one_sentence_and_leave_nothing(flags, message, base, data, tmp_path, capsys):
    assert run(*FLAGS, *data, "--init-from", base("llama"), *flags, "--out", tmp_path / "run") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "text.txt"]


def test_what_has_no_layers_or_no_adapters_is_refused(base, data, tmp_path, capsys):
    assert run(*FLAGS, *data, *LORA, "--out", tmp_path / "run") == 2
    assert "--lora-rank 2: needs --init-from and the model that gets adapters" in capsys.readouterr().err
    assert run(*FLAGS, *data, "--model", "bigram", "--block-size", 16, "--out", tmp_path / "bigram") == 0
    assert run(*FLAGS, *data, *LORA, "--init-from", tmp_path / "bigram", "--out", tmp_path / "run") == 2
    assert "a bigram model has no layers for adapters" in capsys.readouterr().err
    source = base()
    assert run(*FLAGS, *data, *LORA, "--init-from", source, "--out", tmp_path / "run", "--stop-after", 1) == 0
    capsys.readouterr()
    cases = [
        ([source, tmp_path / "x", "--adapter"], "does not say which model the adapters are for"),
        ([tmp_path / "run", tmp_path / "x.gguf"], "has adapters: export to a directory first, which merges them"),
        ([tmp_path / "run", tmp_path / "x.gguf", "--adapter"], "--adapter: writes a directory"),
        ([tmp_path / "bigram", tmp_path / "x", "--adapter"], "has no adapters but a whole model"),
    ]
    for argv, message in cases:
        assert run_command(export_main, list(map(str, argv))) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_a_directory_of_adapters_that_does_not_fit_is_refused(base, data, tmp_path, capsys):
    out = tmp_path / "run"
    assert run(*FLAGS, *data, *LORA, "--init-from", base(), "--out", out) == 0
    (out / "manifest.json").unlink()
    path = out / "best/config.json"
    content = json.loads(path.read_text())
    for change, message in [
        ({"lora": {**content["lora"], "rank": 3}}, "its adapters do not fit its config.json"),
        ({"lora": {**content["lora"], "rank": 0}}, "is not the configuration of a model (rank 0"),
        ({"lora": {**content["lora"], "rank": 10**13}}, "has shape (24, 2), needs (24, 10000000000000)"),
        ({"lora": {**content["lora"], "alpha": 10**400}}, "is not the configuration of a model (alpha 1000"),
        ({"lora": {**content["lora"], "alpha": True}}, "is not the configuration of a model (alpha True)"),
        ({"lora": {**content["lora"], "layers": ["x"]}}, "is not the configuration of a model (layers ['x'])"),
        ({"lora": {**content["lora"], "layers": [{}]}}, "is not the configuration of a model (layers [{}])"),
        (
            {"lora": {**content["lora"], "layers": ["mlp.c_fc"] * 2}},
            "is not the configuration of a model (layers ['mlp",
        ),
        ({"lora": 5}, "is not the configuration of a model"),
        ({"tinytensor": {**content["tinytensor"], "n_layer": 3}}, "its config.json describes another model than"),
    ]:
        path.write_text(json.dumps(content | change))
        assert run_command(generate_main, [str(out), "--device", "cpu"]) == 2, change
        assert message in capsys.readouterr().err
    path.write_text(json.dumps(content))
    (out / "best/model.safetensors").unlink()
    assert run_command(generate_main, [str(out), "--device", "cpu"]) == 2
    assert "missing; the first evaluation of a run writes it" in capsys.readouterr().err


@pytest.mark.parametrize("name", CONFIGS)
def test_peft_computes_the_same(name, base, data, tmp_path):
    """Optional: needs peft, torch and transformers."""
    peft, torch = pytest.importorskip("peft"), pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    source, out = base(name), tmp_path / "run"
    assert run(*FLAGS, *data, *LORA, "--init-from", source, "--out", out) == 0
    assert run_command(export_main, [str(out), str(tmp_path / "merged")]) == 0
    assert run_command(export_main, [str(out), str(tmp_path / "peft"), "--adapter"]) == 0
    theirs, merged = (transformers.AutoModelForCausalLM.from_pretrained(path) for path in (source, tmp_path / "merged"))
    theirs = peft.PeftModel.from_pretrained(theirs, tmp_path / "peft").eval()
    found, expected = (model(torch.from_numpy(IDS)).logits.detach().numpy() for model in (theirs, merged.eval()))
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


def test_a_base_of_ours_that_transformers_does_not_know_gets_the_names_of_its_export(data, tmp_path, capsys):
    source, out = tmp_path / "base", tmp_path / "run"
    model = lively(CONFIGS["llama"])
    create_model_directory(source, "gpt", model.config, CharTokenizer("abcde "))
    save_weights(source, model.config, model.state_dict())
    assert (
        run(
            *FLAGS,
            *data,
            *LORA,
            "--lora-targets",
            "c_attn",
            "--init-from",
            source,
            "--out",
            out,
            "--sample-interval",
            3,
        )
        == 0
    )
    assert run_command(export_main, [str(out), str(tmp_path / "peft"), "--adapter"]) == 0
    assert "export the model of --init-from as well, to BASE; PEFT loads it" in capsys.readouterr().out
    assert json.loads((tmp_path / "peft/adapter_config.json").read_text())["base_model_name_or_path"] is None
    names = safetensors.numpy.load_file(tmp_path / "peft/adapter_model.safetensors")
    assert "base_model.model.model.layers.1.self_attn.k_proj.lora_B.weight" in names
    assert len(names) == 2 * 2 * 3

"""Values of the wrong type or size, on the command line and in every file that is read, are one sentence."""

import dataclasses
import json

import pytest

import tinytensor as tt
import train
from gpt import chat, export, generate, prepare
from gpt.cli import run_command
from gpt.corpus.preparation import PrepareOptions
from gpt.explain import __main__ as explain
from gpt.files import sealed
from gpt.generation.sampling import Sampling
from gpt.generation.templates import template_source
from gpt.options import flag
from gpt.serve import __main__ as serve
from gpt.tokenizers.files import read_companions
from gpt.web import __main__ as web
from tests.reliability.conftest import contents, run

COMMANDS = {
    train.main: ([], train.GROUPS.values()),
    generate.main: (["run"], [generate.Request, Sampling]),
    explain.main: (["run"], [explain.Request]),
    chat.main: (["run"], [chat.ChatOptions, Sampling]),
    prepare.main: (["pydocs", "--out", "out"], [PrepareOptions]),
    serve.main: (["run"], [serve.ServeOptions]),
    web.main: (["runs"], [web.WebOptions]),
}
FLAGS = [
    (main, argv, flag(field.name), type(field.default))
    for main, (argv, groups) in COMMANDS.items()
    for group in groups
    for field in dataclasses.fields(group)
    if type(field.default) in (int, float)
]
NESTED = "[" * 200_000
READERS = {
    "config.json": "resume",
    "manifest.json": "resume",
    "meta.json": "resume",
    "tokenizer.json": "resume",
    "checkpoints/step-000008/state.json": "resume",
    ".verified.json": "resume",
    "metrics.jsonl": "resume",
    "best/config.json": "generate",
    "best/tokenizer.json": "generate",
    "best/tokenizer_config.json": "chat",
    "best/model.safetensors": "generate",
}


@pytest.fixture(autouse=True)
def _empty_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def error(capsys):
    """The one line on stderr."""
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    return line.removeprefix("error: ")


def edit(path, **values):
    """Change entries of a JSON file, wherever they are in it."""

    def changed(item):
        return {name: values.get(name, changed(value)) for name, value in item.items()} if type(item) is dict else item

    path.write_text(json.dumps(changed(json.loads(path.read_text()))))


@pytest.mark.parametrize(("main", "argv", "name", "kind"), FLAGS)
def test_a_number_of_any_size_is_read_or_refused(main, argv, name, kind, tmp_path, capsys):
    too_large = [str(2**63), str(-(2**63) - 1), "9" * 5000, "-" + "9" * 5000]
    for value in too_large if kind is int else ["nan", "-inf", "-1e999", "1e"]:
        assert run_command(main, [*argv, f"{name}={value}"]) == 2
        line = error(capsys)
        assert line.startswith(name)
        assert line.endswith("must fit into 64 bits") == (kind is int)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "name", ["cuda:" + "9" * 5000, "emulated:" + "9" * 5000, "cuda:99999999999999999999", "cuda:²"]
)
def test_a_device_number_of_any_size_is_refused(name):
    with pytest.raises(tt.DeviceError, match="must be auto, cpu, cuda, cuda:N or emulated"):
        tt.device(name)


def test_a_vocabulary_larger_than_any_is_refused(capsys):
    assert run_command(prepare.main, ["pydocs", "--out", "out", "--vocab-size", str(2**62)]) == 2
    assert error(capsys) == f"--vocab-size {2**62}: must be at most {2**20}"


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"n_layer": 1.5}, "--n-layer 1.5: must be a whole number"),
        ({"vocab_size": 2**70}, f"--vocab-size {2**70}: must fit into 64 bits"),
        ({"steps": float("inf")}, "--steps inf: must be a whole number"),
        ({"seed": float("nan")}, "--seed nan: must be a whole number"),
        ({"batch_size": True}, "--batch-size True: must be a whole number"),
        ({"lr": [1]}, "--lr [1]: must be a number"),
        ({"lr": None}, "--lr None: must be a number"),
        ({"bias": "no"}, "--bias 'no': must be true or false"),
        ({"data": {"a": 1}}, "--data {'a': 1}: must be a text"),
        ({"activation": ["gelu"]}, "--activation ['gelu']: must be a text"),
    ],
)
def test_a_setting_of_the_wrong_type_is_named(stopped, values, sentence, capsys):
    (stopped / "manifest.json").unlink()
    edit(stopped / "config.json", **values)
    assert run("--resume", stopped) == 2
    assert error(capsys) == f"{stopped / 'config.json'}: {sentence}"


@pytest.mark.parametrize("values", [{"dtype": "<f8"}, {"dtype": "9" * 5000}, {"dtype": []}, {"sha256": 1}])
def test_token_files_described_by_the_wrong_type_are_refused(stopped, values, capsys):
    (stopped / "manifest.json").unlink()
    (stopped / ".verified.json").unlink()
    edit(stopped / "meta.json", **values)
    assert run("--resume", stopped) == 2
    assert "meta.json: corrupt or missing" in error(capsys)


@pytest.mark.parametrize("content", [{"train": True}, {"train": []}, [], 1])
def test_what_is_remembered_of_token_files_may_be_anything(stopped, uninterrupted, content):
    (stopped / ".verified.json").write_text(json.dumps(content))
    assert run("--resume", stopped) == 0
    assert contents(stopped) == contents(uninterrupted)


@pytest.mark.parametrize("values", [{"seconds": {}}, {"best_val_loss": "1"}, {"val_loss": [1]}, {"step": True}])
def test_progress_that_is_no_number_makes_a_checkpoint_invalid(stopped, values, uninterrupted):
    path = stopped / "checkpoints/step-000008/state.json"
    edit(path, **values)
    state = json.loads(path.read_text())
    del state["sha256"]
    path.write_text(json.dumps(sealed(state)))
    assert run("--resume", stopped) == 0
    assert contents(stopped) == contents(uninterrupted)


@pytest.mark.parametrize("values", [{"units": 1.5}, {"bytes": []}, {"documents": {}}, {"settings": None}])
def test_a_preparation_whose_state_was_edited_is_refused(text_file, tmp_path, monkeypatch, values, capsys):
    argv = [str(text_file), "--out", "out", "--tokenizer", "char"]

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("gpt.corpus.token_files.TokenFiles.finish", stop)
        assert run_command(prepare.main, argv) == 130
    capsys.readouterr()
    edit(tmp_path / "out/state.json", **values)
    assert run_command(prepare.main, argv) == 2
    assert error(capsys) == "out/state.json: is not the file that was saved; remove out and start again"


@pytest.mark.parametrize("name", READERS)
def test_brackets_nested_too_deeply_are_no_traceback_in_any_file(stopped, uninterrupted, name, capsys):
    path = stopped / name
    text = NESTED.encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text if name.endswith("safetensors") else text)
    argv = [str(stopped), "--device", "cpu", "--tokens", "2"]
    run_it = {
        "resume": lambda: run("--resume", stopped),
        "generate": lambda: run_command(generate.main, argv),
        "chat": lambda: int(template_source(read_companions(stopped / "best")) is not None),
    }
    code = run_it[READERS[name]]()
    assert code in (0, 2)
    if code == 2:
        error(capsys)
    elif READERS[name] == "resume":
        assert contents(stopped)["best/model.safetensors"] == contents(uninterrupted)["best/model.safetensors"]
    assert run_command(export.main, [str(stopped), "exported"]) in (0, 2)

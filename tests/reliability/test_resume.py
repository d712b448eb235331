"""A resumption continues from what was saved or says what is wrong: checkpoints, metrics, configuration, best model."""

import json
import os
import shutil

import pytest

import train
from gpt import chat, export, generate
from gpt.cli import run_command
from gpt.files import sealed
from tests.reliability.conftest import contents, rows, run


def names(directory):
    return sorted(path.name for path in (directory / "checkpoints").iterdir())


def error(capsys, *argv):
    """The one line with which a command is refused."""
    capsys.readouterr()
    assert run(*argv) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    return line


def edit(path, **changes):
    """Change values of a JSON file, wherever in it they are."""
    content = json.loads(path.read_text())
    for group in (content, *(value for value in content.values() if isinstance(value, dict))):
        group.update({name: value for name, value in changes.items() if name in group})
    path.write_text(json.dumps(content))


def test_a_copy_of_a_checkpoint_beside_it_is_left_alone_and_never_takes_the_place_of_a_new_one(stopped, uninterrupted):
    checkpoints = stopped / "checkpoints"
    shutil.copytree(checkpoints / "step-000008", checkpoints / "step-000008.bak")
    shutil.copytree(checkpoints / "step-000008", checkpoints / "step-8")
    (checkpoints / "step-000099.txt").write_text("a note")
    os.symlink("step-000008", checkpoints / "step-latest")
    assert run("--resume", stopped) == 0
    assert names(stopped) == [
        "step-000008", "step-000008.bak", "step-000012", "step-000099.txt", "step-8", "step-latest",
    ]  # fmt: skip
    assert contents(stopped) == contents(uninterrupted)


def test_a_checkpoint_under_another_steps_name_is_named_and_skipped(stopped, uninterrupted, capsys):
    checkpoints = stopped / "checkpoints"
    shutil.copytree(checkpoints / "step-000004", checkpoints / "step-000010")
    os.symlink("step-000008", checkpoints / "step-000011")
    assert run("--resume", stopped) == 0
    printed = capsys.readouterr().err
    assert "step-000010: invalid (it was saved at step 4)" in printed
    assert "step-000011: invalid (it was saved at step 8)" in printed
    assert contents(stopped) == contents(uninterrupted)


def test_an_invalid_later_checkpoint_never_pushes_out_a_new_one(stopped, uninterrupted):
    (stopped / "checkpoints/step-000099").mkdir()
    assert run("--resume", stopped) == 0
    assert names(stopped) == ["step-000008", "step-000012", "step-000099"]
    assert contents(stopped) == contents(uninterrupted)


@pytest.mark.parametrize("step", [4, 12, -5, True, 8.0, "8"])
def test_an_edited_step_is_noticed(stopped, uninterrupted, capsys, step):
    edit(stopped / "checkpoints/step-000008/state.json", step=step)
    assert run("--resume", stopped) == 0
    assert "step-000008: invalid" in capsys.readouterr().err
    assert contents(stopped) == contents(uninterrupted)


def test_every_other_value_of_the_state_is_covered_by_its_checksum(stopped, capsys):
    edit(stopped / "checkpoints/step-000008/state.json", best_val_loss=0.0)
    assert run("--resume", stopped) == 0
    assert "step-000008: invalid (state.json is not the file that was saved)" in capsys.readouterr().err


@pytest.mark.parametrize("loss", ["missing", "emptied", "a file", "invalid"])
@pytest.mark.parametrize("manifest", ["with", "without"])
def test_lost_checkpoints_are_refused_unless_one_means_it(stopped, uninterrupted, capsys, loss, manifest):
    checkpoints = stopped / "checkpoints"
    if manifest == "without":  # as in a run of an earlier version
        (stopped / "manifest.json").unlink()
    if loss == "invalid":
        for path in checkpoints.iterdir():
            (path / "state.json").unlink()
    else:
        shutil.rmtree(checkpoints)
        if loss == "emptied":
            checkpoints.mkdir()
        if loss == "a file":
            checkpoints.write_text("")
    before = rows(stopped), (stopped / "best/model.safetensors").read_bytes()
    line = error(capsys, "--resume", stopped)
    if loss == "a file":
        assert "checkpoints: cannot be read" in line
        return
    assert line.endswith("no valid checkpoint remains; restore one from a copy, or begin again with --from-scratch")
    assert (rows(stopped), (stopped / "best/model.safetensors").read_bytes()) == before
    assert run("--resume", stopped, "--from-scratch") == 0
    assert contents(stopped) == contents(uninterrupted)


def test_a_run_that_had_no_checkpoint_yet_begins_again_and_says_so(stopped, uninterrupted, capsys):
    shutil.rmtree(stopped / "checkpoints")
    manifest = json.loads((stopped / "manifest.json").read_text()) | {"checkpoint": 0}
    del manifest["sha256"]
    (stopped / "manifest.json").write_text(json.dumps(sealed(manifest)))
    assert run("--resume", stopped) == 0
    assert "no checkpoint was saved yet; the run begins again at step 0" in capsys.readouterr().err
    assert contents(stopped) == contents(uninterrupted)


def test_from_scratch_takes_nothing_away(stopped, capsys):
    assert "has a valid checkpoint" in error(capsys, "--resume", stopped, "--from-scratch")
    assert names(stopped) == ["step-000004", "step-000008"]
    assert "--from-scratch: needs --resume" in error(capsys, "--from-scratch")


def test_a_missing_newest_checkpoint_is_mentioned(stopped, uninterrupted, capsys):
    shutil.rmtree(stopped / "checkpoints/step-000008")
    assert run("--resume", stopped) == 0
    assert "checkpoints: the checkpoint of step 8 is missing" in capsys.readouterr().err
    assert contents(stopped) == contents(uninterrupted)


@pytest.mark.parametrize(
    "damage", [b'{"step": 3, "tr\n', b"\xff\xfe\n", b"[3]\n", b'{"step": "3"}\n', b"\n", b"[" * 99999]
)
def test_metrics_keep_what_can_be_read_and_name_what_cannot(stopped, uninterrupted, capsys, damage):
    path = stopped / "metrics.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    lines[3] = damage.rstrip(b"\n") + b"\n"
    path.write_bytes(b"".join(lines))
    assert run("--resume", stopped) == 0
    assert "metrics.jsonl: line 4 is corrupt and left out" in capsys.readouterr().err
    assert rows(stopped) == [row for row in rows(uninterrupted) if row["step"] != 3]


@pytest.mark.parametrize(("name", "value"), [("lr", 0.002), ("seed", 2), ("n_layer", 2), ("keep_checkpoints", 5)])
def test_an_edited_configuration_is_refused_by_name(stopped, uninterrupted, capsys, name, value):
    before = (stopped / "config.json").read_text()
    edit(stopped / "config.json", **{name: value})
    line = error(capsys, "--resume", stopped)
    assert f"config.json: --{name.replace('_', '-')} was changed from " in line
    assert f"to {value} since the run was created: put it back, or delete {stopped}/manifest.json" in line
    (stopped / "config.json").write_text(before)
    assert run("--resume", stopped) == 0
    assert contents(stopped) == contents(uninterrupted)


def test_an_edited_configuration_is_used_if_the_manifest_is_deleted(stopped, uninterrupted):
    edit(stopped / "config.json", seed=2)
    (stopped / "manifest.json").unlink()
    assert run("--resume", stopped) == 0
    assert rows(stopped)[-1] != rows(uninterrupted)[-1]


@pytest.mark.parametrize(("dropout", "warns"), [(0.0, False), (0.1, True)])
def test_a_run_with_dropout_that_may_be_of_the_first_version_is_said_to_have_other_masks(
    stopped, capsys, dropout, warns
):
    edit(stopped / "config.json", dropout=dropout)
    (stopped / "manifest.json").unlink()
    assert run("--resume", stopped) == 0
    assert ("dropout now draws other masks" in capsys.readouterr().err) == warns


def test_what_a_flag_may_change_may_be_edited(stopped):
    edit(stopped / "config.json", steps=10)
    assert run("--resume", stopped) == 0
    assert rows(stopped)[-1]["step"] == 10


@pytest.mark.parametrize(
    "name",
    ["meta.json", "tokenizer.json", "tokenizer_config.json", "manifest.json", "best/config.json", "best/tokenizer.json",
     "best/model.safetensors"],
)  # fmt: skip
@pytest.mark.parametrize("damage", ["one bit", "missing"])
def test_a_damaged_file_of_the_run_is_named(stopped, capsys, name, damage):
    path = stopped / name
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(content)
    if (name, damage) == ("manifest.json", "missing"):
        assert run("--resume", stopped) == 0
        assert path.exists()
        return
    line = error(capsys, "--resume", stopped)
    assert line.startswith(f"error: {path}: ")
    assert ("is missing" in line) == (damage == "missing")
    assert "delete" in line
    if name in ("best/model.safetensors", "manifest.json"):  # training does not need them
        (stopped / "manifest.json").unlink()
        assert run("--resume", stopped) == 0


@pytest.mark.parametrize(
    ("main", "argv"),
    [(generate.main, []), (chat.main, []), (export.main, ["out"]), (train.main, ["--out", "out"])],
    ids=["generate", "chat", "export", "init-from"],
)
def test_whoever_reads_the_best_model_verifies_it(stopped, capsys, monkeypatch, main, argv):
    monkeypatch.chdir(stopped)
    argv = ["--init-from", str(stopped), *argv] if main is train.main else [str(stopped), *argv]
    path = stopped / "best/model.safetensors"
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)
    assert run_command(main, argv) == 2
    assert capsys.readouterr().err.startswith(f"error: {path}: is not the file that was saved: restore it from a copy")
    assert not (stopped / "out").exists()
    monkeypatch.chdir(stopped / "best")
    assert run_command(generate.main, ["."]) == 2
    assert "best/model.safetensors: is not the file that was saved" in capsys.readouterr().err


def test_a_run_of_an_earlier_version_resumes_and_is_covered_from_then_on(stopped, uninterrupted, capsys):
    (stopped / "manifest.json").unlink()
    for path in (stopped / "checkpoints").glob("*/state.json"):
        content = json.loads(path.read_text())
        del content["sha256"]
        path.write_text(json.dumps(content))
    assert run("--resume", stopped) == 0
    assert contents(stopped) == contents(uninterrupted)
    edit(stopped / "config.json", lr=0.5)
    assert "--lr was changed" in error(capsys, "--resume", stopped)


def test_a_run_cannot_end_before_where_it_is(stopped, capsys):
    assert "--steps 4: the run is already at step 8" in error(capsys, "--resume", stopped, "--steps", 4)


def test_what_a_flag_changed_and_what_was_mentioned_is_remembered(stopped, capsys):
    shutil.rmtree(stopped / "checkpoints/step-000008")
    assert run("--resume", stopped, "--stop-after", 4, "--steps", 10) == 0
    assert "the checkpoint of step 8 is missing" in capsys.readouterr().err
    assert run("--resume", stopped) == 0
    assert "missing" not in capsys.readouterr().err
    assert rows(stopped)[-1]["step"] == 10


def test_nothing_temporary_is_in_a_finished_run(uninterrupted):
    hidden = [path.name for path in uninterrupted.rglob("*") if path.name.startswith(".")]
    assert hidden == [".verified.json"]


def test_what_a_killed_deletion_left_is_removed(stopped, uninterrupted):
    checkpoints = stopped / "checkpoints"
    for name in (".step-000004.old", ".step-000012.tmp"):
        shutil.copytree(checkpoints / "step-000008", checkpoints / name)
        (checkpoints / name / "state.json").unlink()
    assert run("--resume", stopped) == 0
    assert names(stopped) == ["step-000008", "step-000012"]
    assert contents(stopped) == contents(uninterrupted)

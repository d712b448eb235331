"""Token files are verified: what was zeroed, damaged or is too large for the vocabulary is never trained on."""

import json
import os

import numpy as np
import pytest

from gpt import prepare
from gpt.cli import run_command
from gpt.corpus import tokens
from gpt.corpus.token_files import STATE_VERSION
from gpt.files import sealed
from tests.reliability.conftest import contents, run


@pytest.fixture
def corpus(text_file, tmp_path):
    out = tmp_path / "corpus"
    assert run_command(prepare.main, [str(text_file), "--out", str(out), "--tokenizer", "char"]) == 0
    return out


def overwrite(path, content, begin=0):
    """Change bytes of a file without a trace in its size and time of modification."""
    status = path.stat()
    with open(path, "r+b") as file:
        file.seek(begin)
        file.write(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("damage", ["zeroed", "one bit", "longer"])
@pytest.mark.parametrize("name", ["train.bin", "val.bin"])
def test_damaged_token_files_of_a_run_are_refused(stopped, capsys, name, damage):
    path = stopped / name
    content = bytearray(path.read_bytes())
    if damage == "one bit":
        content[-1] ^= 1
    overwrite(path, {"zeroed": bytes(len(content)), "one bit": content, "longer": content + b"\0\0"}[damage])
    assert run("--resume", stopped) == 2
    message = "corrupt, " if damage == "longer" else "is not the file that was prepared: restore it from a copy"
    assert f"error: {path}: {message}" in capsys.readouterr().err


def test_damaged_token_files_of_a_prepared_corpus_are_refused(corpus, flags, tmp_path, capsys):
    overwrite(corpus / "train.bin", bytes(100))
    assert run(*flags, "--data", corpus, "--out", tmp_path / "run") == 2
    assert f"error: {corpus / 'train.bin'}: is not the file that was prepared" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_file_is_read_as_a_whole_once_and_again_after_it_was_written_to(corpus, flags, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tokens, "BLOCK_BYTES", 2)
    meta = json.loads((corpus / "meta.json").read_text())
    meta["samples"] = {split: tokens.sample_digest(corpus / f"{split}.bin") for split in ("train", "val")}
    (corpus / "meta.json").write_text(json.dumps(meta))
    scanned = []
    scan = tokens.scan
    monkeypatch.setattr(tokens, "scan", lambda path, dtype: scanned.append(path.name) or scan(path, dtype))
    assert run(*flags, "--data", corpus, "--out", tmp_path / "run", "--stop-after", 4) == 0
    assert scanned == []  # preparing it was reading it
    os.utime(corpus / "train.bin", ns=(1, 1))  # as a copy has another time
    assert run("--resume", tmp_path / "run", "--stop-after", 5) == 0
    assert run("--resume", tmp_path / "run", "--stop-after", 6) == 0
    assert scanned == ["train.bin"]
    with open(corpus / "train.bin", "r+b") as file:
        file.seek(12)  # between the sampled blocks
        file.write(b"\0\0" if file.read(2) != b"\0\0" else b"\1\0")
    assert run("--resume", tmp_path / "run") == 2
    assert "train.bin: is not the file that was prepared" in capsys.readouterr().err


def test_a_corpus_that_cannot_be_written_to_is_remembered_in_the_run(corpus, flags, tmp_path, monkeypatch):
    (corpus / ".verified.json").unlink()
    (corpus / ".verified.json").mkdir()  # which cannot be replaced by a file
    assert run(*flags, "--data", corpus, "--out", tmp_path / "run", "--stop-after", 4) == 0
    assert (tmp_path / "run" / ".verified.json").is_file()
    monkeypatch.setattr(tokens, "scan", None)
    assert run("--resume", tmp_path / "run", "--stop-after", 5) == 0


def test_ids_beyond_the_vocabulary_are_refused(stopped, capsys):
    """In files of the first version, which have no checksums."""
    path = stopped / "meta.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({name: content[name] for name in ("format", "source", "dtype", "train", "val")}))
    (stopped / "manifest.json").unlink()
    vocab_size = content["vocab_size"]
    np.full(content["val"], vocab_size, "<u2").tofile(stopped / "val.bin")
    assert run("--resume", stopped) == 2
    message = f"val.bin: has token id {vocab_size}, but the vocabulary only {vocab_size} tokens"
    assert message in capsys.readouterr().err


def test_a_run_of_the_first_version_resumes(stopped, uninterrupted):
    path = stopped / "meta.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({name: content[name] for name in ("format", "source", "dtype", "train", "val")}))
    for name in ("manifest.json", ".verified.json"):
        (stopped / name).unlink()
    assert run("--resume", stopped) == 0
    assert contents(stopped) == contents(uninterrupted)


def test_a_preparation_killed_at_its_last_instant_is_finished_again(corpus, text_file, capsys):
    meta = (corpus / "meta.json").read_bytes()
    content = json.loads(meta)
    state = {
        "version": STATE_VERSION,
        "settings": content["settings"],
        "units": 1,
        "bytes": {name: 2 * content[name] for name in ("train", "val")},
        "source_bytes": content["settings"]["size"],
        **{name: content[name] for name in ("documents", "text_bytes", "unreadable", "unreadable_names")},
    }
    (corpus / "state.json").write_text(json.dumps(sealed(state)))  # as it is before it is removed
    assert run_command(prepare.main, [str(text_file), "--out", str(corpus), "--tokenizer", "char"]) == 0
    assert (corpus / "meta.json").read_bytes() == meta
    assert not (corpus / "state.json").exists()
    assert run_command(prepare.main, [str(text_file), "--out", str(corpus), "--tokenizer", "char"]) == 2
    assert "already contains a prepared corpus" in capsys.readouterr().err

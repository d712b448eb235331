"""Run directories: created only if everything is valid, never overwritten, resumed only if they are runs."""

import dataclasses
import json
import shutil

import pytest

from gpt import prepare
from gpt.corpus.tokens import open_tokens
from gpt.errors import UserError
from gpt.model import GPTConfig
from gpt.tokenizers.load import load_tokenizer
from gpt.training import run as runs
from gpt.training.recipe import TrainConfig, choose_shares
from gpt.training.run import open_run
from tinytensor.parallel import available_cores


def create_run(*settings):
    with runs.create_run(*settings) as run:
        assert run.directory.name.startswith(".")
    return run


MODEL = GPTConfig(block_size=8, n_layer=1, n_head=2, n_embd=8)


@pytest.fixture
def train(text_file):
    return TrainConfig(data=str(text_file), steps=10, processes=1)


@pytest.fixture
def run(tmp_path, train):
    return create_run(str(tmp_path / "run"), "default", MODEL, train)


def test_a_new_run_can_be_opened_again(run, text):
    again = open_run(run.directory, {})
    assert (again.model, again.train, again.preset) == (run.model, run.train, run.preset)
    assert again.model.vocab_size == len(set(text)) == load_tokenizer(run.directory).vocab_size
    assert len(open_tokens(run.directory).train) == int(0.9 * len(text))


def test_the_number_of_shares_is_fixed_by_the_machine_that_starts_the_run(tmp_path, train):
    run = create_run(str(tmp_path / "run"), "default", MODEL, dataclasses.replace(train, device="cpu", processes=0))
    again = open_run(run.directory, {}).train
    assert (again.processes, again.shares) == (0, min(available_cores(), train.batch_size))


@pytest.mark.parametrize(
    ("ranks", "settings", "expected"),
    [
        (1, {"batch_size": 16}, 6),  # one for each of the six cores
        (1, {"batch_size": 2, "grad_accum_steps": 2}, 4),
        (4, {"batch_size": 16}, 16),  # a power of two for each rank
        (8, {"batch_size": 4, "grad_accum_steps": 2}, 8),
    ],
)
def test_there_are_as_many_shares_as_cores_that_find_work(ranks, settings, expected):
    assert choose_shares(TrainConfig(**settings), on_gpu=False, cores=6, ranks=ranks) == expected
    assert choose_shares(TrainConfig(**settings), on_gpu=True, cores=6, ranks=ranks) == ranks


def test_too_many_shares_or_ranks_are_refused():
    with pytest.raises(UserError, match="--shares 9: must be at most 8, the windows in a batch"):
        TrainConfig(batch_size=4, grad_accum_steps=2, shares=9)
    with pytest.raises(UserError, match="--batch-size 4: has fewer windows than the 16 ranks: raise it"):
        choose_shares(TrainConfig(batch_size=4, grad_accum_steps=2), False, 1, 16)


@pytest.mark.parametrize(
    ("settings", "shares"),
    [
        ({"processes": 1}, 1),
        ({"processes": 3}, 3),
        ({"processes": 8, "batch_size": 1}, 1),
        ({"processes": 8, "batch_size": 2}, None),
        ({"processes": 4}, None),
        ({"processes": 1, "grad_accum_steps": 2}, None),
    ],
)
def test_a_run_from_before_there_were_shares_keeps_its_bits_or_is_refused(run, settings, shares):
    path = run.directory / "config.json"
    content = json.loads(path.read_text())
    content["train"].pop("shares")
    content["train"] |= settings
    path.write_text(json.dumps(content))
    if shares:
        assert open_run(run.directory, {"device": "cpu"}).train.shares == shares
    else:
        number = min(settings["processes"], settings.get("batch_size", 16))
        with pytest.raises(UserError, match=f"added gradients in another order; with --shares {number} it resumes"):
            open_run(run.directory, {"device": "cpu"})
        assert open_run(run.directory, {"device": "cpu", "shares": number}).train.shares == number


def test_a_run_saved_under_the_former_names_of_settings_opens(run):
    path = run.directory / "config.json"
    content = json.loads(path.read_text())
    settings = content["train"]
    for former, now in {"threads": "processes", "accumulation": "grad_accum_steps", "warmup": "warmup_steps"}.items():
        settings[former] = settings.pop(now)
    settings |= {"clip": settings.pop("grad_clip") + 1, "keep": settings.pop("keep_checkpoints") + 1}
    path.write_text(json.dumps(content))
    again = open_run(run.directory, {"processes": 3})
    assert again.train == dataclasses.replace(run.train, grad_clip=2.0, keep_checkpoints=3, processes=3)
    again.save_config()
    assert "threads" not in path.read_text()


def test_a_run_saved_before_a_setting_existed_opens_with_its_default(run):
    path = run.directory / "config.json"
    content = json.loads(path.read_text())
    for name in ("optimizer", "muon_lr", "schedule"):
        content["train"].pop(name)
    path.write_text(json.dumps(content))
    again = open_run(run.directory, {})
    again.verify()
    assert again.train == run.train


def test_train_and_prepare_give_the_same_files(tmp_path, text_file):
    """By both routes, for a text, for texts of a folder, and for documents."""
    folder, documents = tmp_path / "folder", tmp_path / "documents.jsonl"
    folder.mkdir()
    for i in range(3):
        (folder / f"{i}.txt").write_text(f"Über Nr. {i}: " * 200, encoding="utf-8")
    documents.write_text("".join(json.dumps({"text": f"document {i}"}) + "\n" for i in range(200)))
    for source in (text_file, folder, documents, "pydocs"):
        prepared, run = tmp_path / "prepared", tmp_path / "run"
        assert prepare.main([str(source), "--out", str(prepared), "--tokenizer", "char"]) == 0
        create_run(str(run), "default", MODEL, TrainConfig(data=str(source)))
        for name in ("train.bin", "val.bin", "tokenizer.json", "tokenizer_config.json", "meta.json"):
            assert (run / name).read_bytes() == (prepared / name).read_bytes(), (source, name)
        shutil.rmtree(prepared)
        shutil.rmtree(run)


def test_without_out_the_first_free_name_is_taken(tmp_path, monkeypatch, train):
    monkeypatch.chdir(tmp_path)
    names = [str(create_run("", "bigram", MODEL, train).directory) for _ in range(3)]
    assert names == ["runs/bigram-1", "runs/bigram-2", "runs/bigram-3"]


def test_a_directory_that_is_not_empty_is_refused(tmp_path, run, train):
    with pytest.raises(UserError, match=r"already contains a run; resume it with --resume"):
        create_run(str(run.directory), "default", MODEL, train)
    with pytest.raises(UserError, match=r"exists and is not an empty directory"):
        create_run(str(tmp_path), "default", MODEL, train)
    with pytest.raises(UserError, match=r"exists and is not an empty directory"):
        create_run(train.data, "default", MODEL, train)
    with pytest.raises(UserError, match=r"cannot be written"):
        create_run(f"{train.data}/below-a-file", "default", MODEL, train)


@pytest.mark.parametrize("content", [b"", b"too short", b"\xff" * 500])
def test_bad_data_leaves_no_directory_behind(tmp_path, content):
    path = tmp_path / "bad.txt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"bad\.txt: contains no text|--data .*bad\.txt: has \d+ tokens"):
        create_run(str(tmp_path / "run"), "default", MODEL, TrainConfig(data=str(path)))
    assert not (tmp_path / "run").exists()


def test_a_run_that_cannot_be_written_or_is_interrupted_leaves_no_directory_behind(tmp_path, train, monkeypatch):
    for error, seen in ((OSError(28, "No space left on device"), UserError), (KeyboardInterrupt(), KeyboardInterrupt)):

        def fail(*_, error=error):
            raise error

        monkeypatch.setattr("gpt.corpus.token_files.TokenFiles.append", fail)
        with pytest.raises(seen):
            create_run(str(tmp_path / "run"), "default", MODEL, train)
        assert not (tmp_path / "run").exists()


def test_a_vocabulary_may_be_larger_than_the_tokenizers_but_not_smaller(tmp_path, train, text):
    larger = GPTConfig(vocab_size=64, block_size=8)
    assert create_run(str(tmp_path / "run"), "default", larger, train).model.vocab_size == 64
    with pytest.raises(UserError, match=f"--vocab-size 2: must be at least the tokenizer's {len(set(text))}"):
        create_run(str(tmp_path / "other"), "default", GPTConfig(vocab_size=2, block_size=8), train)


def test_only_steps_and_where_it_is_computed_change_on_resuming(run):
    assert open_run(run.directory, {"steps": 99, "device": "cpu"}).train.steps == 99
    assert open_run(run.directory, {}).train.steps == 10  # opening alone changes nothing
    with pytest.raises(
        UserError,
        match=r"--n-layer: is fixed .* only --device, --dtype, --matmul, --processes, --sample-interval,",
    ):
        open_run(run.directory, {"n_layer": 2})


def test_a_missing_foreign_or_corrupt_directory_is_named(tmp_path, run):
    with pytest.raises(UserError, match=r"--resume .*none: no such directory"):
        open_run(tmp_path / "none", {})
    with pytest.raises(UserError, match=r"is not the directory of a run \(no config\.json\)"):
        open_run(tmp_path, {})
    config = run.directory / "config.json"
    content = json.loads(config.read_text())
    for foreign in ({}, {"model_type": "gpt2"}):
        config.write_text(json.dumps(foreign))
        with pytest.raises(UserError, match=r"is not the directory of a run \(its config\.json is something else\)"):
            open_run(run.directory, {})
    for corrupt in (b"", b"{", b"[]", b"\xff\xfe"):
        config.write_bytes(corrupt)
        with pytest.raises(UserError, match=r"its config\.json is corrupt"):
            open_run(run.directory, {})
    for corrupt in ({**content, "train": {}, "model": {"n_layers": 3}}, {**content, "model": 3}):
        config.write_text(json.dumps(corrupt))
        with pytest.raises(UserError, match=r"its config\.json is corrupt"):
            open_run(run.directory, {})

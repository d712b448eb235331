"""What comes from the Hugging Face hub is pinned to the commit that it was found at: models, data sets, tokenizers."""

import inspect
import json
import sys
from types import SimpleNamespace

import pytest

import train
from gpt import prepare
from gpt.cli import run_command
from gpt.corpus.sources import open_source
from gpt.errors import UserError
from gpt.tokenizers.characters import CharTokenizer
from gpt.tokenizers.load import find_tokenizer
from gpt.training.run import open_run
from gpt.weights.load import load_model, pinned

OLD, NEW = "0" * 40, "1" * 40  # commits


class Hub:
    """Stands for `huggingface_hub` and `datasets`: one repository, whose branch `main` moves to another commit.

    It keeps what it was asked for. Its functions have the parameters of the real ones that are used here.
    """

    def __init__(self, cache):
        self.cache, self.main, self.asked = cache, OLD, []

    def commit(self, revision):
        self.asked.append(revision)
        if revision not in (None, "main", OLD, NEW):
            raise OSError(f"404 Client Error: Revision Not Found\nfor {revision}")
        return self.main if revision in (None, "main") else revision

    def snapshot_download(self, repo_id, *, revision=None, allow_patterns=None):
        assert repo_id == "some/thing"
        return str(self.cache / "snapshots" / self.commit(revision))

    def hf_hub_download(self, repo_id, filename, *, revision=None):
        self.asked.append(revision)
        return str(self.cache / "snapshots" / OLD / filename)

    def load_dataset_builder(self, path, name=None, *, revision=None):
        assert path == "some/thing"
        return Builder(self.commit(revision), name, path)


class Builder:
    """A `datasets.DatasetBuilder` whose one row of text contains its commit and configuration."""

    def __init__(self, commit, configuration, repo_id):
        self.hash, self.configuration, self.repo_id = commit, configuration, repo_id

    def download_and_prepare(self):
        self.size = 1000

    def as_dataset(self, split):
        return self._dataset(split, self.size)

    def as_streaming_dataset(self, split):
        return self._dataset(split)

    def _dataset(self, split, size=None):
        assert split == "train"
        texts = [f"text {i} of {self.configuration} at {self.hash}" for i in range(40)]
        return SimpleNamespace(iter=lambda _: iter([{"text": texts}]), size_in_bytes=size)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    stand_in = Hub(tmp_path / "cache")
    for library in ("huggingface_hub", "datasets"):
        monkeypatch.setitem(sys.modules, library, stand_in)
    return stand_in


@pytest.fixture
def model(hub, tiny, tmp_path):
    """Two commits of a model."""
    for seed, commit in enumerate((OLD, NEW)):
        assert train.main([*tiny, "--steps", "1", "--seed", str(seed), "--out", str(tmp_path / commit)]) == 0
        (hub.cache / "snapshots").mkdir(parents=True, exist_ok=True)
        (tmp_path / commit / "best").rename(hub.cache / "snapshots" / commit)
    return hub


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("hf:some/thing", OLD),
        ("hf:some/thing@main", OLD),
        (f"hf:some/thing@{NEW}", NEW),
    ],
)
def test_a_model_is_that_of_its_revision(model, name, meant):
    assert pinned(name) == f"hf:some/thing@{meant}"
    (found, _), (expected, _) = load_model(name, "cpu"), load_model(model.cache / "snapshots" / meant, "cpu")
    for one, other in zip(found.parameters(), expected.parameters(), strict=True):
        assert (one.data == other.data).all()


def test_a_run_keeps_the_commit_that_it_started_from(model, text_file, tmp_path):
    flags = {"--data": text_file, "--steps": 2, "--batch-size": 2, "--eval-batches": 1, "--device": "cpu"}
    argv = [str(word) for item in flags.items() for word in item]
    out = tmp_path / "run"
    assert train.main([*argv, "--init-from", "hf:some/thing", "--out", str(out), "--stop-after", "1"]) == 0
    assert set(model.asked[1:]) == {OLD}
    assert json.loads((out / "config.json").read_text())["train"]["init_from"] == f"hf:some/thing@{OLD}"
    model.main, model.asked = NEW, []
    for path in (out / "checkpoints").iterdir():
        (path / "state.json").unlink()
    assert train.main(["--resume", str(out), "--from-scratch"]) == 0
    assert model.asked == [OLD]
    assert open_run(out, {}).train.init_from == f"hf:some/thing@{OLD}"


@pytest.mark.parametrize("flags", [(), ("--streaming",)])
def test_a_corpus_records_the_commit_that_it_was_read_at(hub, tmp_path, flags):
    argv = ["--out", str(tmp_path / "out"), "--tokenizer", "char", "--val-share", "0.3", "--workers", "1", *flags]
    assert run_command(prepare.main, ["hf:some/thing@main:en", *argv]) == 0
    meta = json.loads((tmp_path / "out/meta.json").read_text())
    assert meta["source"] == meta["settings"]["source"] == f"hf:some/thing@{OLD}:en"
    pieces = [*open_source(meta["source"]).pieces()]
    assert pieces[0].data[0] == f"text 0 of en at {OLD}"
    assert hub.asked == ["main", OLD]


def test_a_run_says_which_commit_it_is_trained_on(hub, tiny, tmp_path, capsys):
    out = tmp_path / "run"
    assert train.main([*tiny, "--data", "hf:some/thing", "--steps", "1", "--out", str(out)]) == 0
    assert f"data: hf:some/thing@{OLD}, " in capsys.readouterr().out
    assert json.loads((out / "meta.json").read_text())["source"] == f"hf:some/thing@{OLD}"


def test_a_preparation_is_not_resumed_with_another_commit(hub, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("gpt.corpus.token_files.TokenFiles.finish", lambda *_: 1 / 0)
    argv = ["hf:some/thing", "--out", str(tmp_path / "out"), "--tokenizer", "char", "--val-share", "0.3"]
    with pytest.raises(ZeroDivisionError):
        prepare.main(argv)
    hub.main = NEW
    assert run_command(prepare.main, argv) == 2
    message = f"an unfinished preparation with source hf:some/thing@{OLD}, not hf:some/thing@{NEW}; resume it with that"
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("name", ["hf:", "hf:@main", "hf:some/thing@"])
@pytest.mark.parametrize("use", [open_source, pinned, lambda name: load_model(name, "cpu")])
def test_a_name_without_its_parts_is_an_error(hub, name, use):
    with pytest.raises(UserError, match=f"{name}: must be hf:NAME, or hf:NAME@REVISION with a branch, tag or commit"):
        use(name)
    assert hub.asked == []


@pytest.mark.parametrize("use", [open_source, pinned])
def test_a_revision_that_does_not_exist_is_one_sentence(hub, use):
    with pytest.raises(UserError, match=r"hf:some/thing@v9: cannot be downloaded .*Revision Not Found\)"):
        use("hf:some/thing@v9")


def test_another_commit_than_the_one_asked_for_is_refused(hub, monkeypatch):
    """`datasets` takes any that it finds in its cache when it is offline."""
    monkeypatch.setattr(hub, "load_dataset_builder", lambda path, name, revision: Builder(NEW, name, path))
    with pytest.raises(UserError, match=f"only its revision {NEW} is on this machine"):
        open_source(f"hf:some/thing@{OLD}")


def test_gpt2s_tokenizer_is_of_a_fixed_commit(hub):
    directory = hub.cache / "snapshots" / OLD
    directory.mkdir(parents=True)
    CharTokenizer("abc").save(directory)
    find_tokenizer("gpt2")
    assert [len(revision) for revision in hub.asked] == [40]


@pytest.mark.parametrize(
    ("library", "function", "arguments"),
    [
        ("huggingface_hub", "snapshot_download", {"repo_id", "revision", "allow_patterns"}),
        ("huggingface_hub", "hf_hub_download", {"repo_id", "filename", "revision"}),
        ("datasets", "load_dataset_builder", {"path", "name", "revision"}),
    ],
)
def test_the_real_functions_have_these_parameters(library, function, arguments):
    real = getattr(pytest.importorskip(library), function)
    assert arguments <= inspect.signature(real).parameters.keys()

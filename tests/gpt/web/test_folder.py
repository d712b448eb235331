"""What can be opened, and nothing else; models are loaded once, and again when a training has saved a better one."""

import os
import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest

import tinytensor as tt
from gpt.errors import UserError
from gpt.web import models as models_module
from gpt.web.folder import Folder
from gpt.web.models import CAPACITY, Models
from gpt.web.samples import Samples
from tests.gpt.web.conftest import write_model


def test_a_folder_lists_runs_models_and_what_is_unreadable(root):
    entries = {entry.name: entry for entry in Folder(root).entries()}
    assert set(entries) == {"run", "other", "model", "damaged", "corrupt"}
    assert entries["run"].has_model
    assert entries["run"].run.train.steps == 40
    assert entries["model"].has_model
    assert entries["model"].run is None
    assert "config.json is corrupt" in entries["corrupt"].problem
    assert "model.safetensors" in entries["damaged"].problem
    with pytest.raises(UserError, match=r"damaged: unreadable \(.*model\.safetensors"):
        Folder(root).find("damaged")


def test_the_newest_comes_first(root):
    for i, name in enumerate(("model", "other", "run")):
        for path in root.glob(f"{name}/*.json*"):
            os.utime(path, (10**9 + i, 10**9 + i))
    assert [entry.name for entry in Folder(root).entries()] == ["run", "other", "model", "corrupt", "damaged"]
    os.utime(root / "model" / "config.json")
    assert Folder(root).entries()[0].name == "model"


@pytest.mark.parametrize("name", ["../outside", "run/best", "/etc", ".", "..", "", None, "empty", "notes.txt", "Run"])
def test_only_names_in_the_list_are_opened(root, name):
    write_model(root.parent / "outside")
    with pytest.raises(UserError, match=r"no such run or model|no run or model is chosen"):
        Folder(root).find(name)


def test_links_to_elsewhere_are_not_followed(root):
    write_model(root.parent / "outside")
    (root / "link").symlink_to(root.parent / "outside")
    shutil.rmtree(root / "run" / "best")
    (root / "run" / "best").symlink_to(root.parent / "outside")
    for name in ("link", "run"):
        with pytest.raises(UserError, match=f"{name}: unreadable .it is a link to a place outside"):
            Folder(root).find(name)


def test_a_run_can_be_named_itself(root, monkeypatch):
    assert [entry.name for entry in Folder(root / "run").entries()] == ["run"]
    monkeypatch.chdir(root / "run")
    assert [entry.name for entry in Folder(type(root)(".")).entries()] == ["run"]


def test_an_empty_folder_is_one_sentence(root):
    with pytest.raises(UserError, match=r"empty: contains no run or model; train one"):
        Folder(root / "empty").entries()
    with pytest.raises(UserError, match=r"none: no such folder"):
        Folder(root / "none").entries()


def test_a_model_is_loaded_once_for_all(models, monkeypatch):
    count, original = [], models_module.load_model
    monkeypatch.setattr(models_module, "load_model", lambda *args: count.append(args) or original(*args))
    with ThreadPoolExecutor(4) as pool:
        assert len({id(loaded) for loaded in pool.map(models.get, ["model"] * 8)}) == 1
    assert len(count) == 1


def test_a_better_model_is_loaded_and_an_old_one_forgotten(root, models):
    first = models.get("model")
    write_model(root / "model", scale=3)
    assert models.get("model") is not first
    for i in range(CAPACITY):
        write_model(root / f"model-{i}")
        models.get(f"model-{i}")
    assert len(models._loaded) == CAPACITY
    assert "model" not in models._loaded


def test_a_run_without_a_model_is_listed_and_says_so(root, models):
    (root / "run" / "best" / "model.safetensors").unlink()
    entry = Folder(root).find("run")
    assert entry.run
    assert not entry.has_model
    with pytest.raises(UserError, match="run: has no model yet"):
        models.get("run")
    assert "first evaluation" in Samples(models).view(entry)


def test_a_changed_weight_is_refused(root, models):
    path = root / "run" / "best" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="is not the file that was saved"):
        models.get("run")


def test_a_sample_is_written_for_each_model_that_is_saved(root, trained):
    samples = Samples(Models(Folder(root), tt.device("cpu")))
    entry = Folder(root).find("run")
    first = samples.view(entry)
    assert first.count("<pre>") == 1
    assert "best model, step " in first
    assert samples.view(entry) == first
    os.utime(root / "run" / "best" / "model.safetensors", (1, 1))
    assert samples.view(entry).count("<pre>") == 2

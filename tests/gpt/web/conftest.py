"""What the tests of `gpt.web` share: a folder with a run, a model of few characters, and two that are unreadable."""

import shutil
import sys

import pytest

import tinytensor as tt
import train
from gpt.cli import run_command
from gpt.model import GPT, GPTConfig
from gpt.tokenizers.characters import CharTokenizer
from gpt.web.folder import Folder
from gpt.web.models import Models
from gpt.weights.directory import create_model_directory, save_weights

KNOWN = "abcdefU:\n <&"


def write_model(directory, kind=GPT, scale=6, **changes):
    """A model directory with large weights, so that its tokens can be told apart."""
    settings = {"vocab_size": len(KNOWN), "block_size": 32, "n_layer": 2, "n_head": 2, "n_embd": 8, **changes}
    with tt.seeded(1, "weights"):
        model = kind(GPTConfig(**settings))
    create_model_directory(directory, "gpt" if kind is GPT else "bigram", model.config, CharTokenizer(KNOWN))
    save_weights(directory, model.config, {name: scale * value for name, value in model.state_dict().items()})


@pytest.fixture(scope="session")
def trained(tiny, tmp_path_factory):
    """A run of forty steps; read-only."""
    directory = tmp_path_factory.mktemp("web") / "run"
    flags = ["--steps", "40", "--eval-interval", "10", "--n-layer", "2", "--block-size", "32"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "matplotlib.figure", None)  # it takes longer to draw than this run to train
        assert run_command(train.main, [*tiny, *flags, "--out", str(directory)]) == 0
    return directory


def fill(root, trained):
    """Put two runs, a model, a run with damaged weights and one with a damaged configuration into a folder."""
    for name in ("run", "other", "damaged", "corrupt"):
        shutil.copytree(trained, root / name)
    write_model(root / "model")
    (root / "damaged" / "best" / "model.safetensors").write_bytes(b"\xff" * 100)
    (root / "corrupt" / "config.json").write_text('{"format": "tinytensor run 1", "train": 5}')
    (root / "empty").mkdir()
    (root / "notes.txt").write_text("no model")


@pytest.fixture
def root(trained, tmp_path):
    """A folder as `fill` leaves it."""
    (tmp_path / "runs").mkdir()
    fill(tmp_path / "runs", trained)
    return tmp_path / "runs"


@pytest.fixture
def models(root):
    """The models of that folder."""
    return Models(Folder(root), tt.device("cpu"))


@pytest.fixture
def loaded(models):
    """The model of few characters."""
    return models.get("model")

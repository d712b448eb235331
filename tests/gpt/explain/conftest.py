"""What the tests of `gpt.explain` share: a run, small models of difficult characters, and the command."""

import json
import sys

import pytest

import tinytensor as tt
import train
from gpt.cli import run_command
from gpt.explain.__main__ import main
from gpt.model import GPT, GPTConfig
from gpt.tokenizers.characters import CharTokenizer
from gpt.weights.directory import create_model_directory, save_weights

HOSTILE = "</script><!--<script>\u2028日本\u202eé\ud800\0\n&amp;\"'\\u003c__CONTENT__"
KNOWN = CharTokenizer(HOSTILE)


def built(kind=GPT, **changes):
    """A small model of the characters in HOSTILE, whose weights are large enough to tell them apart."""
    settings = {"vocab_size": KNOWN.vocab_size, "block_size": 64, "n_layer": 2, "n_head": 2, "n_embd": 8, **changes}
    with tt.seeded(1, "weights"):
        model = kind(GPTConfig(**settings))
    model.load_state_dict({name: 6 * value for name, value in model.state_dict().items()})
    return model.eval()


@pytest.fixture(scope="session")
def trained(tiny, tmp_path_factory):
    """A run of forty steps; read-only."""
    directory = tmp_path_factory.mktemp("explain") / "run"
    flags = ["--steps", "40", "--eval-interval", "10", "--n-layer", "2", "--positions", "learned", "--block-size", "32"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "matplotlib.figure", None)  # it takes longer to draw than this run to train
        assert run_command(train.main, [*tiny, *flags, "--out", str(directory)]) == 0
    return directory


@pytest.fixture
def directory(tmp_path):
    """A model directory without a run around it."""
    model = built()
    create_model_directory(tmp_path / "model", "gpt", model.config, KNOWN)
    save_weights(tmp_path / "model", model.config, model.state_dict())
    return tmp_path / "model"


@pytest.fixture
def explained(tmp_path):
    """A function that writes a page and returns its path."""

    def command(directory, *flags):
        out = tmp_path / "page.html"
        assert main([str(directory), "--out", str(out), "--device", "cpu", *flags]) == 0
        return out

    return command


def content_of(page):
    """The JSON in a page, found as a browser would."""
    text = page.read_text(encoding="utf-8")
    _, _, rest = text.partition('<script type="application/json" id="content">')
    return json.loads(rest.partition("</script")[0])

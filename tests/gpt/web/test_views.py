"""What is shown: the model's own numbers, whatever the text, and curves that grow with their run."""

import html
import json
import math
import re

import numpy as np
import pytest

from gpt.errors import UserError
from gpt.model import Bigram
from gpt.training.metrics import Metrics
from gpt.web.curves import curves_view, ticks
from gpt.web.folder import Folder
from gpt.web.sessions import Chat
from gpt.web.views import attention_view, likelihood_view, messages_view, read
from tests.gpt.web.conftest import write_model


def test_likelihoods_are_the_models(loaded):
    reading = read(loaded, "ab<f")
    shown = likelihood_view(reading)
    tips = [html.unescape(tip) for tip in re.findall(r'aria-label="(.*?)"', shown)]
    ids = loaded.tokenizer.encode("ab<f")
    logits = loaded.model(np.array(ids)[None]).data[0].astype(np.float64)
    probs = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    for i in (1, 2, 3):
        likelihood = 100 * probs[i - 1, ids[i]]
        assert float(re.search(r"likelihood of ([\d.e-]+) %", tips[i])[1]) == pytest.approx(likelihood, rel=0.05)
        best = loaded.tokenizer.decode([int(probs[i - 1].argmax())])
        assert tips[i].partition("expected: ")[2].startswith({" ": "␣", "\n": "↵"}.get(best, best))
    loss = -np.log([probs[i - 1, ids[i]] for i in (1, 2, 3)]).mean()
    assert f"Loss {loss:.3f} nats" in shown
    assert "&lt;<span" in shown  # the token itself
    assert "<f" not in shown


def test_attention_weights_are_the_models(loaded):
    reading = read(loaded, "ab\n<")
    shown = attention_view(reading, 1, 1)
    weights = reading.trace.layers[1].weights[1]
    stored = json.loads(re.search(r'data-weights="(.*?)"', shown)[1])
    assert np.allclose(np.array(stored) / 1000, weights[np.tril_indices(4)], atol=6e-4)
    tokens = re.findall(r'aria-label="(.*?)">([^<]*)</span>', shown)
    assert tokens == [("a", "a"), ("b", "b"), ("↵", "↵\n"), ("&lt;", "&lt;")]


def test_a_bigram_has_likelihoods_and_no_attention(root, models):
    write_model(root / "bigram", Bigram, block_size=8)
    reading = read(models.get("bigram"), "abc")
    assert likelihood_view(reading).count("tt-token") == 3
    assert "no attention" in attention_view(reading, 0, 0)


def test_of_a_long_text_the_end_is_shown(loaded):
    reading = read(loaded, "é" + "abc" * 50 + "U")
    assert len(reading.labels) == 32
    assert reading.labels[-1] == "U"
    assert len(reading.notes) == 2


@pytest.mark.parametrize(("typed", "message"), [("", "there is no text yet"), ("é☃", "unknown to the model")])
def test_a_text_without_known_characters_is_one_sentence(loaded, typed, message):
    with pytest.raises(UserError, match=message):
        read(loaded, typed)


def test_one_token_has_no_loss(loaded):
    assert "Loss" not in likelihood_view(read(loaded, "a"))


def test_messages_keep_their_white_space_and_are_escaped():
    shown = messages_view(Chat([["<b>&", "  a\n\n b"], ["", ""]]))
    assert '<div class="tt-message user">&lt;b&gt;&amp;</div><div class="tt-message model">  a\n\n b</div>' in shown
    assert shown.count("tt-message ") == 2
    assert "continues what you write" in messages_view(Chat())


def points_of(view, name):
    """How many points a curve has."""
    return len(re.search(rf'<polyline class="{name}" points="(.*?)"', view)[1].split())


def test_curves_grow_with_the_metrics(root):
    run = Folder(root).find("run").run
    before = curves_view([run])
    Metrics(root / "run" / "metrics.jsonl").append({"step": 50, "train_loss": 1.0, "val_loss": 0.5})
    after = curves_view([run])
    assert points_of(after, "train run0") == points_of(before, "train run0") + 1
    assert points_of(after, "val run0") == points_of(before, "val run0") + 1
    assert "<td>0.500 at step 50</td>" in after
    assert "knows nothing and finds all" in after  # the run has ended


def test_two_runs_are_compared_by_what_differs(root):
    path = root / "run" / "config.json"
    path.write_text(path.read_text().replace('"steps": 40', '"steps": 80'))
    folder = Folder(root)
    shown = curves_view([folder.find("run").run, folder.find("other").run])
    assert "<tr><th>--steps</th><td>80</td><td>40</td></tr>" in shown
    assert "--lr" not in shown
    assert points_of(shown, "val run1") == points_of(shown, "val run0")
    assert "knows nothing" not in shown  # the first run has not ended


def test_a_run_without_metrics_and_corrupt_lines(root):
    path, run = root / "run" / "metrics.jsonl", Folder(root).find("run").run
    before = curves_view([run])
    path.write_bytes(path.read_bytes() + b'garbage\n{"step": 41, "train_loss": NaN}\n{"step"')
    assert points_of(curves_view([run]), "train run0") == points_of(before, "train run0")
    path.write_text('{"step": 0, "lr": 0.1}\n')
    assert "<svg" not in curves_view([run])
    path.write_text('{"step": 1, "train_loss": 2.0}\n{"step": 2, "train_loss": 1e300}\n')
    assert points_of(curves_view([run]), "train run0") == 2
    path.unlink()
    assert "No metrics yet" in curves_view([run])


@pytest.mark.parametrize(("low", "high"), [(1.3, 4.6), (0, 2000), (0, 1), (5, 5), (1.0, 1.0001), (1e-3, 1e300)])
def test_ticks_enclose_the_values_and_are_few(low, high):
    found = ticks(low, high)
    assert found[0] <= low <= high <= found[-1]
    assert 1 <= len(found) <= 8
    assert all(math.isfinite(tick) for tick in found)

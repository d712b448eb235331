"""The page holds the model's own values, whatever the text; mistakes are one sentence and leave nothing."""

import json
import math
import re
import shutil

import numpy as np
import pytest

import tinytensor as tt
from gpt.cli import run_command
from gpt.corpus.tokens import open_tokens
from gpt.explain.__main__ import choose_ids, main
from gpt.explain.content import ATTENTION_BYTES, TEMPLATE, WEIGHT_BYTES, explain, lower_triangle, prompt_limit, render
from gpt.explain.curve import MAX_POINTS, loss_curve
from gpt.generation.sampling import Sampling
from gpt.generation.stream import stream
from gpt.model import GPT, Bigram, GPTConfig
from gpt.training.recipe import PRESETS
from gpt.weights.directory import save_weights
from gpt.weights.load import load_model
from tests.gpt.explain.conftest import HOSTILE, KNOWN, built, content_of


def softmax(logits):
    weights = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def test_the_page_holds_what_the_model_computes(trained, explained, capsys):
    page = explained(trained, "--prompt", "the hat", "--seed", "3", "--tokens", "9")
    assert page.stat().st_size < 3e6
    assert capsys.readouterr().out == f"written: {page} ({page.stat().st_size / 1e3:.0f} kB); open it in a browser\n"
    found = content_of(page)
    model, tokenizer = load_model(trained, "cpu")
    ids = tokenizer.encode("the hat")
    with tt.no_grad():
        logits = model(ids[None].astype(np.int64)).data[0]
    probs = softmax(logits)
    likelihoods = probs[np.arange(6), ids[1:]]
    assert found["ids"] == ids.tolist()
    assert found["labels"] == list("the␣hat")
    assert found["text"] == "the hat"
    assert found["likelihoods"][0] is None
    np.testing.assert_allclose(found["likelihoods"][1:], likelihoods, rtol=1e-3)
    assert found["loss"] == pytest.approx(-np.log(likelihoods).mean(), abs=1e-3)
    for row, alternatives in zip(probs, found["alternatives"], strict=True):
        np.testing.assert_allclose([p for _, p in alternatives], np.sort(row)[::-1][:5], rtol=1e-3)
    assert found["stream"][-1]["guess"] == [row[0] for row in found["alternatives"]]
    table = model.transformer
    np.testing.assert_allclose(found["embedding"]["tokens"], table.wte.weight.data[ids], rtol=1e-3)
    np.testing.assert_allclose(found["embedding"]["positions"], table.wpe.weight.data[:7], rtol=1e-3)
    assert [len(head) for layer in found["attention"] for head in layer] == [7 * 8 / 2] * 4
    assert [layer[0][0] for layer in found["attention"]] == [1000, 1000]  # the first token sees itself alone
    written = "".join(piece for _, piece in stream(model, tokenizer, "the hat", Sampling(tokens=9, seed=3)))
    assert "".join(step["piece"] for step in found["continuation"]["steps"]) == written
    assert found["curve"]["val"][-1][0] == 40


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.0])
def test_the_logits_give_the_probabilities_of_any_temperature(temperature):
    model = built()
    found = explain(model, KNOWN, np.arange(5), Sampling(tokens=1))["next"]
    with tt.no_grad():
        logits = model(np.arange(5)[None]).data[0, -1]
    top, highest = [z for _, z in found["top"]], found["top"][0][1]
    others = sum(count * math.exp((z - highest) / temperature) for z, count in found["others"])
    assert len(found["top"]) + sum(count for _, count in found["others"]) == KNOWN.vocab_size
    weights = np.exp((np.array(top) - highest) / temperature)
    expected = np.sort(softmax(logits / temperature))[::-1]
    np.testing.assert_allclose(weights / (weights.sum() + others), expected[: len(top)], atol=1e-3)


@pytest.mark.parametrize("preset", ["course-v1", "default"])
def test_every_kind_of_gpt_has_a_page(preset):
    changes = {
        name: PRESETS[preset][name] for name in ("activation", "norm", "tied", "positions") if name in PRESETS[preset]
    }
    found = explain(built(**changes), KNOWN, np.arange(9), Sampling(tokens=3))
    assert (found["embedding"]["positions"] is None) == (preset == "default")
    assert [len(layer) for layer in found["attention"]] == [2, 2]
    assert len(found["continuation"]["steps"]) == 3


def test_a_bigram_has_a_page_without_layers():
    found = explain(built(Bigram), KNOWN, np.arange(9), Sampling(tokens=3))
    assert (found["attention"], found["stream"]) == ([], [])
    assert render({**found, "run": "x", "notes": [], "curve": None})


def test_no_text_ends_the_script_that_it_is_in():
    ids = KNOWN.encode(HOSTILE).astype(np.int64)
    page = render(
        explain(built(), KNOWN, ids, Sampling(tokens=30)) | {"run": HOSTILE, "notes": [HOSTILE], "curve": None}
    )
    template = TEMPLATE.read_text(encoding="utf-8")
    for piece in ("<script", "</script", "<!--"):
        assert page.count(piece) == template.count(piece)
    page.encode()
    (text,) = re.findall(r'id="content">(.*?)</script>', page)
    found = json.loads(text)
    assert found["text"] == found["run"] == HOSTILE
    assert all(label and not label.isspace() for label in found["labels"])


def test_an_empty_prompt_is_the_beginning_of_the_validation_text(trained, explained, capsys):
    found = content_of(explained(trained))
    assert found["ids"] == open_tokens(trained).val[:32].tolist()
    assert found["notes"] == ["No --prompt was given: the text is the beginning of the run's validation text."]
    assert capsys.readouterr().out.startswith(found["notes"][0] + "\nwritten: ")
    assert content_of(explained(trained / "best"))["ids"] == found["ids"]


@pytest.mark.parametrize("lost", ["meta.json", "val.bin"])
def test_without_validation_text_it_is_a_line_break(trained, explained, tmp_path, lost):
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    (run / lost).unlink()
    (run / "metrics.jsonl").write_bytes(b"{}\n")
    found = content_of(explained(run))
    assert found["labels"] == ["↵"]
    assert "no --prompt was given and there is no validation text" in found["notes"][0]
    assert lost in found["notes"][0]
    assert found["notes"][1].endswith("metrics.jsonl: line 1 is corrupt and left out")
    assert found["loss"] is None
    assert found["likelihoods"] == [None]


def test_a_model_directory_has_no_loss_curve(directory, explained):
    assert content_of(explained(directory, "--prompt", "script"))["curve"] is None


def test_a_long_prompt_is_cut_and_unseen_characters_are_left_out(trained, explained, capsys):
    found = content_of(explained(trained, "--prompt", "the hat 日" * 10))
    assert found["text"] == ("the hat " * 10)[-32:]
    unseen, cut = found["notes"]
    assert unseen == "Unknown to the model and left out of the prompt: '日'"
    assert cut.startswith("The prompt has 80 tokens, and the model's context or this page has room for 32: its last 32")
    assert capsys.readouterr().out.startswith(f"{unseen}\n{cut}\n")


class Halves:
    """A tokenizer that makes a token of each byte."""

    vocab_size, end_of_text, stop_ids = 256, None, frozenset()

    def encode(self, text):
        return np.frombuffer(text.encode(), np.uint8)

    def decode_bytes(self, ids):
        return bytes(ids)

    def decode(self, ids):
        return bytes(ids).decode("utf-8", "replace")


def test_tokens_that_are_parts_of_characters(tmp_path):
    ids, _ = choose_ids("a日", Halves(), tmp_path, 64)
    found = explain(built(vocab_size=300), Halves(), ids, Sampling(tokens=5))  # 44 more than the tokenizer has
    assert found["labels"] == ["a", r"\xe6", r"\x97", r"\xa5"]
    assert found["model"]["vocab_size"] == 256
    assert len(found["next"]["top"]) + sum(count for _, count in found["next"]["others"]) == 256


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--out", "page"], "--out page: must end in .html, by which a browser knows it"),
        (["--out", "no/page.html"], "--out no/page.html: there is no directory no; make it, or choose another"),
        (["--prompt", "日"], "--prompt 日: the model knows none of its characters; use those that it trained on"),
        (["--tokens", "0"], "--tokens 0: must be at least 1"),
        (["--tokens", "501"], "--tokens 501: must be at most 500"),
        (["--temperature", "-1"], "--temperature -1.0: must be at least 0"),
        (["--prompt="], "--prompt: must be given a value, not an empty one"),
        (["--promt", "a"], "--promt: unknown flag (did you mean --prompt?)"),
    ],
)
def test_mistakes_are_one_sentence_and_leave_nothing(trained, tmp_path, monkeypatch, capsys, flags, message):
    monkeypatch.chdir(tmp_path)
    assert run_command(main, [str(trained), "--device", "cpu", *flags]) == 2
    assert capsys.readouterr().err == f"error: {message}\n"
    assert not list(tmp_path.iterdir())


def test_corrupt_weights_are_one_sentence_and_an_older_page_stays(directory, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "explain.html").write_text("older")
    model = built()
    state = model.state_dict()
    state["transformer.ln_f.weight"][1] = np.nan
    save_weights(directory, model.config, state)
    assert run_command(main, ["model", "--device", "cpu", "--prompt", "script"]) == 2
    assert capsys.readouterr().err.startswith("error: the model computes NaN or infinite logits")
    assert (tmp_path / "explain.html").read_text() == "older"
    assert {path.name for path in tmp_path.iterdir()} == {"explain.html", "model"}


@pytest.mark.parametrize(("layers", "heads", "tokens"), [(4, 4, 128), (12, 12, 88), (48, 25, 30), (96, 96, 10)])
def test_the_attention_of_a_large_model_fits(layers, heads, tokens):
    class Model(GPT):
        def __init__(self):
            self.config = GPTConfig(50257, 1024, layers, heads, 2 * heads)

    limit = prompt_limit(Model())
    assert limit == tokens
    uniform = np.tril(np.ones((limit, limit))) / np.arange(1, limit + 1)[:, None]  # no weights have more digits
    size = len(json.dumps(lower_triangle(uniform), separators=(",", ":")))
    assert layers * heads * size < 1.3 * ATTENTION_BYTES
    if limit > 20:
        assert size < WEIGHT_BYTES * limit * (limit + 1) / 2


def curve(*losses, train=None):
    """What the page says about validation losses at steps 100, 200, ..."""
    rows = [{"step": 100 * i, "val_loss": loss, "train_loss": train or loss} for i, loss in enumerate(losses, 1)]
    return loss_curve(rows, 64)


@pytest.mark.parametrize(
    ("losses", "train", "words"),
    [
        ((3.0, 2.5, 2.0, 1.5), None, "It was still falling at the end"),
        ((3.0, 1.502, 1.5, 1.501, 1.5), None, "It was flat at the end"),
        ((3.0, 1.5, 2.0, 2.5), 1.4, "was lowest at step 200, 1.500, and has risen since"),
        ((3.0, 2.5, 2.0, 1.5), 0.9, "The gap between the two losses"),
        ((3.0, 40.0, 60.0, 70.0), None, "it diverged"),
        ((float("nan"), 2.0), None, "ended at 2.000: a perplexity of exp(2.000) = 7.4"),
    ],
)
def test_the_loss_curve_is_read_aloud(losses, train, words):
    found = curve(*losses, train=train)
    assert words in " ".join(found["says"])
    assert found["says"][0].endswith("ln(64) = 4.159.")


def test_a_long_loss_curve_is_thinned_and_keeps_its_end():
    rows = [{"step": step, "train_loss": 1.0} for step in range(1, 9002)]
    found = loss_curve(rows, 64)
    assert len(found["train"]) <= MAX_POINTS
    assert found["train"][-1] == [9001, 1.0]
    assert found["val"] == []
    assert loss_curve([], 64) is None


def luminance(color):
    """The relative luminance of #rrggbb (WCAG 2)."""
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_text_has_enough_contrast_light_and_dark():
    palettes = re.findall(r":root \{(.*?)\}", TEMPLATE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(palettes) == 2
    for palette in palettes:
        colors = dict(re.findall(r"--(\w+): (#\w{6});", palette))
        pairs = [("ink", ground) for ground in ("paper", "panel", "look", "surprise")]
        pairs += [(text, ground) for text in ("soft", "accent") for ground in ("paper", "panel")]
        for text, ground in pairs:
            light, dark = sorted((luminance(colors[text]), luminance(colors[ground])), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (text, ground)

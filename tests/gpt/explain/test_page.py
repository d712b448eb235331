"""The page in a real browser: it loads nothing, shows the model's numbers, fits a phone, answers to the keyboard."""

import re

import numpy as np
import pytest

from gpt.explain.content import explain, render
from gpt.generation.sampling import Sampling
from gpt.inspection.predictions import predictions
from gpt.inspection.trace import trace
from gpt.model import Bigram
from gpt.weights.load import load_model
from tests.gpt.chromium import launched, needs_chromium
from tests.gpt.explain.conftest import HOSTILE, KNOWN, built

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install -e '.[browser]'")
pytestmark = needs_chromium
PROMPT = "to be or not"


@pytest.fixture(scope="module")
def browser():
    with launched(playwright) as browser:
        yield browser


@pytest.fixture
def opened(browser):
    """A function that opens a file and returns the page; afterwards, nothing else was asked for, and nothing failed."""
    contexts, requests, complaints = [], [], []

    def open_file(path, width=1280, color_scheme="light"):
        context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=color_scheme)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(path.as_uri())
        return page

    yield open_file
    paths = {context.pages[0].url.partition("#")[0] for context in contexts}
    for context in contexts:
        context.close()
    assert complaints == []
    assert set(requests) == paths
    assert all(path.startswith("file://") for path in paths)


@pytest.fixture
def page_file(trained, explained):
    return explained(trained, "--prompt", PROMPT)


def number(page, selector):
    """The number in an element, percent as a share."""
    text = page.locator(selector).first.inner_text()
    value = float(re.search(r"-?[\d.]+", text).group())
    return value / 100 if "%" in text else value


def test_its_numbers_are_those_of_the_model(directory, explained, opened):
    text = "script"
    model, tokenizer = load_model(directory, "cpu")
    ids = tokenizer.encode(text)
    found = trace(model, ids)
    expected = predictions(found.logits, ids)
    largest = [layer.weights[:, -1].max(axis=-1) for layer in found.layers]
    assert np.diff(np.sort(np.ravel(largest))).min() > 2e-3  # each head has a number of its own
    page = opened(explained(directory, "--prompt", text))
    assert number(page, "#loss") == pytest.approx(expected.loss(), abs=1e-3)
    assert number(page, "#likelihood-value") == pytest.approx(expected.likelihoods[-1], abs=1e-3)
    assert number(page, "#largest-weight") == pytest.approx(largest[0][0], abs=1e-3)
    assert number(page, "#next-table tr:first-child td:nth-child(2)") == pytest.approx(found.logits[-1].max(), abs=1e-3)
    assert number(page, "#next-table tr:first-child td:nth-child(3)") == pytest.approx(
        expected.top_probs[-1, 0], abs=1e-3
    )

    page.locator("#layer").select_option(index=1)
    page.locator("#heads button").nth(1).click()
    assert number(page, "#largest-weight") == pytest.approx(largest[1][1], abs=1e-3)
    page.locator("#temperature").fill("0.5")
    weights = np.exp((found.logits[-1] - found.logits[-1].max()) / 0.5)
    likeliest = number(page, "#next-table tr:first-child td:nth-child(3)")
    assert likeliest == pytest.approx(1 / weights.sum(), abs=1e-3)


def test_a_token_is_chosen_by_mouse_and_keyboard_and_all_figures_follow(page_file, opened):
    page = opened(page_file)
    strip = page.locator("[data-strip=attention] .token")
    strip.nth(4).click()
    page.keyboard.press("ArrowLeft")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')").startswith("token 4: b")
    for readout in ("attention", "embedding", "stream", "likelihood"):
        assert "oken b (position 3)" in page.locator(f"#{readout}-readout").inner_text()
    pressed = page.locator(".token[aria-pressed=true]")
    assert pressed.evaluate_all("tokens => tokens.map(token => token.tabIndex)") == [0, 0, 0, 0]
    page.keyboard.press("Home")
    assert "is the first" in page.locator("#likelihood-readout").inner_text()
    page.locator("[data-strip=likelihood] .token").nth(6).hover()
    assert "oken o (position 6) had a likelihood" in page.locator("#likelihood-readout").inner_text()
    page.locator("#attention-map").hover(position={"x": 1, "y": 1})
    assert "looks at t (position 0): 100.0" in page.locator("#attention-readout").inner_text()


def test_it_writes_step_by_step(page_file, opened):
    page = opened(page_file)
    page.locator("#forward").focus()
    page.keyboard.press("Enter")
    assert page.locator("#step-value").inner_text() == "2 of 40"
    page.locator("#step").fill("40")
    text = page.evaluate("data.text + data.continuation.steps.map(step => step.piece).join('')")
    assert page.locator("#written").text_content() == text
    assert text.startswith(PROMPT)
    assert page.locator("#forward").is_disabled()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone(page_file, opened, scheme):
    page = opened(page_file, width=390, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert page.evaluate("document.documentElement.lang") == "en"


@pytest.mark.parametrize("kind", ["hostile", "bigram", "one token", "rotary"])
def test_other_models_and_texts(opened, tmp_path, kind):
    model = built(Bigram) if kind == "bigram" else built(positions="rotary" if kind == "rotary" else "learned")
    ids = np.arange(1) if kind == "one token" else KNOWN.encode(HOSTILE).astype(np.int64)
    content = explain(model, KNOWN, ids, Sampling(tokens=20))
    path = tmp_path / "page.html"
    path.write_text(render(content | {"run": HOSTILE, "notes": [HOSTILE], "curve": None}), encoding="utf-8")
    page = opened(path, width=390)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert page.locator("[data-strip=ids] .token").count() == len(ids)
    assert page.locator("#attention").count() == (kind != "bigram")
    assert page.locator(".note").all_text_contents() == [HOSTILE]
    assert page.locator("body > :not(header, main, footer, script)").count() == 0

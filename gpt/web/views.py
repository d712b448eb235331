"""What the page shows of texts, as HTML: a conversation, the likelihood of each token, the attention of a head."""

from __future__ import annotations

import html
import json
import math
from dataclasses import dataclass

import numpy as np

from gpt.errors import UserError
from gpt.explain.content import lower_triangle
from gpt.inspection.labels import SIGNS, token_label
from gpt.inspection.predictions import Predictions, predictions
from gpt.inspection.trace import Trace, trace
from gpt.web.models import LoadedModel
from gpt.web.sessions import Chat, readable

MAX_TOKENS = 256  # of the text that is shown
ALTERNATIVES = 5


@dataclass(frozen=True)
class Reading:
    """A text of T tokens as a model read it."""

    labels: list[str]  # (T,)
    trace: Trace
    predictions: Predictions
    alternatives: list[list[str]]  # (T, K), the labels of `predictions.top_ids`
    notes: list[str]


def read(loaded: LoadedModel, text: str) -> Reading:
    """Run a text through a model, of a long one the end. Raises UserError if the model knows nothing in it."""
    known, notes = readable(text, loaded)
    if not known:
        raise UserError("; ".join(notes) or "there is no text yet")
    ids = np.asarray(loaded.tokenizer.encode(known), dtype=np.int64)
    limit = min(MAX_TOKENS, loaded.block_size)
    if len(ids) > MAX_TOKENS and loaded.block_size > MAX_TOKENS:
        notes.append(f"the last {MAX_TOKENS} of its {len(ids)} tokens are shown")
    ids = ids[-limit:]
    with loaded.turn():
        found = trace(loaded.model, ids)
    guesses = predictions(found.logits[:, : loaded.tokenizer.vocab_size], ids, ALTERNATIVES)

    def labels(tokens: np.ndarray) -> list[str]:
        return [token_label(loaded.tokenizer, int(token)) for token in tokens]

    return Reading(labels(ids), found, guesses, [labels(row) for row in guesses.top_ids], notes)


def messages_view(chat: Chat) -> str:
    """A conversation. What is empty is not shown; white space is kept."""
    parts = [
        f'<div class="tt-message {role}">{html.escape(text)}</div>'
        for turn in chat.turns
        for role, text in zip(("user", "model"), turn, strict=True)
        if text
    ]
    hint = '<p class="tt-hint">The model continues what you write, as if it were a page of its text.</p>'
    return f'<div class="tt-messages" role="log"><div>{"".join(parts) or hint}</div></div>'


def likelihood_view(reading: Reading) -> str:
    """The text, the unlikelier a token the redder, with what else the model expected there."""
    found = reading.predictions
    vocab_size = reading.trace.logits.shape[1]
    tokens = []
    for i, label in enumerate(reading.labels):
        if i == 0:
            tip, strength = "the first token: nothing precedes it, so the model did not guess it", 0.0
        else:
            likelihood = float(found.likelihoods[i])
            expected = zip(reading.alternatives[i - 1], found.top_probs[i - 1], strict=True)
            others = ", ".join(f"{token} {percent(prob)}" for token, prob in expected)
            tip = f"{label} had a likelihood of {percent(likelihood)}; expected: {others}"
            strength = min(1.0, -math.log(max(likelihood, 1e-30)) / math.log(max(vocab_size, 2)))
        tip = html.escape(tip)
        tokens.append(
            f'<span class="tt-token" tabindex="0" style="--strength: {strength:.0%}" aria-label="{tip}">'
            f'{html.escape(visible(label))}<span class="tt-tip" aria-hidden="true">{tip}</span></span>'
        )
    loss = found.loss()
    mean = (
        "" if math.isnan(loss) else f"Loss {loss:.3f} nats per token, a perplexity of {math.exp(min(loss, 700)):,.1f}. "
    )
    hint = f"{mean}Point at a token, or tap it, for what else the model expected there."
    return f'<div class="tt-text tt-likelihood">{"".join(tokens)}<span class="tt-hint">{hint}</span></div>'


def attention_view(reading: Reading, layer: int, head: int) -> str:
    """The text with the weights of a head: their lower triangle in thousandths, of which `page.js` shows a row."""
    if not reading.trace.layers:
        return '<p class="tt-hint">A bigram has no attention.</p>'
    content = json.dumps(lower_triangle(reading.trace.layers[layer].weights[head]), separators=(",", ":"))
    tokens = "".join(
        f'<span class="tt-token" tabindex="0" aria-label="{html.escape(label)}">{html.escape(visible(label))}</span>'
        for label in reading.labels
    )
    hint = '<span class="tt-hint">Point at a token, or tap it, for the tokens that it looks at.</span>'
    return f'<div class="tt-text tt-attention" data-weights="{content}">{tokens}{hint}</div>'


def visible(label: str) -> str:
    """A token's label with real spaces and line breaks, so that the text can be read."""
    return label.replace(SIGNS[" "], " ").replace(SIGNS["\n"], SIGNS["\n"] + "\n")


def percent(share: float) -> str:
    """A probability to read: two digits, and never a wrong zero."""
    return f"{100 * share:.2g} %" if share >= 1e-4 else "below 0.01 %"

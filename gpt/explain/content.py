"""The values that the page shows, as one JSON object in its template. Shape letters as in `gpt.model.layers`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from gpt.generation.sampling import Sampling, next_token_probs, top_k_ids
from gpt.generation.stream import StreamDecoder, generate
from gpt.inspection.labels import token_label
from gpt.inspection.predictions import predictions
from gpt.inspection.trace import Trace, early_logits, trace
from gpt.model import GPT, GPTConfig
from gpt.model.cache import Context
from gpt.tokenizers.characters import CharTokenizer
from gpt.tokenizers.load import Tokenizer

TEMPLATE = Path(__file__).with_name("page.html")
PLACE = "__CONTENT__"  # of the JSON in the template
MAX_TOKENS = 128  # of the prompt: more would be too small to see
ATTENTION_BYTES = 2_000_000  # of the 3 MB that the page may have
WEIGHT_BYTES = 3.5  # of an attention weight in thousandths: the weights of a row add up to 1000, so most are short
COLUMNS = 64  # of each embedding
ALTERNATIVES = 5
CANDIDATES = 20  # for the token after the prompt
LOWEST_LOGIT = -100.0  # below the highest: less likely than e^-50, even at temperature 2


def prompt_limit(model: Any) -> int:
    """How many tokens the model's context and the size of the page have room for."""
    config: GPTConfig = model.config
    fits = MAX_TOKENS
    if isinstance(model, GPT):  # L H T (T + 1) / 2 weights, by the formula for quadratic equations
        cells = ATTENTION_BYTES / WEIGHT_BYTES / (config.n_layer * config.n_head)
        fits = max(1, int((8 * cells + 1) ** 0.5 - 1) // 2)
    return min(MAX_TOKENS, config.block_size, fits)


def explain(model: Any, tokenizer: Tokenizer, ids: np.ndarray, sampling: Sampling) -> dict[str, Any]:
    """What the page says about a text ids (T,), all of it the model's own. Raises UserError for corrupt weights."""
    config: GPTConfig = model.config
    size = tokenizer.vocab_size
    found = trace(model, ids)
    logits = found.logits[:, :size]
    guesses = predictions(logits, ids, ALTERNATIVES)
    return {
        "model": {
            "kind": "gpt" if isinstance(model, GPT) else "bigram",
            "parameters": model.num_parameters(),
            "tokenizer": "characters" if isinstance(tokenizer, CharTokenizer) else "bpe",
            **vars(config),
            "vocab_size": size,
        },
        "text": tokenizer.decode(ids),
        "ids": ids.tolist(),
        "labels": [token_label(tokenizer, int(i)) for i in ids],
        "embedding": embedding(found),
        "attention": [[lower_triangle(head) for head in layer.weights] for layer in found.layers],
        "stream": [
            {
                "attended": norms(layer.attended),
                "mlp": norms(layer.mlp),
                "x": norms(layer.x),
                "guess": labeled(tokenizer, *likeliest(early_logits(model, layer.x)[:, :size])),
            }
            for layer in found.layers
        ],
        "likelihoods": [None, *rounded(guesses.likelihoods[1:])],
        "loss": None if len(ids) == 1 else round(min(guesses.loss(), 1e9), 4),
        "alternatives": [labeled(tokenizer, *row) for row in zip(guesses.top_ids, guesses.top_probs, strict=True)],
        "next": next_token(tokenizer, logits[-1]),
        "continuation": continuation(model, tokenizer, ids, sampling),
    }


def embedding(found: Trace) -> dict[str, Any]:
    """The first columns of the embeddings, and how long the vectors are."""
    positions, start = found.positions, found.tokens
    if positions is not None:
        start = found.tokens + positions
    return {
        "width": found.tokens.shape[1],
        "tokens": [rounded(row[:COLUMNS]) for row in found.tokens],
        "positions": None if positions is None else [rounded(row[:COLUMNS]) for row in positions],
        "norm": norms(start),
    }


def lower_triangle(weights: np.ndarray) -> list[int]:
    """The weights (T, T) of a head in thousandths: of token 0 one, of token 1 two, ..."""
    return np.rint(1000 * weights[np.tril_indices(len(weights))]).astype(int).tolist()


def likeliest(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The likeliest token of each row of logits (T, V), and its probability: (T,) each."""
    highest = logits.max(axis=-1, keepdims=True)
    return logits.argmax(axis=-1), 1 / np.exp(logits - highest).sum(axis=-1)


def next_token(tokenizer: Tokenizer, logits: np.ndarray) -> dict[str, Any]:
    """The highest of the logits (V,), and the others as [logit, count] in hundredths, enough for any temperature."""
    best = top_k_ids(logits, min(CANDIDATES, len(logits)))
    others = np.delete(logits, best).astype(np.float64)
    others = others[others > logits.max() + LOWEST_LOGIT]
    values, counts = np.unique(np.rint(100 * others).astype(int), return_counts=True)
    return {
        "top": [[token_label(tokenizer, int(i)), round(float(logits[i]), 4)] for i in best],
        "others": [[value / 100, count] for value, count in zip(values.tolist(), counts.tolist(), strict=True)],
    }


class RecordingContext(Context):
    """A Context that remembers its newest logits."""

    def logits(self) -> np.ndarray:
        """The model's logits for the next token, (1, V)."""
        self.newest = super().logits()
        return self.newest


def continuation(model: Any, tokenizer: Tokenizer, ids: np.ndarray, sampling: Sampling) -> dict[str, Any]:
    """The text that `gpt.generate` writes, token by token, with what else each could have been."""
    context, decoder = RecordingContext(model), StreamDecoder(tokenizer)
    steps: list[dict[str, Any]] = []
    context.append(ids)
    for (token,) in generate(context, sampling, tokenizer.vocab_size):
        probs = next_token_probs(context.newest[0, : tokenizer.vocab_size], sampling)
        best = top_k_ids(probs, min(ALTERNATIVES, len(probs)))
        chosen, *top = labeled(tokenizer, [token, *best], probs[[token, *best]])
        steps.append({"token": chosen, "piece": decoder.add(token), "top": top})
        if decoder.ended:
            break
    steps[-1]["piece"] += decoder.finish()
    return {"temperature": f"{sampling.temperature:g}", "seed": sampling.seed, "steps": steps}


def labeled(tokenizer: Tokenizer, tokens: Iterable[int], probs: np.ndarray) -> list[list[Any]]:
    """[label, probability] of tokens (N,) with their probabilities (N,)."""
    return [[token_label(tokenizer, int(i)), p] for i, p in zip(tokens, rounded(probs), strict=True)]


def norms(rows: np.ndarray) -> list[float]:
    """The length of each row (T, C)."""
    return rounded(np.linalg.norm(rows, axis=-1))


def rounded(values: np.ndarray) -> list[float]:
    """Values (N,) with four significant digits, and finite: JSON has no other numbers."""
    return [float(f"{value:.4g}") for value in np.nan_to_num(values, posinf=1e30, neginf=-1e30)]


def render(content: dict[str, Any]) -> str:
    """The page with its content. No text in it can end the script element that it is in."""
    text = json.dumps(content, allow_nan=False, separators=(",", ":"))  # ASCII: lone surrogates are escaped, too
    return TEMPLATE.read_text(encoding="utf-8").replace(PLACE, text.replace("<", "\\u003c"))

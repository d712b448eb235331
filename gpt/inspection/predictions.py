"""What logits say about a text: how likely each of its tokens was, and which others the model expected."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gpt.generation.sampling import Sampling, next_token_probs, top_k_ids

PLAIN = Sampling(temperature=1.0)  # the model's own probabilities


@dataclass(frozen=True)
class Predictions:
    """Of a text of T tokens. Row i of the alternatives is about the token after token i, which the last row foretells.

    likelihoods[i] is the probability of token i after those before it, so the first, which nothing precedes, has NaN.
    """

    likelihoods: np.ndarray  # (T,) float64
    top_ids: np.ndarray  # (T, K) int64, the likeliest tokens in descending order
    top_probs: np.ndarray  # (T, K) float64

    def loss(self) -> float:
        """The mean of -log(likelihood), in nats per token, as in training; NaN for a text of one token."""
        known = self.likelihoods[1:]
        with np.errstate(divide="ignore"):  # a likelihood may underflow to 0
            return float(-np.log(known).mean()) if len(known) else float("nan")


def predictions(logits: np.ndarray, ids: np.ndarray, top: int = 5) -> Predictions:
    """The Predictions of logits (T, V) for a text ids (T,), with the `top` likeliest tokens, or V if that is less.

    Cut the logits to the tokenizer's vocabulary first, as `gpt.generation.stream.generate` does, if the model's is
    padded beyond it. Raises UserError for logits that are not finite.
    """
    likelihoods, top_ids, top_probs = [float("nan")], [], []
    for row, following in zip(logits, [*ids[1:], None], strict=True):
        probs = next_token_probs(row, PLAIN)  # one row at a time: (T, V) in float64 may be large
        best = top_k_ids(row, min(top, len(row)))
        top_ids.append(best)
        top_probs.append(probs[best])
        if following is not None:
            likelihoods.append(probs[following])
    return Predictions(np.array(likelihoods), np.array(top_ids), np.array(top_probs))

"""Choosing the next token: probabilities from logits, and a draw from them. Pure functions."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

import numpy as np

import tinytensor as tt
from gpt.errors import UserError
from gpt.options import check_options, option

NO_NUMBERS = "the model computes NaN or infinite logits: its weights are corrupt, or its training diverged"


@dataclass(frozen=True)
class Sampling:
    """How to choose each token from the model's probabilities. Raises UserError for impossible values."""

    tokens: int = option(200, "tokens to write after the prompt", at_least=1)
    temperature: float = option(
        0.8, "below 1 safer, above 1 more surprising; 0 is greedy decoding", at_least=0, below=inf
    )
    top_k: int = option(0, "sample from the K most likely tokens only; 0 from all", at_least=0)
    top_p: float = option(1.0, "sample from the most likely tokens with this total probability", above=0, at_most=1)
    min_p: float = option(0.0, "drop tokens below this share of the highest probability", at_least=0, at_most=1)
    repetition_penalty: float = option(
        1.0, "above 1, tokens that occurred before become less likely", above=0, below=inf
    )
    stop: str = option("", "end before this text, which may contain \\n and several texts separated by |")
    seed: int = option(1, "the same seed gives the same text", at_least=0)

    def __post_init__(self) -> None:
        check_options(self)

    def stop_texts(self) -> list[str]:
        """The texts that `stop` names."""
        return [text for text in self.stop.replace("\\n", "\n").split("|") if text]

    def reseeded(self, purpose: str, number: int) -> "Sampling":
        """The same with another seed for each purpose and number, such as the answers of a conversation."""
        seed = tt.fold(self.seed, purpose, number) >> 1  # to the 63 bits that a seed may have
        return dataclasses.replace(self, seed=seed)


def next_token_probs(logits: np.ndarray, sampling: Sampling, seen: Sequence[int] = ()) -> np.ndarray:
    """Probabilities (V,) float64 of the next token from logits (V,), by the rules of `sampling` in this order.

    Repetition penalty on the tokens `seen` (Keskar et al. 2019, arXiv:1909.05858), temperature, top-k, top-p
    (Holtzman et al. 2020, arXiv:1904.09751), and min-p (Nguyen et al. 2024, arXiv:2407.01082). Temperature 0 gives
    the most likely token, the first of several, probability 1. Raises UserError for logits that give no probabilities.
    """
    logits = np.array(logits, dtype=np.float64)
    if not np.isfinite(logits.max()):  # NaN if any is NaN
        raise UserError(NO_NUMBERS)
    if sampling.repetition_penalty != 1:
        penalty, ids = sampling.repetition_penalty, np.unique(np.asarray(seen, dtype=np.int64))
        with np.errstate(over="ignore"):  # an extreme penalty overflows
            penalised = np.where(logits[ids] > 0, logits[ids] / penalty, logits[ids] * penalty)
        logits[ids] = penalised.clip(-1e300, 1e300)
    if sampling.temperature == 0:
        return (np.arange(len(logits)) == logits.argmax()).astype(np.float64)
    weights = np.exp((logits - logits.max()) / sampling.temperature)
    if sampling.top_k or sampling.top_p < 1:
        ids = top_k_ids(logits, sampling.top_k)
        probs = weights[ids] / weights[ids].sum()
        # Keep a token while those more likely fall short of top_p: never fewer than one.
        kept = ids[np.cumsum(probs) - probs < sampling.top_p]
        unfiltered, weights = weights, np.zeros_like(weights)
        weights[kept] = unfiltered[kept]
    weights[weights < sampling.min_p * weights.max()] = 0.0
    return weights / weights.sum()


class TokenSampler:
    """Draws the tokens of one text. What text i of a seed draws depends on the two and on the model's logits alone.

    seen: the tokens that the text begins with, for the repetition penalty.
    """

    def __init__(self, sampling: Sampling, i: int, seen: Sequence[int] | np.ndarray):
        self.sampling, self.seen = sampling, list(seen)
        self._generator = np.random.Generator(np.random.Philox(key=tt.fold(sampling.seed, "sample", i)))

    def draw(self, logits: np.ndarray) -> int:
        """The next token, from logits (V,)."""
        token = sample_token(next_token_probs(logits, self.sampling, self.seen), self._generator.random())
        self.seen.append(token)
        return token


def top_k_ids(logits: np.ndarray, k: int) -> np.ndarray:
    """The ids of the k largest logits (V,), or with 0 of all, in descending order, ties by id."""
    if 0 < k < len(logits):
        kth_largest = np.partition(logits, -k)[-k]  # a fraction of the time of sorting all
        ids = np.flatnonzero(logits >= kth_largest)
    else:
        ids = np.arange(len(logits))
    return ids[np.argsort(-logits[ids], kind="stable")][: k or None]


def sample_token(probs: np.ndarray, uniform: float) -> int:
    """The token at a uniform draw in [0, 1) of the cumulative distribution (V,); never one of probability zero.

    Raises UserError for probabilities that are no numbers.
    """
    cumulative = np.cumsum(probs)
    if not 0 < cumulative[-1] < inf:  # NaN fails every comparison
        raise UserError(NO_NUMBERS)
    return int(np.searchsorted(cumulative, uniform * cumulative[-1], side="right"))

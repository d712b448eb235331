"""The KV cache: the keys and values of earlier tokens are stored, so that a new token does not recompute them.

In causal attention nothing that is computed for a token depends on the tokens after it, so the cache is exact: the
logits differ from those of `model(ids)` by rounding only. The buffers grow with the text, up to the block size.

GPT-2 adds a learned vector for each absolute position, so cached keys and values are valid at their position in the
window only, and a full window cannot slide: `Context` then drops all but its newest half, which is run through the
model again from position 0. That is one such pass for every half window of text. With rotary positions keys are stored
rotated; that a window cannot slide is true of them as well, since what it drops was seen by the tokens that remain.
Shape letters as in `llama.py`; S counts the tokens in the cache.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import tinytensor as tt
from gpt.model.gpt import GPT
from tinytensor import nn

FIRST_CAPACITY = 1024  # positions that there is room for at first, as many as GPT-2 has
PREFILL_CHUNK = 1024  # tokens of all texts per forward pass: enough for large products, few enough for the memory


class Cache:
    """The keys and values of a GPT's layers for texts of equal length, and the forward pass that uses them."""

    def __init__(self, model: GPT, batch: int):
        config, weight = model.config, model.transformer.ln_f.parameters()[0]  # which is never packed
        self.model, self.length, self.dtype = model, 0, weight.dtype
        self.device, self.kernels = tt.device(weight.device), tt.kernels_for(weight.data)
        self.shape = batch, config.kv_heads, min(config.block_size, FIRST_CAPACITY), config.head_size
        self.layers = [tuple(self._empty() for _ in "kv") for _ in range(config.n_layer)]

    def logits(self, ids: np.ndarray) -> Any:
        """The logits (B, V) after the texts `ids` (B, T), of which the first `length` tokens are in the cache."""
        self._reserve(ids.shape[1])
        chunk = max(1, PREFILL_CHUNK // len(ids))
        with tt.no_grad():
            while self.length < ids.shape[1]:
                x = self._forward(ids[:, self.length : self.length + chunk])
            newest = self.model.transformer.ln_f(x[:, -1])
            return self.model.lm_head(newest).data  # (B,C) -> (B,V)

    def _empty(self) -> Any:
        return self.device.xp.empty(self.shape, self.dtype)

    def _reserve(self, length: int) -> None:
        """Make room for texts of that length: twice as much as there is, as often as needed."""
        batch, heads, capacity, size = self.shape
        while capacity < length:
            capacity = min(2 * capacity, self.model.config.block_size)
        if capacity == self.shape[2]:
            return
        self.shape = batch, heads, capacity, size
        for i, layer in enumerate(self.layers):
            larger = self._empty(), self._empty()
            for new, old in zip(larger, layer, strict=True):
                new[:, :, : self.length] = old[:, :, : self.length]
            self.layers[i] = larger

    def _forward(self, ids: np.ndarray) -> tt.Tensor:
        """Run the next tokens (B, T) through all layers: (B, T, C). Counted in `length` only once that is done."""
        transformer: Any = self.model.transformer
        end = self.length + ids.shape[1]
        x = transformer.embed(self.device.put(ids), self.length)
        for block, layer in zip(transformer.h, self.layers, strict=True):
            x = block(x, functools.partial(self._attend, block.attn, *layer))
        self.length = end
        return x

    def _attend(self, attention, keys, values, x) -> tt.Tensor:
        """The attention's `forward` for tokens x (B, T, C); appends to the keys and values (B, G, capacity, D)."""
        (batch, groups, _, size), time = self.shape, x.shape[1]
        end, heads = self.length + time, attention.heads
        qkv = attention.project(x).data.reshape(batch, time, heads + 2 * groups, size)
        qk, v = qkv[:, :, : heads + groups], qkv[:, :, heads + groups :]
        if attention.rotary_theta is not None:
            qk = tt.rotary(qk, self.length, attention.rotary_theta, attention.frequencies).data
        q, k = qk[:, :, :heads], qk[:, :, heads:]
        keys[:, :, self.length : end], values[:, :, self.length : end] = k.swapaxes(1, 2), v.swapaxes(1, 2)
        y = self.kernels.cached_attention_forward(q, keys, values, end, attention.scale)  # (B,T,H,D)
        return attention.c_proj(tt.Tensor(y.reshape(batch, time, heads * size)))


class NoCache:
    """The same logits from all tokens, run through the model each time: for other models, and to test `Cache`."""

    def __init__(self, model: nn.Module, batch: int):
        self.model, self.length = model, 0
        self.device = tt.device(model.parameters()[0].device)

    def logits(self, ids: np.ndarray) -> Any:
        """The logits (B, V) after the texts `ids` (B, T)."""
        with tt.no_grad():
            return self.model(self.device.put(ids)).data[:, -1]


class Context:
    """The newest tokens of a batch of texts that grow together, never more than the model's block size, or a limit.

    reader: `Cache` or `NoCache`; by default, `Cache` if the model supports it. limit: fewer tokens than the block size.
    The model must be in evaluation mode.
    """

    def __init__(self, model: Any, batch: int = 1, reader: Callable | None = None, limit: int | None = None):
        self.block_size = min(limit or model.config.block_size, model.config.block_size)
        self.ids = np.empty((batch, 0), np.int64)
        self.reader = (reader or (Cache if isinstance(model, GPT) else NoCache))(model, batch)

    def append(self, ids: Sequence[int] | np.ndarray) -> None:
        """Add tokens: (B, T), or (T,) for the same in every text. `logits` runs them through the model.

        If the window overflows, its newest half is kept, or all the new tokens if they are more, as far as they fit.
        """
        new = np.broadcast_to(np.asarray(ids, dtype=np.int64), (len(self.ids), np.shape(ids)[-1]))
        text = np.concatenate([self.ids, new], axis=1)
        if text.shape[1] > self.block_size:
            kept = min(self.block_size, max(self.block_size // 2, new.shape[1]))
            text, self.reader.length = text[:, -kept:], 0
        self.ids = text  # last, so that an interruption leaves a consistent state

    def drop(self, count: int) -> None:
        """Remove the newest `count` tokens."""
        self.ids = self.ids[:, : max(0, self.ids.shape[1] - count)]
        self.reader.length = min(self.reader.length, self.ids.shape[1])

    def logits(self) -> np.ndarray:
        """The model's logits for the next token, (B, V). The context must hold at least one token."""
        # After `drop`, the last token is run through the model again, since its logits were not saved.
        self.reader.length = min(self.reader.length, self.ids.shape[1] - 1)
        return tt.to_numpy(self.reader.logits(self.ids))

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
from tinytensor.ops.rotary import rotary_frequencies, rotary_table

FIRST_CAPACITY = 1024  # positions that there is room for at first, as many as GPT-2 has
PREFILL_CHUNK = 1024  # tokens of all texts per forward pass: enough for large products, few enough for the memory


class Store:
    """The keys and values of a GPT's layers, a row for each text, and the forward pass that adds to them.

    The rows hold the first `lengths` (B,) tokens of their texts. `buffer` (2, L, B, G, capacity, D) has all keys, then
    all values; `layers` are views of it, the keys and the values of each layer.
    """

    def __init__(self, model: GPT, batch: int, capacity: int):
        config, weight = model.config, model.transformer.ln_f.parameters()[0]  # which is never packed
        self.model, self.dtype, self.lengths = model, weight.dtype, np.zeros(batch, np.int64)
        self.device, self.kernels = tt.device(weight.device), tt.kernels_for(weight.data)
        self.shape = batch, config.kv_heads, capacity, config.head_size
        self._allocate()

    def forward(self, ids: np.ndarray) -> tt.Tensor:
        """Run the next T tokens of the first n texts, ids (n, T), through all layers: the last one's output (n, T, C).

        They are counted in `lengths` only once that is done.
        """
        transformer: Any = self.model.transformer
        count, time = ids.shape
        ends = self.lengths[:count] + time
        positions = self.device.put(ends[:, None] + np.arange(-time, 0))
        with tt.no_grad():
            x = transformer.embed(self.device.put(ids), positions)
            if time == 1 and self.model.decoder is not None and count <= self.model.decoder.most:
                x = self.model.decoder.forward(x, self.buffer, ends)
            else:
                for block, layer in zip(transformer.h, self.layers, strict=True):
                    x = block(x, functools.partial(self._attend, block.attn, layer, ends, positions))
        self.lengths[:count] = ends
        return x

    def score(self, x: tt.Tensor) -> Any:
        """The logits (n, V) for x (n, C), the last layer's output for a token of each text."""
        with tt.no_grad():
            return self.model.lm_head(self.model.transformer.ln_f(x)).data

    def _allocate(self, make: str = "empty") -> None:
        """New buffers of the current shape, by NumPy's or CuPy's function of that name."""
        self.buffer = getattr(self.device.xp, make)((2, self.model.config.n_layer, *self.shape), self.dtype)
        self.layers = list(zip(*self.buffer, strict=True))

    def _attend(self, attention, layer, ends, positions, x) -> tt.Tensor:
        """The attention's `forward` for tokens x (n, T, C); adds to its layer's keys and values.

        ends (n,), on the host: the texts' lengths with these tokens; positions (n, T): where they are.
        """
        keys, values = layer
        (count, time), (_, groups, _, size), heads = positions.shape, self.shape, attention.heads
        qkv = attention.project(x).data.reshape(count, time, heads + 2 * groups, size)
        qk, v = qkv[:, :, : heads + groups], qkv[:, :, heads + groups :]
        if attention.rotary_theta is not None:
            qk = self._rotated(qk, ends, positions, attention)
        q, k = qk[:, :, :heads], qk[:, :, heads:]
        rows = self.device.xp.arange(count)[:, None]
        keys[rows, :, positions], values[rows, :, positions] = k, v  # (n, T, G, D), as these indices come first
        y = self.kernels.cached_attention_forward(q, keys[:count], values[:count], ends, attention.scale)  # (n,T,H,D)
        return attention.c_proj(tt.Tensor(y.reshape(count, time, heads * size)))

    def _rotated(self, qk, ends, positions, attention) -> Any:
        """Queries and keys (n, T, H + G, D) rotated by their positions (n, T): as one text, with a table of its own."""
        frequencies = rotary_frequencies("cache", qk.shape[3], attention.rotary_theta, attention.frequencies)
        table = rotary_table(qk, int(ends.max()), frequencies)[positions.reshape(-1)]
        return self.kernels.rotary(qk.reshape(1, -1, *qk.shape[2:]), table, qk.shape[2]).reshape(qk.shape)


class Cache(Store):
    """A Store for texts of equal length, which grow together, and grows with them."""

    def __init__(self, model: GPT, batch: int):
        super().__init__(model, batch, min(model.config.block_size, FIRST_CAPACITY))

    @property
    def length(self) -> int:
        """Of all texts, the tokens in the cache."""
        return int(self.lengths[0])

    @length.setter
    def length(self, length: int) -> None:
        self.lengths[:] = length

    def logits(self, ids: np.ndarray) -> Any:
        """The logits (B, V) after the texts `ids` (B, T), of which the first `length` tokens are in the cache."""
        self._reserve(ids.shape[1])
        chunk = max(1, PREFILL_CHUNK // len(ids))
        while self.length < ids.shape[1]:
            x = self.forward(ids[:, self.length : self.length + chunk])
        return self.score(x[:, -1])

    def _reserve(self, length: int) -> None:
        """Make room for texts of that length: twice as much as there is, as often as needed."""
        batch, heads, capacity, size = self.shape
        while capacity < length:
            capacity = min(2 * capacity, self.model.config.block_size)
        if capacity == self.shape[2]:
            return
        self.shape, old = (batch, heads, capacity, size), self.buffer
        self._allocate()
        self.buffer[..., : self.length, :] = old[..., : self.length, :]


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

"""A forward pass that keeps what it computes: embeddings, attention weights, the residual stream, logits.

The model's own modules compute everything but attention, whose fused primitive never holds the weights of a whole row:
here it is written out, as in `tinytensor.ops.composed`. Shape letters as in `gpt.model.layers`; the batch is one text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

import tinytensor as tt
from gpt.errors import UserError
from gpt.model import GPT
from gpt.model.layers import Attention, Block


@dataclass(frozen=True)
class LayerTrace:
    """What one block did, float32. The residual stream x is what `attended` and `mlp` are added to."""

    weights: np.ndarray  # (H, T, T): row i says how much of each token 0 ... i token i takes; it sums to 1
    attended: np.ndarray  # (T, C), the output of attention
    mlp: np.ndarray  # (T, C), the output of the MLP
    x: np.ndarray  # (T, C), the residual stream after the block


@dataclass(frozen=True)
class Trace:
    """What a model did with a text of T tokens. A bigram has no layers, and its embeddings are its logits."""

    ids: np.ndarray  # (T,) int64
    tokens: np.ndarray  # (T, C), the token embeddings
    positions: np.ndarray | None  # (T, C), the position embeddings; None with rotary positions and in a bigram
    layers: tuple[LayerTrace, ...]
    logits: np.ndarray  # (T, V), those of `model(ids)`: row i scores every token as the one after token i


def trace(model: Any, ids: Any) -> Trace:
    """The Trace of a text ids (T,), 1 to block_size tokens, through a GPT or Bigram in evaluation mode.

    The weights take 4 H T^2 bytes in each layer, the logits 4 T V. Raises ValueError for a text of another size, and
    UserError for a model whose blocks are not GPT-2's.
    """
    ids = np.asarray(ids, dtype=np.int64)
    if ids.ndim != 1 or not 0 < len(ids) <= model.config.block_size:
        raise ValueError(f"ids has shape {ids.shape}: must be (T,), T from 1 to {model.config.block_size}")
    if isinstance(model, GPT) and not model.config.like_gpt2:
        raise UserError("the model has blocks like Llama's, and only GPT-2's can be looked into; choose another model")
    batch = tt.device(model.parameters()[0].device).put(ids[None])  # (1, T)
    with tt.no_grad():
        if not isinstance(model, GPT):
            logits = _host(model(batch))
            return Trace(ids, logits, None, (), logits)
        transformer: Any = model.transformer
        wpe = transformer.wpe
        x, layers = transformer.embed(batch), []
        for block in transformer.h:
            x, layer = _trace_block(block, x)
            layers.append(layer)
        positions = None if wpe is None else tt.to_numpy(wpe.weight.data[: len(ids)]).astype(np.float32)
        return Trace(ids, _host(transformer.wte(batch)), positions, tuple(layers), _host(_unembed(model, x)))


def early_logits(model: GPT, x: np.ndarray) -> np.ndarray:
    """The logits (T, V) of a residual stream x (T, C), as if the layers after it were skipped.

    This is the logit lens (nostalgebraist 2020): it shows at which layer the model's guess takes shape.
    """
    with tt.no_grad():
        return _host(_unembed(model, tt.Tensor(tt.device(model.lm_head.weight.device).put(x[None]))))


def _unembed(model: GPT, x: tt.Tensor) -> tt.Tensor:
    return model.lm_head(model.transformer.ln_f(x))


def _trace_block(block: Block, x: tt.Tensor) -> tuple[tt.Tensor, LayerTrace]:
    """`block(x)`, (1, T, C), and what led there."""
    kept: list[tt.Tensor] = []

    def attend(normed: tt.Tensor) -> tt.Tensor:
        kept.extend(_attention(block.attn, normed))
        return kept[1]

    y = block(x, attend)
    weights, attended = kept
    # `Block.forward` does not return its MLP's output, so it is computed again
    middle = x + attended
    mlp = block.mlp(block.ln_2(middle) if block.pre_norm else block.ln_1(middle))
    return y, LayerTrace(*map(_host, (weights, attended, mlp, y)))


def _attention(attention: Attention, x: tt.Tensor) -> tuple[tt.Tensor, tt.Tensor]:
    """The weights (1, H, T, T) and the output (1, T, C) of `attention(x)`."""
    _, time, channels = x.shape
    q, k, v = tt.unbind(attention.project(x), 2)  # (1,T,H,D) each
    if attention.rotary_theta is not None:
        q, k = tt.rotary(q, theta=attention.rotary_theta), tt.rotary(k, theta=attention.rotary_theta)
    q, k, v = (part.swapaxes(1, 2) for part in (q, k, v))  # (1,H,T,D) each
    scores = q @ k.mT * attention.scale  # (1,H,T,D) @ (1,H,D,T) -> (1,H,T,T)
    hidden = ~tt.array_module(scores.data).tri(time, dtype=bool)  # the causal mask: token i sees tokens 0 ... i
    p = tt.softmax(scores.masked_fill(hidden, -np.inf))
    y = (p @ v).swapaxes(1, 2).reshape(1, time, channels)  # (1,H,T,T) @ (1,H,T,D) -> (1,T,C)
    return p, attention.c_proj(y)


def _host(x: tt.Tensor) -> np.ndarray:
    """The array of the one text in a batch, on the host in float32."""
    return tt.to_numpy(x.data)[0].astype(np.float32)

"""The fast way of a GPT with packed weights through its blocks: one token of each text, by `kernels/cpu/decoder.py`.

It is for blocks as GPT-2 and Llama have them; what else `GPTConfig` offers goes the way of `gpt/model`.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import Any

import numpy as np

import tinytensor as tt
from gpt.model import GPTConfig
from gpt.model.config import GATED
from gpt.model.layers import attention_scale
from kernels.cpu.decoder import Blocks, Linear, Norm, can_decode, decode
from kernels.cpu.packed import FEW_ROWS, Packed
from tinytensor.ops.rotary import rotary_frequencies, rotary_table


def fits_decoder(config: GPTConfig) -> bool:
    """Whether a model of this configuration has such blocks, and its loops can be compiled here."""
    plain = config.norm == "pre" and not config.parallel and config.qk_norm == "none"
    return plain and config.activation in ("gelu", GATED) and can_decode()


class Decoder:
    """The blocks of a GPT.

    matrices: by the names in `gpt.model.config.LAYERS`, each stacked over the layers: values (L, O, I).
    """

    most = FEW_ROWS  # texts at a time; for more, large products are faster

    def __init__(self, model: Any, matrices: dict[str, Packed]):
        config, blocks = model.config, list(model.transformer.h)
        linear = {
            name: _linear([attrgetter(name)(block) for block in blocks], packed) for name, packed in matrices.items()
        }
        self.blocks = Blocks(
            norm_1=_norm([block.ln_1 for block in blocks]),
            qkv=linear["attn.c_attn"],
            attention_output=linear["attn.c_proj"],
            norm_2=_norm([block.ln_2 for block in blocks]),
            fc=linear["mlp.c_fc"],
            mlp_output=linear["mlp.c_proj"],
            scale=np.array([attention_scale(config, layer) for layer in range(config.n_layer)], np.float32),
            eps=config.norm_eps,
            rms=config.norm_layer == "rms",
            gated=config.activation == GATED,
        )
        attention = blocks[0].attn
        self.frequencies: tuple[float, ...] = ()
        if attention.rotary_theta is not None:
            size, theta = config.head_size, attention.rotary_theta
            self.frequencies = rotary_frequencies("decoder", size, theta, attention.frequencies)

    def forward(self, x: tt.Tensor, cache: np.ndarray, ends: np.ndarray) -> tt.Tensor:
        """x (n, 1, C) -> (n, 1, C), as the blocks; adds to cache (2, L, B, G, S, D) at position ends (n,) - 1."""
        rows = x.data[:, 0]
        table = rotary_table(rows, int(ends.max()) if self.frequencies else 0, self.frequencies)
        return tt.Tensor(decode(rows, self.blocks, cache, ends, table)[:, None])


def _norm(norms: Sequence[Any]) -> Norm:
    weight = _stacked([norm.weight for norm in norms])
    return Norm(weight, _biases(norms, weight))


def _linear(layers: Sequence[Any], weight: Packed) -> Linear:
    return Linear(*weight, _biases(layers, weight.values[..., 0]))


def _biases(layers: Sequence[Any], like: np.ndarray) -> np.ndarray:
    """Of all layers; zeros if they have none, so that there is one loop to compile, not one for each architecture."""
    if getattr(layers[0], "bias", None) is None:  # an RMS norm does not even know the word
        return np.zeros(like.shape, np.float32)
    return _stacked([layer.bias for layer in layers])


def _stacked(vectors: Sequence[tt.Tensor]) -> np.ndarray:
    return np.stack([vector.data for vector in vectors])

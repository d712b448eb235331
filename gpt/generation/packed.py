"""A model's weights laid out for decoding on the CPU, and there in fewer bits.

Writing a token reads every weight once, so the time it takes is that of reading memory: 497 MB in float32 for GPT-2's
124M parameters, 249 MB in bfloat16, 124 MB in int8. After loading, the large layers are replaced by those of this file,
whose arithmetic and storage are in `kernels/cpu/packed.py`; vectors, such as biases and norms, and learned positions
stay float32. Such a model only generates: it has no gradients and saves no weights.
"""

from typing import Any

import tinytensor as tt
from gpt.errors import UserError
from gpt.generation.decoder import Decoder, fits_decoder
from gpt.model import GPT
from gpt.model.config import GATED, LAYERS
from kernels.cpu import swiglu_forward
from kernels.cpu.memory import return_freed_memory
from kernels.cpu.packed import Packed, empty_packed, pack, packed_linear, unpack
from tinytensor import nn

WEIGHTS = ("float32", "bfloat16", "int8")
WEIGHTS_HELP = "how weights are kept in memory on the CPU: fewer bits are faster, and a little less exact"


class PackedLinear(nn.Module):
    """`nn.Linear`, or the head of a GPT, from weight (O, I) by output: x (..., I) -> (..., O)."""

    def __init__(self, weight: Packed, bias: nn.Parameter | None = None):
        self.weight, self.bias = weight, bias

    def forward(self, x: tt.Tensor) -> tt.Tensor:
        """The product, and no graph of it."""
        return tt.Tensor(packed_linear(x.data, self.weight, None if self.bias is None else self.bias.data))


class PackedGatedMLP(nn.Module):
    """`GatedMLP` of packed layers, with its activation in one pass: x (..., C) -> (..., C)."""

    def __init__(self, c_fc: PackedLinear, c_proj: PackedLinear):
        self.c_fc, self.c_proj = c_fc, c_proj

    def forward(self, x: tt.Tensor) -> tt.Tensor:
        """No graph of it, as with its layers."""
        return self.c_proj(tt.Tensor(swiglu_forward(self.c_fc(x).data)))


class PackedEmbedding(nn.Module):
    """`nn.Embedding` from weight (rows, width): ids (...) -> (..., width)."""

    def __init__(self, weight: Packed):
        self.weight = weight

    def forward(self, ids: Any) -> tt.Tensor:
        """The rows of `ids`, unpacked."""
        return tt.Tensor(unpack(self.weight.rows(tt.to_numpy(ids))))


def pack_weights(model: Any, kind: str) -> None:
    """Replace the matrices of a GPT on the CPU, one by one, by copies for decoding, `kind` one of WEIGHTS.

    On a GPU, and for other models, there is only float32, as it is. UserError if another kind was asked for there.
    """
    device = model.parameters()[0].device
    if device != "cpu" or not isinstance(model, GPT):
        if kind != "float32":
            where = f"on {device}" if isinstance(model, GPT) else "of a bigram model"
            raise UserError(f"--weights {kind}: the weights {where} are always float32; leave out --weights")
        return
    blocks: list[Any] = list(model.transformer.h)
    matrices = {name: _pack_layers(blocks, name, kind) for name in LAYERS}
    if model.config.activation == GATED:
        for block in blocks:
            block.mlp = PackedGatedMLP(block.mlp.c_fc, block.mlp.c_proj)
    _pack_vocabulary(model, kind)
    if fits_decoder(model.config):
        model.decoder = Decoder(model, matrices)
    return_freed_memory()


def _pack_layers(blocks: list[Any], name: str, kind: str) -> Packed:
    """Pack a linear layer of all blocks, one by one; their weights become views of the result, which is all of them."""
    room, layer = name.split(".")
    rooms = [getattr(block, room) for block in blocks]
    stacked = empty_packed((len(blocks), *getattr(rooms[0], layer).weight.shape[::-1]), kind)
    for i, parent in enumerate(rooms):
        linear = getattr(parent, layer)
        weight = pack(linear.weight.data.T, kind, stacked.rows(i))
        setattr(parent, layer, PackedLinear(weight, linear.bias))
    return stacked


def _pack_vocabulary(model: Any, kind: str) -> None:
    """The head and the token embedding, one copy if they are tied; in float32 their layout is already by output."""
    embedding, head = model.transformer.wte.weight, model.lm_head.weight
    packed = Packed(head.data) if kind == "float32" else pack(head.data, kind)
    model.lm_head = PackedLinear(packed)
    if kind != "float32":
        model.transformer.wte = PackedEmbedding(packed if head is embedding else pack(embedding.data, kind))

"""What of a model is trained, from its shapes alone: what has gradients, and what forward has to save for them.

A linear layer saves its input for the gradient of its weight only, so below a frozen one without an adapter there is
nothing to save; and blocks before the first one that is trained are not part of the graph.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count

from gpt.model import GPTConfig
from gpt.model.config import layer_shapes, parameter_sizes
from gpt.model.freezing import frozen_blocks, matches, split_patterns
from gpt.training.recipe import TrainConfig


@dataclass(frozen=True)
class Trained:
    """The part of a model that is trained. adapters: their values, which are not among the model's own.

    values, matrices: those with a gradient, and of them those of the blocks' matrices. blocks: how many are part of the
    graph. inputs: of each layer, in how many blocks its input is saved. head: whether the output layer is trained.
    first_norm: whether the graph begins before or with the first norm of the first of these blocks.
    """

    values: int
    matrices: int
    blocks: int
    inputs: dict[str, int]
    head: bool
    first_norm: bool = True
    adapters: int = 0
    rank: int = 0


def trained_part(kind: str, model: GPTConfig, train: TrainConfig) -> Trained:
    """What a run trains of a model."""
    outside, block = parameter_sizes(kind, model)
    shapes = layer_shapes(model) if kind == "gpt" else {}
    blocks = model.n_layer if block else 0
    if train.lora_rank:
        rank = train.lora_rank
        adapted = [shapes[name] for name in train.adapted_layers]
        adapters = blocks * rank * sum(inputs + outputs for inputs, outputs in adapted)
        inputs = {name: blocks if name in train.adapted_layers else 0 for name in shapes}
        return Trained(adapters, 0, blocks, inputs, head=False, first_norm=False, adapters=adapters, rank=rank)
    patterns = split_patterns(train.freeze)
    kept = {name for name in outside if not any(matches(name, pattern) for pattern in patterns)}
    frozen = {name: frozen_blocks(name, patterns, blocks) for name in block}
    trained = {name: blocks - len(numbers) for name, numbers in frozen.items()}
    embedded = {"transformer.wte.weight", "transformer.wpe.weight"} & kept
    begins = {name: next(i for i in count() if i not in numbers) for name, numbers in frozen.items()}
    first = min(begins.values(), default=0)
    return Trained(
        values=sum(outside[name] for name in kept) + sum(block[name] * number for name, number in trained.items()),
        matrices=sum(block[f"{name}.weight"] * trained[f"{name}.weight"] for name in shapes),
        blocks=blocks - (0 if embedded else min(first, blocks)),
        inputs={name: trained[f"{name}.weight"] for name in shapes},
        first_norm=bool(embedded) or first in (begins.get("ln_1.weight"), begins.get("ln_1.bias")),
        head=("transformer.wte.weight" if model.tied else "lm_head.weight") in kept,
    )

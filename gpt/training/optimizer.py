"""Which parameters are trained, and which optimizer updates which of them."""

from typing import Any

import tinytensor as tt
from gpt.errors import UserError
from gpt.model.freezing import freeze, split_patterns
from gpt.model.lora import add_adapters
from gpt.training.recipe import TrainConfig
from tinytensor import optim
from tinytensor.parallel import ONE_RANK, Communicator, Part, ShardedOptimizer


def choose_trained(model: Any, config: TrainConfig) -> None:
    """Freeze what a run does not train: with `--lora-rank` all but new adapters, else what `--freeze` names."""
    if config.lora_rank:
        with tt.seeded(config.seed, "adapters"):
            add_adapters(model, config.lora_rank, config.adapter_alpha, config.adapted_layers)
    elif config.freeze:
        freeze(model, split_patterns(config.freeze))


def build_optimizer(
    model: Any, config: TrainConfig, ranks: Communicator = ONE_RANK
) -> optim.Optimizer | optim.Chained | ShardedOptimizer:
    """AdamW for everything, or with `--optimizer muon` Muon for the hidden matrices and AdamW for the rest.

    Matrices and embeddings have weight decay, biases and layer norms none. Several ranks divide the state.
    """
    parts = optimizer_parts(model, config)
    if ranks.size > 1:
        return ShardedOptimizer(ranks, parts, config.shares)
    optimizers = {name: part.kind(part.groups, **part.options) for name, part in parts.items()}
    return optim.Chained(**optimizers) if len(optimizers) > 1 else optimizers["adamw"]


def optimizer_parts(model: Any, config: TrainConfig) -> dict[str, Part]:
    """The optimizers by name: AdamW, and Muon if there is one. UserError if Muon has nothing to update."""
    hidden = hidden_groups(model) if config.optimizer == "muon" else []
    taken = {id(p) for group in hidden for p in group["params"]}
    rest = [p for p in model.parameters() if p.requires_grad and id(p) not in taken]
    groups = optim.decay_groups(rest, config.weight_decay)
    adamw = Part(optim.AdamW, groups, {"lr": config.lr, "betas": (config.beta1, config.beta2)})
    if config.optimizer == "adamw":
        return {"adamw": adamw}
    if not hidden:
        raise UserError(f"--optimizer muon: --model {config.model} has no hidden matrices; use --optimizer adamw")
    muon = Part(optim.Muon, hidden, {"lr": config.muon_lr, "weight_decay": config.weight_decay})
    return {"adamw": adamw, "muon": muon}


def hidden_groups(model: Any) -> list[dict[str, Any]]:
    """The matrices that map activations to activations, with the blocks that Muon orthogonalizes separately.

    Those of an attention layer are one block per head: c_attn for queries, keys and values, and c_proj (H D, C). The
    two halves of a gated MLP's first layer are two blocks.
    """
    groups = []
    for name, p in model.named_parameters():
        if name.startswith("transformer.h.") and p.ndim == 2 and p.requires_grad:
            config, layer = model.config, name.removesuffix(".weight").split(".", 3)[-1]
            blocks = {
                "attn.c_attn": (1, config.n_head + 2 * config.kv_heads),
                "attn.c_proj": (config.n_head, 1),
                "mlp.c_fc": (1, config.fc_width // config.inner),
            }
            groups.append({"params": [p], "blocks": blocks.get(layer, (1, 1))})
    return groups

"""Which optimizer updates which parameters."""

from typing import Any

from gpt.errors import UserError
from gpt.training.recipe import TrainConfig
from tinytensor import optim


def build_optimizer(model: Any, config: TrainConfig) -> Any:
    """AdamW for everything, or with `--optimizer muon` Muon for the hidden matrices and AdamW for the rest.

    Matrices and embeddings have weight decay, biases and layer norms none.
    """
    hidden = hidden_groups(model) if config.optimizer == "muon" else []
    taken = {id(p) for group in hidden for p in group["params"]}
    rest = [p for p in model.parameters() if id(p) not in taken]
    groups = optim.decay_groups(rest, config.weight_decay)
    adamw = optim.AdamW(groups, lr=config.lr, betas=(config.beta1, config.beta2))
    if config.optimizer == "adamw":
        return adamw
    if not hidden:
        raise UserError(f"--optimizer muon: --model {config.model} has no hidden matrices; use --optimizer adamw")
    return optim.Chained(adamw=adamw, muon=optim.Muon(hidden, config.muon_lr, weight_decay=config.weight_decay))


def hidden_groups(model: Any) -> list[dict]:
    """The matrices that map activations to activations, with the blocks that Muon orthogonalizes apart.

    The fused matrix of an attention layer (C, 3C) is three: for queries, keys and values.
    """
    hidden = [(name, p) for name, p in model.named_parameters() if name.startswith("transformer.h.") and p.ndim == 2]
    fused = [p for name, p in hidden if name.endswith("attn.c_attn.weight")]
    others = [p for name, p in hidden if not name.endswith("attn.c_attn.weight")]
    return [{"params": fused, "blocks": (1, 3)}, {"params": others}] if hidden else []
